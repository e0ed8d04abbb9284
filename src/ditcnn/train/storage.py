"""Files that are whole or not there: written beside, synced, renamed."""

import errno
import io
import os
import zipfile
from pathlib import Path
from typing import Any

import torch

from ditcnn.train.failures import out_of_memory

__all__ = ["Damaged", "load_state", "save_state", "whole_lines", "write_atomically"]


class Damaged(Exception):
    """A checkpoint file that cannot be trusted."""


def write_atomically(path: Path, content: bytes | memoryview) -> None:
    """Write a file so that a reader, after a crash too, finds the old content or the new, never a part.

    Raises:
        OSError: The disk is full or read-only; nothing is left behind and the old file stands.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:  # a failed write does not name its file
        raise OSError(error.errno, error.strerror, str(path)) from None
    finally:
        temporary.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def whole_lines(content: bytes) -> bytes:
    r"""Return a log without a last line that was being written when its process died.

    >>> whole_lines(b"1\n2\n3"), whole_lines(b"1")
    (b'1\n2\n', b'')
    """
    return content[: content.rfind(b"\n") + 1]


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
