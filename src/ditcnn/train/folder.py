"""A run's folder: what lies where."""

import json
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ditcnn.system.documents import read_json
from ditcnn.system.errors import InputError
from ditcnn.system.files import write_atomically
from ditcnn.system.locks import locked_folder

__all__ = ["RunFolder"]


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

    @property
    def failed(self) -> Path:
        """What was not finite, where that broke the run off; a run that goes on removes it."""
        return self.path / "failed.json"

    def holds_run(self) -> bool:
        """Say whether a run has written here."""
        files = (self.config, self.environment, self.metrics, self.curves, self.last, self.previous, self.weights)
        return any(file.exists() for file in (*files, self.path / "config.json"))

    def lost_checkpoints(self) -> bool:
        """Say whether there were checkpoints once: the picture comes after one, and so does a second line of the metrics."""
        if self.last.exists() or self.previous.exists():
            return False
        return self.curves.exists() or (self.metrics.exists() and self.metrics.read_bytes().count(b"\n") > 1)

    def refuse_run(self) -> None:
        """Raise `InputError` if the folder holds a run: none is overwritten."""
        if self.holds_run():
            raise InputError(f"{self.path} holds a run. Continue it with `resume`, or name another `out`.")

    def create(self, settings: dict[str, Any]) -> None:
        """Write the settings into the folder.

        Raises:
            InputError: The folder holds a run.
        """
        self.refuse_run()
        write_atomically(self.config, yaml.safe_dump(settings, sort_keys=False).encode())

    def note_failure(self, reason: str) -> None:
        """Keep why the run broke off: an experiment does not train it again."""
        write_atomically(self.failed, json.dumps({"failed": reason}).encode())

    def failure(self) -> str | None:
        """Return why the run broke off, as `note_failure` kept it; None where it did not. Errors as `read_json`."""
        if not self.failed.exists():
            return None
        found = read_json(self.failed)
        if not isinstance(found, dict) or not isinstance(found.get("failed"), str):
            raise InputError(f"{self.failed} is damaged: it does not say why the run broke off. Delete it.")
        return str(found["failed"])

    def locked(self, patience: float = 0.0) -> AbstractContextManager[None]:
        """Make the folder where it is not there, and keep other processes out of it meanwhile, as `locked_folder` does."""
        return locked_folder(self.path, "trains", patience)
