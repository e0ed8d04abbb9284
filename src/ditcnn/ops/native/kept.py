"""Compiled code kept in a folder that others may write to: nothing is executed that this user or root has not written whole.

A file is the code and after it a digest of its key and the code, which the system's loader does not read.
"""

import hashlib
import os
import stat
import warnings
from pathlib import Path

__all__ = ["read", "write"]

DIGEST = 32  # bytes
LARGEST = 64 << 20


class _Unfit(Exception):
    """Why a file is not trusted."""


def read(path: Path, key: str, owner: int) -> bytes | None:
    """Return the code in a file, or None where there is none that can be trusted; what is unfit is warned of.

    It must be a plain file, no link, of this owner, writable for no one else, and whole.
    """
    try:
        return _read(path, key, owner)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (_Unfit, OSError) as error:
        reason = "it is a link" if path.is_symlink() else getattr(error, "strerror", None) or error
        warnings.warn(f"the compiled kernel {path} is not used but made anew: {reason}.", stacklevel=5)
        return None


def _read(path: Path, key: str, owner: int) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise _Unfit("it is no file")
        if found.st_uid != owner:
            raise _Unfit("it belongs to another user")
        if found.st_mode & 0o022:
            raise _Unfit("others may write to it")
        content = file.read(LARGEST)
    code, digest = content[:-DIGEST], content[-DIGEST:]
    if not code or digest != _digest(key, code):
        raise _Unfit("it is not what was written")
    return code


def write(path: Path, key: str, code: bytes, work: Path) -> None:
    """Keep code in a file, whole or not at all, for all who share the folder to read; ``work`` is a folder on its disk."""
    new = work / "kept.so"
    with new.open("wb") as file:
        file.write(code + _digest(key, code))
        file.flush()
        os.fsync(file.fileno())
        os.fchmod(file.fileno(), 0o644)
    os.replace(new, path)


def _digest(key: str, code: bytes) -> bytes:
    return hashlib.sha256(key.encode() + b"\0" + code).digest()
