"""Checkpoints as files: tensors, containers, numbers and text, with a digest of their own."""

import errno
import hashlib
import io
import zipfile
from pathlib import Path
from typing import Any

import torch

from ditcnn.system.failures import out_of_memory
from ditcnn.system.files import write_atomically

__all__ = ["Damaged", "load_state", "save_state"]

_MARK = b"sha256 "
_LENGTH = len(_MARK) + 64  # of the digest as the archive's comment, which other readers pass over


class Damaged(Exception):
    """A checkpoint file that cannot be trusted."""


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint of tensors, containers, numbers and text; its last bytes are the digest of all before."""
    buffer = io.BytesIO()  # torch.save into a full disk raises RuntimeError without the reason
    torch.save(state, buffer)
    buffer.seek(-2, io.SEEK_END)
    buffer.write(_LENGTH.to_bytes(2, "little"))  # the length of the zip archive's comment
    buffer.write(_MARK + hashlib.sha256(buffer.getbuffer()).hexdigest().encode())
    write_atomically(path, buffer.getbuffer())


def load_state(path: Path) -> dict[str, Any]:
    """Read a checkpoint, without running code from it; what is read is what was checked.

    Raises:
        Damaged: The file is cut off, altered or no checkpoint.
        OSError: It cannot be opened, or the disk fails.
        MemoryError: There is too little memory for it.
    """
    try:
        content = path.read_bytes()
        _check(content)
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
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


def _check(content: bytes) -> None:
    body, mark = content[:-_LENGTH], content[-_LENGTH:]
    if mark.startswith(_MARK):
        if hashlib.sha256(body).hexdigest().encode() != mark[len(_MARK) :]:
            raise Damaged("its digest does not match")
        return
    with zipfile.ZipFile(io.BytesIO(content)) as archive:  # of an earlier version: checksums alone
        if archive.comment:
            raise Damaged("its digest does not match")
        if archive.testzip() is not None or any(record.is_dir() for record in archive.infolist()):
            raise Damaged("its checksum does not match")
