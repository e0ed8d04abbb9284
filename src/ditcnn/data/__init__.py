"""Where images come from, and batches of them."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from ditcnn.data.cache import cached
from ditcnn.data.cifar import cifar_in, download_cifar, read_cifar
from ditcnn.data.class_folders import FORMS, class_folders_in, read_class_folders
from ditcnn.data.datasets import DatasetSource, from_arrays
from ditcnn.data.decoding import decode_image, resize
from ditcnn.data.digits import read_digits
from ditcnn.data.files import Files, fingerprint, open_files
from ditcnn.data.idx import has_idx, read_idx
from ditcnn.data.images import MAX_SIDE, ImageData, ImageSet, channel_statistics, too_large
from ditcnn.system.errors import InputError

__all__ = [
    "DataName",
    "DatasetSource",
    "ImageData",
    "ImageSet",
    "channel_statistics",
    "decode_image",
    "from_arrays",
    "open_data",
    "resized",
]

DataName = Literal["digits", "cifar10", "cifar100"]
LARGEST = 1024  # of img_size


def open_data(
    path: Path | None, name: DataName, img_size: int | None = None, say: Callable[[str], None] = lambda message: None
) -> ImageData:
    """Return the images at ``path``, or without one the set called ``name``.

    Args:
        path: A folder in torchvision's CIFAR format; class folders ``train/<class>/*`` and ``test/<class>/*``, or
            ``<class>/*`` alone, of which a tenth is the test part by a hash of the names, or a tar of them; IDX
            files as MNIST's, in a folder or tar. EXIF orientation is applied.
        name: The set to take without a path: scikit-learn's digits, or CIFAR below ``./data``, downloaded when absent.
            With a path it decides between CIFAR-10 and CIFAR-100 where both lie there.
        img_size: Height and width to which all images are brought, bicubic, their aspect not kept. None: they stay as they
            are, and may have at most 64 pixels a side.
        say: Is told where images are to be decoded, which takes a while; later they come from a cache.

    Raises:
        InputError: There is nothing to read at ``path``, or what is there is damaged, too large, or too much.
    """
    if img_size is not None and not 1 <= img_size <= LARGEST:
        raise InputError(f"img_size must be from 1 to {LARGEST}; got {img_size}.")
    if path is not None:
        key = f"{fingerprint(path)[:32]}-{name}" + ("" if img_size is None else f"-{img_size}")

        def read() -> ImageData:
            say(f"decoding the images of {path}; the next time they come from the cache")
            return _read(open_files(path), name, img_size)

        return cached(key, read)
    if name == "digits":
        return _sized(read_digits(), "digits", img_size)
    download_cifar(Path("data"), name)
    return _sized(read_cifar(open_files(Path("data")), name), name, img_size)


def _read(files: Files, name: DataName, img_size: int | None) -> ImageData:
    kinds = cifar_in(files)
    if kinds:
        return _sized(read_cifar(files, name if name in kinds else kinds[0]), str(files.path), img_size)
    if has_idx(files):
        return _sized(read_idx(files), str(files.path), img_size)
    if layout := class_folders_in(files):
        return read_class_folders(files, layout, img_size)
    raise InputError(f"{files.path} holds no images of a known form: {FORMS}.")


def _sized(data: ImageData, where: str, img_size: int | None) -> ImageData:
    """Return data with images of a size, or as they are if they are small."""
    _, height, width = data.image_shape
    if img_size is None:
        if max(height, width) > MAX_SIDE:
            raise too_large(where, height, width)
        return data
    return replace(data, train=resized(data.train, img_size), test=resized(data.test, img_size))


def resized(part: ImageSet, size: int) -> ImageSet:
    """Return images brought to a size, their aspect not kept."""
    images = np.empty((len(part), part.images.shape[1], size, size), np.uint8)
    for row, image in enumerate(part.images.numpy()):
        images[row] = [resize(channel, size) for channel in image]
    return ImageSet(torch.from_numpy(images), part.labels)
