"""A run's folder: what lies where."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ditcnn.errors import InputError
from ditcnn.train.storage import write_atomically

__all__ = ["RunFolder", "locked_folder"]


@contextmanager
def locked_folder(path: Path, doing: str = "works") -> Iterator[None]:
    """Make the folder where it is not there, and keep other processes out of it meanwhile.

    Raises:
        InputError: Another process is ``doing`` something here, or the path is a file.
    """
    if path.exists() and not path.is_dir():
        raise InputError(f"--out {path} is a file, not a folder.")
    path.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise InputError(f"another process {doing} in {path}; wait for it, or name another --out.") from None
    try:
        yield
    finally:
        os.close(descriptor)


@dataclass(frozen=True)
class RunFolder:
    """Paths of a run: settings, records, checkpoints and the chosen model."""

    path: Path

    @property
    def config(self) -> Path:
        """Settings: `ditcnn train --config` repeats the run from them."""
        return self.path / "config.yaml"

    @property
    def environment(self) -> Path:
        """Versions, machine and commands."""
        return self.path / "env.json"

    @property
    def metrics(self) -> Path:
        """One JSON object a line, an epoch a line."""
        return self.path / "metrics.jsonl"

    @property
    def curves(self) -> Path:
        """Loss, accuracy and rate against epochs."""
        return self.path / "curves.png"

    @property
    def last(self) -> Path:
        """The newest checkpoint."""
        return self.path / "last.pt"

    @property
    def previous(self) -> Path:
        """The checkpoint before it."""
        return self.path / "previous.pt"

    @property
    def weights(self) -> Path:
        """Weights of the chosen model; with config.json, what timm's ``local-dir:`` reads."""
        return self.path / "model.safetensors"

    def holds_run(self) -> bool:
        """Say whether a run has written here."""
        files = (self.config, self.environment, self.metrics, self.curves, self.last, self.previous, self.weights)
        return any(file.exists() for file in (*files, self.path / "config.json"))

    def refuse_run(self) -> None:
        """Raise `InputError` if the folder holds a run: none is overwritten."""
        if self.holds_run():
            raise InputError(f"{self.path} holds a run. Continue it with --resume, or name another folder with --out.")

    def create(self, settings: dict[str, Any]) -> None:
        """Write the settings into the folder.

        Raises:
            InputError: The folder holds a run.
        """
        self.refuse_run()
        write_atomically(self.config, yaml.safe_dump(settings, sort_keys=False).encode())

    def locked(self) -> AbstractContextManager[None]:
        """Make the folder where it is not there, and keep other processes out of it meanwhile, as `locked_folder` does."""
        return locked_folder(self.path, "trains")
