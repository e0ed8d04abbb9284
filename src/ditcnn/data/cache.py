"""Decoded images on disk, so that a set is decoded once."""

import hashlib
import json
import os
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ditcnn.data.images import ImageData, ImageSet
from ditcnn.system.caches import cache_folder
from ditcnn.system.errors import InputError

__all__ = ["cached"]

_FORMAT = "2"
_LEFT_OVER = 3600.0  # seconds after which a half-written file belongs to nobody


def cached(key: str, read: Callable[[], ImageData]) -> ImageData:
    """Return the data kept under ``key``, or ``read()`` it and keep it.

    The files lie in `ditcnn.system.caches.cache_folder` and may be deleted at any time. A file that is damaged, by as little
    as a bit, is read anew; where nothing can be written, nothing is kept, with a warning.
    """
    try:
        path = cache_folder() / f"images-{_FORMAT}-{key}.safetensors"
    except (OSError, RuntimeError) as error:  # nobody's home
        warnings.warn(f"decoded images are not kept: {error}", stacklevel=2)
        return read()
    try:
        return _load(path)
    except (OSError, SafetensorError, LookupError, ValueError, TypeError, InputError):
        data = read()
    try:
        _save(data, path)
    except (OSError, SafetensorError) as error:
        warnings.warn(f"decoded images are not kept: {error}", stacklevel=2)
    return data


def _load(path: Path) -> ImageData:
    if not path.is_file():
        raise FileNotFoundError(path)
    with safe_open(path, framework="pt") as file:
        about = file.metadata()
        train, test = (
            ImageSet(file.get_tensor(f"{part}.images"), file.get_tensor(f"{part}.labels")) for part in ("train", "test")
        )
    data = ImageData(train, test, tuple(json.loads(about["classes"])), tuple(json.loads(about["notes"])))
    if about["digest"] != _digest(data):
        raise ValueError("its content is not what was written")
    return data


def _digest(data: ImageData) -> str:
    """Return a digest of all that is kept; most of the work is `ImageData.digest`, which a run needs anyway."""
    about = (data.digest, data.train.images.shape, data.test.images.shape, data.classes, data.notes)
    return hashlib.sha256(repr(about).encode(errors="surrogatepass")).hexdigest()


def _save(data: ImageData, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    for old in path.parent.glob("images-*.tmp"):  # of a process that was killed
        if time.time() - old.lstat().st_mtime > _LEFT_OVER:
            old.unlink(missing_ok=True)
    parts = {"train": data.train, "test": data.test}
    tensors = {f"{name}.images": part.images.contiguous() for name, part in parts.items()}
    tensors |= {f"{name}.labels": part.labels.contiguous() for name, part in parts.items()}
    about = {"classes": json.dumps(data.classes), "notes": json.dumps(data.notes), "digest": _digest(data)}
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix="images-", suffix=".tmp")
    os.close(handle)
    try:
        save_file(tensors, temporary, about)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
