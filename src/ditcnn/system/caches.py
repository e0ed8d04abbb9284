"""Where things are kept that can be made again: decoded images, compiled code."""

import functools
import os
import stat
import tempfile
from pathlib import Path

__all__ = ["cache_folder"]


def cache_folder() -> Path:
    """Return ``$DITCNN_CACHE``, or ``ditcnn`` below ``$XDG_CACHE_HOME`` or ``~/.cache``; it may be deleted at any time.

    A user without a home, as in many containers, has a folder of their own among the temporary files.
    """
    if place := os.environ.get("DITCNN_CACHE"):
        return Path(place)
    if place := os.environ.get("XDG_CACHE_HOME"):
        return Path(place) / "ditcnn"
    try:
        home = Path.home()
    except RuntimeError:  # neither HOME nor an entry among the users
        return _among_temporary_files()
    caches = home / ".cache"
    nearest = next((path for path in (caches, home, *home.parents) if path.exists()), home)
    return caches / "ditcnn" if os.access(nearest, os.W_OK | os.X_OK) else _among_temporary_files()


@functools.cache
def _among_temporary_files() -> Path:
    """Return a folder that nobody else can write to, the same for each process of this user where that can be."""
    path = Path(tempfile.gettempdir(), f"ditcnn-{os.getuid()}")
    try:
        path.mkdir(mode=0o700, exist_ok=True)
        status = path.lstat()
        if stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o022:
            return path
    except OSError:
        pass
    return Path(tempfile.mkdtemp(prefix="ditcnn-"))  # somebody else's, or a link
