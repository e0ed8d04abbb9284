"""The two newest checkpoints of a run."""

import os
import shutil
from collections.abc import Callable
from typing import Any

from ditcnn.errors import InputError
from ditcnn.train.folder import RunFolder
from ditcnn.train.storage import Damaged, load_state, save_state

__all__ = ["load_newest", "remove_leftovers", "save_newest"]


def save_newest(folder: RunFolder, state: dict[str, Any]) -> None:
    """Write ``last.pt``; the one before becomes ``previous.pt``. At every instant one of the two is whole."""
    newest = folder.path / ".last.pt.new"
    save_state(newest, state)
    if folder.last.exists():
        os.replace(folder.last, folder.previous)
    os.replace(newest, folder.last)


def load_newest(folder: RunFolder, warn: Callable[[str], None]) -> dict[str, Any] | None:
    """Return the newest checkpoint that is whole, or None where there is none yet.

    Raises:
        InputError: There are checkpoints, and none can be read.
    """
    damaged = []
    for path in (folder.last, folder.previous):
        if not path.exists():
            continue
        try:
            state = load_state(path)
        except Damaged as error:
            damaged.append(path)
            warn(f"{path} is damaged ({error}); trying the one before.")
            continue
        for bad in damaged:
            bad.unlink()  # else it would become previous.pt, and push out the one that is whole
        return state
    if damaged:
        raise InputError(
            f"no checkpoint in {folder.path} can be read: {', '.join(path.name for path in damaged)} damaged. "
            "Start again with another --out."
        )
    return None


def remove_leftovers(folder: RunFolder) -> None:
    """Remove temporary files of a process that was killed while it wrote."""
    for path in (*folder.path.glob(".*.tmp"), *folder.path.glob(".*.new")):
        path.unlink()
    for path in folder.path.glob(".export-*"):
        shutil.rmtree(path)
