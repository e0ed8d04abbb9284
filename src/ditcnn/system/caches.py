"""Where things are kept that can be made again: decoded images, compiled code."""

import os
from pathlib import Path

__all__ = ["cache_folder"]


def cache_folder() -> Path:
    """Return ``$DITCNN_CACHE``, or ``ditcnn`` below ``$XDG_CACHE_HOME`` or ``~/.cache``; it may be deleted at any time."""
    if place := os.environ.get("DITCNN_CACHE"):
        return Path(place)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ditcnn"
