"""Images in class folders, decoded: ``train/<class>/*`` and ``test/<class>/*`` (or ``val``), or ``<class>/*`` alone."""

import os

import numpy as np
import torch
from numpy.typing import NDArray

from ditcnn.data.decoding import MAX_IMAGE_BYTES, decode_image, resize
from ditcnn.data.files import Files
from ditcnn.data.images import MAX_SIDE, ImageData, ImageSet, too_large
from ditcnn.data.layout import Layout
from ditcnn.system.errors import InputError

__all__ = ["read_class_folders"]


def read_class_folders(files: Files, layout: Layout, img_size: int | None = None) -> ImageData:
    """Decode all images. Class order is alphabetical; ``test`` is taken before ``val``.

    Images become grey (one channel) where all are, else RGB; EXIF rotation is applied.

    Args:
        files: The folder or archive.
        layout: Its class folders.
        img_size: Height and width to which images are brought; None: they have one size, of at most `MAX_SIDE`.

    Raises:
        InputError: No test part, a class that is missing in one part, an image that cannot be read, images of several sizes,
            or more than fit into memory.
    """
    layout = layout.split()
    test = "test" if "test" in layout.parts else "val"
    if test not in layout.parts:
        raise InputError(f"{files.path} has a folder train but no folder test (or val) beside it.")
    if "train" not in layout.parts:
        raise InputError(f"{files.path}: folder train holds no images.")
    train_part, test_part = layout.parts["train"], layout.parts[test]
    classes = sorted(set(train_part.classes))
    for name in sorted(set(classes) ^ set(test_part.classes)):
        lacking = test if name in classes else "train"
        raise InputError(f"{files.path}: class {name!r} has no folder {lacking}/{name}; both parts need each class.")
    pixels = _decode(files, [*train_part.names, *test_part.names], img_size)
    number = {name: label for label, name in enumerate(classes)}
    labels = torch.tensor([number[name] for name in (*train_part.classes, *test_part.classes)])
    # By class, and by name within it.
    names = np.array([*train_part.names, *test_part.names])
    count = len(train_part.names)
    order = [np.lexsort((names[part], labels.numpy()[part])) + start for part, start in (
        (slice(None, count), 0), (slice(count, None), count)
    )]  # fmt: skip
    images = torch.from_numpy(pixels)
    images = images.unsqueeze(1) if images.ndim == 3 else images.permute(0, 3, 1, 2)
    sets = [ImageSet(images[torch.from_numpy(o)].contiguous(), labels[torch.from_numpy(o)]) for o in order]
    return ImageData(sets[0], sets[1], tuple(classes), layout.notes)


def _decode(files: Files, names: list[str], img_size: int | None) -> NDArray[np.uint8]:
    """Return the images, ``[N, H, W]`` if all are grey, else ``[N, H, W, 3]``."""
    row = {name: i for i, name in enumerate(names)}
    pixels: NDArray[np.uint8] | None = None
    for name, content in files.read_all(names, MAX_IMAGE_BYTES):
        image = decode_image(content, files.where(name))
        if img_size is not None:
            image = resize(image, img_size)
        elif max(image.shape[:2]) > MAX_SIDE:
            raise too_large(files.where(name), *image.shape[:2])
        if pixels is None:
            _refuse_too_many(files, len(names), image.nbytes)
            pixels = np.empty((len(names), *image.shape), np.uint8)
        if image.shape[:2] != pixels.shape[1:3]:
            sizes = " and ".join(f"{w}x{h}" for h, w in (pixels.shape[1:3], image.shape[:2]))
            raise InputError(
                f"images must have one size to be kept in memory; found {sizes} (the latter is {files.where(name)}). "
                "Name a size to which all are brought (img_size), or resize them first."
            )
        if image.ndim > pixels.ndim - 1:
            pixels = np.repeat(pixels[..., None], 3, axis=3)
        pixels[row[name]] = image if image.ndim == pixels.ndim - 1 else image[..., None]
    assert pixels is not None  # a part without images is none
    return pixels


def _refuse_too_many(files: Files, count: int, size: int) -> None:
    """Raise unless the images fit into half of the machine's memory."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if count * size > memory / 2:
        raise InputError(
            f"{files.path}: {count:,} images of {size:,} bytes take {count * size / 2**30:.1f} GiB of memory, and "
            f"this machine "
            f"has {memory / 2**30:.1f}. Train on them with a recipe that reads images from disk."
        )
