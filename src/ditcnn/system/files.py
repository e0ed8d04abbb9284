"""Files that are whole or not there: written beside, synced, renamed."""

import os
import secrets
from pathlib import Path

__all__ = ["whole_lines", "write_atomically"]


def write_atomically(path: Path, content: bytes | memoryview) -> None:
    """Write a file so that a reader, after a crash too, finds the old content or the new, never a part.

    Raises:
        OSError: The disk is full or read-only; nothing is left behind and the old file stands.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        # Where others write too, something may lie there already, as a link to a file that is to be overwritten.
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666)
        try:
            with open(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:  # a failed write does not name its file
        raise OSError(error.errno, error.strerror, str(path)) from None
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
