"""Checkpoints as files: tensors, containers, numbers and text, verified when they are read."""

import errno
import io
import zipfile
from pathlib import Path
from typing import Any

import torch

from ditcnn.system.failures import out_of_memory
from ditcnn.system.files import write_atomically

__all__ = ["Damaged", "load_state", "save_state"]


class Damaged(Exception):
    """A checkpoint file that cannot be trusted."""


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint of tensors, containers, numbers and text."""
    buffer = io.BytesIO()  # torch.save into a full disk raises RuntimeError without the reason
    torch.save(state, buffer)
    write_atomically(path, buffer.getbuffer())


def load_state(path: Path) -> dict[str, Any]:
    """Read a checkpoint, without running code from it.

    Raises:
        Damaged: The file is cut off, altered or no checkpoint.
        OSError: It cannot be opened, or the disk fails.
        MemoryError: There is too little memory for it.
    """
    try:
        with zipfile.ZipFile(path) as archive:  # torch.load itself does not verify the checksums
            if archive.testzip() is not None:
                raise Damaged("its checksum does not match")
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (Damaged, MemoryError):
        raise
    except Exception as error:  # a damaged archive can raise anything
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):  # EINVAL: a seek to where no file ends
            raise
        if out_of_memory(error):
            raise MemoryError(str(error)) from None
        raise Damaged((str(error) or type(error).__name__).splitlines()[0]) from None
    if not isinstance(state, dict):
        raise Damaged("it holds no state")
    return state
