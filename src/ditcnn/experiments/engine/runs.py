"""The one store of trained networks: a run is named by what decides it, so that experiments which need the same find it."""

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ditcnn.data import ImageData, channel_statistics
from ditcnn.experiments.engine.training import Run, train
from ditcnn.recipes import Recipe
from ditcnn.system.documents import read_json
from ditcnn.system.errors import InputError
from ditcnn.system.files import write_atomically
from ditcnn.system.locks import try_lock

__all__ = ["RunStore", "run_digest"]

REVISION = 1  # raised when the same recipe and images would train to other numbers than before


def run_digest(recipe: Recipe, data: ImageData) -> str:
    """Return the name of a run: a digest of its recipe and its images.

    Of the recipe the fields that differ from the defaults count, so that a field which comes later renames no run.
    """
    decides = {"recipe": _changed(recipe), "data": data.digest, "revision": REVISION}
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:16]


def _changed(recipe: Recipe) -> dict[str, Any]:
    defaults = dataclasses.asdict(Recipe())
    return {name: value for name, value in dataclasses.asdict(recipe).items() if value != defaults[name]}


@dataclass(frozen=True)
class RunStore:
    """``runs/DIGEST/`` for each run, beside the folders of the experiments.

    Args:
        root: The folder of all runs; it need not be there.
        experiment: Who asks: noted in ``origin.json`` of the runs that it trains.
    """

    root: Path
    experiment: str

    def train(self, recipe: Recipe, data: ImageData, progress: Callable[[float], None]) -> Run:
        """Train by a recipe, go on with a run that was stopped, or return one that has ended, whoever trained it.

        A process that trains the same run is waited for.

        Args:
            recipe: What to compute; a normalisation that it leaves open is that of the training images.
            data: The images.
            progress: Takes the fraction done, 0 to 1.

        Raises:
            InputError: A finished run has lost its checkpoint: it is not trained again on top of it.
            RunFailed: The machine could not do it, as for want of memory.
            Stopped: SIGTERM or SIGINT came; a checkpoint is saved, of the whole run where it came in its last moments.
        """
        if not recipe.mean:
            mean, std = channel_statistics(data.train)
            recipe = dataclasses.replace(recipe, mean=mean, std=std)
        folder = self.root / run_digest(recipe, data)
        folder.mkdir(parents=True, exist_ok=True)
        with _alone(self.root / f".{folder.name}.lock"):
            origin = folder / "origin.json"
            if not origin.exists():
                about = {"experiment": self.experiment, "recipe": _changed(recipe), "data": data.digest}
                write_atomically(origin, (json.dumps(about, indent=1) + "\n").encode())
            return train(recipe, data, folder, progress)

    def record(self, run: Run) -> dict[str, Any]:
        """Return where a run lies, which experiment trained it, and what it ran on, for a cell's numbers.

        A run that another experiment trained may be of another commit, with other versions, than the cell that quotes it.

        Raises:
            InputError: ``origin.json`` is damaged.
        """
        trained_by = _trained_by(run.folder)
        about = {"trained_by": trained_by, "taken_over": trained_by != self.experiment}
        return {"folder": f"runs/{run.folder.name}"} | about | {"launches": run.launches}


def _trained_by(folder: Path) -> str:
    found = read_json(path := folder / "origin.json")
    if not isinstance(found, dict) or not isinstance(found.get("experiment"), str):
        raise InputError(
            f"{path} is damaged: it does not say which experiment trained the run. Delete {folder}: it trains again."
        )
    return str(found["experiment"])


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Wait until no other process holds the lock, and hold it meanwhile."""
    with path.open("ab") as file:
        while not try_lock(file.fileno()):
            time.sleep(1)
        yield
