"""What a cell may use while it runs: images, a folder of its own, the progress bar."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ditcnn.data import ImageData
from ditcnn.experiments.sets import ImageSets

__all__ = ["Context", "cell_key"]


def cell_key(cell: dict[str, Any]) -> str:
    """Return a text that is the same for equal cells, whatever the order of their settings."""
    return json.dumps(cell, sort_keys=True, allow_nan=False)


@dataclass(frozen=True)
class Context:
    """What a cell may use while it runs.

    Args:
        sets: The data sets that are there.
        out: The experiment's folder.
        progress: Takes the done fraction of the cell, 0 to 1, and moves the bar.
    """

    sets: ImageSets
    out: Path
    progress: Callable[[float], None] = lambda fraction: None

    def images(self, name: str) -> ImageData:
        """Return the data set of a name, read once."""
        return self.sets[name]

    def folder(self, cell: dict[str, Any]) -> Path:
        """Return a folder for what a long cell keeps, the same one after a stop; it is not made here."""
        return self.out / "cells" / hashlib.sha256(cell_key(cell).encode()).hexdigest()[:16]
