"""Decoded images on disk, so that a set is decoded once."""

import json
import os
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ditcnn.data.images import ImageData, ImageSet
from ditcnn.system.caches import cache_folder

__all__ = ["cached"]

_FORMAT = "1"


def cached(key: str, read: Callable[[], ImageData]) -> ImageData:
    """Return the data kept under ``key``, or ``read()`` it and keep it.

    The files lie in `ditcnn.system.caches.cache_folder` and may be deleted at any time. A damaged file is read anew; where
    nothing can be written, nothing is kept, with a warning.
    """
    path = cache_folder() / f"images-{_FORMAT}-{key}.safetensors"
    try:
        return _load(path)
    except (OSError, SafetensorError, KeyError, ValueError):
        data = read()
    try:
        _save(data, path)
    except (OSError, SafetensorError) as error:
        warnings.warn(f"decoded images are not kept: {error}", stacklevel=2)
    return data


def _load(path: Path) -> ImageData:
    with safe_open(path, framework="pt") as file:
        classes = json.loads(file.metadata()["classes"])
        train, test = (
            ImageSet(file.get_tensor(f"{part}.images"), file.get_tensor(f"{part}.labels")) for part in ("train", "test")
        )
    return ImageData(train, test, tuple(classes))


def _save(data: ImageData, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {
        f"{name}.{kind}": getattr(part, kind)
        for name, part in (("train", data.train), ("test", data.test))
        for kind in ("images", "labels")
    }
    handle, temporary = tempfile.mkstemp(dir=path.parent)
    os.close(handle)
    try:
        save_file(tensors, temporary, {"classes": json.dumps(data.classes)})
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
