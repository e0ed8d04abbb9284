"""Files read within a limit, and written whole or not at all."""

import os
import secrets
import stat
from pathlib import Path

from ditcnn.system.errors import InputError

__all__ = ["check_size", "read_file", "whole_lines", "write_atomically"]


def read_file(path: Path, limit: int) -> bytes:
    """Return the content of a regular file.

    Raises:
        InputError: It is none (a pipe or a device would not end), or has more than ``limit`` bytes.
        OSError: It cannot be read.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"{path} is a folder, a pipe or a device; it must be a file.")
    check_size(str(path), status.st_size, limit)
    with path.open("rb") as file:
        return file.read(limit)


def check_size(where: str, size: int, limit: int) -> None:
    """Raise `InputError` where a file has more than ``limit`` bytes."""
    if size > limit:
        raise InputError(f"{where} has {size:,} bytes; at most {limit:,} are read.")


def write_atomically(path: Path, content: bytes | memoryview) -> None:
    """Write a file so that a reader, after a crash too, finds the old content or the new, never a part.

    Raises:
        OSError: The disk is full or read-only; nothing is left behind and the old file stands.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        # Where others may write too, the name may be there already: a link to a file that is none of theirs.
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666), "wb") as file:
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
