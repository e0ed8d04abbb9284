"""The one place where experiments meet the training engine: a run in a folder, and the networks that it leaves."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ditcnn.data import ImageData
from ditcnn.recipes import Recipe
from ditcnn.system.display import Display
from ditcnn.system.environment import read_launches
from ditcnn.system.errors import Diverged
from ditcnn.system.signals import Stopped
from ditcnn.train import RunFolder, TrainedModel, build_model, evaluate, fit, load_model
from ditcnn.train.checkpoint import load_newest
from ditcnn.train.metrics import read_metrics
from ditcnn.train.optim import lr_factor, make_optimizer, set_lr

__all__ = [
    "Run", "TrainedModel", "build", "chosen_model", "evaluate", "last_model", "lr_factor", "make_optimizer", "set_lr",
    "train",
]  # fmt: skip


@dataclass(frozen=True)
class Run:
    """A run that has ended.

    Args:
        folder: Where it lies; ``ditcnn eval`` and ``report`` read it.
        result: The last line of its metrics; empty where it broke off.
        epochs: The metrics of each epoch that it finished.
        launches: What it ran on: command, commit, versions, machine of each process.
        failed: What was not finite, where that broke it off.
    """

    folder: Path
    result: dict[str, Any]
    epochs: list[dict[str, Any]]
    launches: list[dict[str, Any]]
    failed: str | None


def train(recipe: Recipe, data: ImageData, path: Path, progress: Callable[[float], None]) -> Run:
    """Train in a folder, or go on with what lies there; a run that broke off is not repeated. `RunStore.train` says more."""
    folder = RunFolder(path)
    failed, result = folder.failure(), {}
    if failed is None:
        try:
            fitted = fit(None, data, recipe=recipe, out=path, resume=True, device="auto", display=_BarAlone(progress))
            result = fitted.summary
            if fitted.signum is not None:  # too late for the run to stop; what would come after it shall not begin
                raise Stopped(fitted.signum)
        except Diverged as error:
            failed = str(error)
    epochs = [line for line in _metrics(folder) if "train_loss" in line]
    return Run(path, result, epochs, read_launches(folder.environment), failed)


def build(recipe: Recipe, data: ImageData) -> torch.nn.Module:
    """Return the untrained network of a recipe, for images of this shape and these classes."""
    return build_model(recipe.model, data.image_shape, len(data.classes), **recipe.model_arguments())


def chosen_model(run: Run) -> TrainedModel:
    """Return the network of the epoch that was chosen, on the CPU."""
    return load_model(run.folder)


def last_model(run: Run, recipe: Recipe, data: ImageData) -> TrainedModel:
    """Return the network of the last epoch, which need not be the one that was chosen, on the CPU."""
    found = load_newest(RunFolder(run.folder), lambda message: None)
    assert found is not None, "a finished run has a checkpoint"
    state, _ = found
    layout = torch.channels_last if recipe.channels_last else torch.contiguous_format
    model = build(recipe, data).to(memory_format=layout)  # type: ignore[call-overload]
    model.load_state_dict(state["model"])
    mean, std = (tuple(state["recipe"][name]) for name in ("mean", "std"))
    return TrainedModel(model.eval(), data.classes, data.image_shape, mean, std)


def _metrics(folder: RunFolder) -> list[dict[str, Any]]:
    return read_metrics(folder.metrics) if folder.metrics.exists() else []


class _BarAlone(Display):
    """A display that moves the experiment's bar and prints warnings alone."""

    def __init__(self, progress: Callable[[float], None]) -> None:
        super().__init__()
        self.tell = progress

    @contextmanager
    def bar(self, total: float, done: float, description: str = "") -> Iterator[None]:
        """Count steps meanwhile."""
        self.total, self.done = total, done
        yield

    def step(self, description: str, images_per_s: float = 0.0) -> None:
        """Count one step."""
        self.done += 1
        self.tell(self.done / self.total)

    def say(self, message: str) -> None:
        """Say nothing: the run's own record has it."""
