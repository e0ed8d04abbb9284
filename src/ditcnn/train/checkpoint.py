"""The two newest checkpoints of a run."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ditcnn.system.errors import InputError, RunFailed
from ditcnn.train.folder import RunFolder
from ditcnn.train.storage import Damaged, load_state, save_state

__all__ = ["clean", "load_newest", "save_newest"]


def save_newest(folder: RunFolder, state: dict[str, Any]) -> None:
    """Write ``last.pt``; the one before becomes ``previous.pt``. At every instant one of the two is whole."""
    newest = folder.path / ".last.pt.new"
    save_state(newest, state)
    if folder.last.exists():
        os.replace(folder.last, folder.previous)
    os.replace(newest, folder.last)


def load_newest(folder: RunFolder, warn: Callable[[str], None]) -> tuple[dict[str, Any], Path] | None:
    """Return the newest checkpoint that is whole and its file, or None where there is none yet. Changes nothing.

    Raises:
        InputError: There are checkpoints, and none can be read.
        RunFailed: There is too little memory to read one.
    """
    damaged = []
    for path in (folder.last, folder.previous):
        try:
            return load_state(path), path
        except FileNotFoundError:
            continue
        except MemoryError as error:
            raise RunFailed(f"too little memory to read {path}: {error}") from None
        except Damaged as error:
            damaged.append(path.name)
            warn(f"{path} is damaged ({error}); trying the one before.")
    if damaged:
        raise InputError(
            f"no checkpoint in {folder.path} can be read: {', '.join(damaged)} damaged. Start again with another --out."
        )
    return None


def clean(folder: RunFolder, restored_from: Path | None) -> None:
    """Remove temporary files of a process that was killed while it wrote, and a damaged newest checkpoint.

    The latter would else become ``previous.pt`` and push out the one that is whole.
    """
    if restored_from == folder.previous:
        folder.last.unlink(missing_ok=True)
    for path in (*folder.path.glob(".*.tmp"), *folder.path.glob(".*.new")):
        path.unlink()
    for path in folder.path.glob(".export-*"):
        shutil.rmtree(path)
