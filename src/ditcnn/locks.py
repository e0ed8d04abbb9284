"""Locks on files, which keep a second process out of what the first one writes."""

import errno
import fcntl
import warnings

__all__ = ["try_lock"]


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
