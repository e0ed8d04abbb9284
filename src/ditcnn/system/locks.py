"""Locks on files, which keep a second process out of what the first one writes."""

import errno
import fcntl
import os
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ditcnn.system.errors import InputError

__all__ = ["locked_folder", "try_lock"]


def try_lock(descriptor: int) -> bool:
    """Lock an open file; say whether no other process holds it. The lock goes with the last copy of the descriptor.

    A disk without locks, as Lustre mounted without flock, is gone on with, with a warning.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP):
            raise
        warnings.warn("the disk has no locks: see yourself that one process alone writes there.", stacklevel=3)
    return True


@contextmanager
def locked_folder(path: Path, doing: str = "works", patience: float = 0.0) -> Iterator[None]:
    """Make the folder where it is not there, and keep other processes out of it meanwhile, by a lock on its file ``.lock``.

    Args:
        path: The folder.
        doing: What the message says that another process does.
        patience: Seconds to wait for a process that is ending.

    Raises:
        InputError: Another process is ``doing`` something here, or the path is a file.
    """
    if path.exists() and not path.is_dir():
        raise InputError(f"`out` {path} is a file, not a folder.")
    path.mkdir(parents=True, exist_ok=True)
    # NFS locks only what is open for writing, which the folder itself cannot be. The file stays: to remove it would let two
    # processes lock two files of one name.
    descriptor = os.open(path / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
    end = time.monotonic() + patience
    while not try_lock(descriptor):
        if time.monotonic() >= end:
            os.close(descriptor)
            raise InputError(f"another process {doing} in {path}; wait for it, or name another `out`.")
        time.sleep(0.1)
    try:
        yield
    finally:
        os.close(descriptor)
