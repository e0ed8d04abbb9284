"""Images in class folders: ``train/<class>/*`` and ``test/<class>/*`` (or ``val``), below a folder or in an archive."""

import re
from collections import defaultdict

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torchvision.datasets.folder import IMG_EXTENSIONS

from ditcnn.data.decoding import decode
from ditcnn.data.files import Files, only_parent
from ditcnn.data.images import ImageData, ImageSet
from ditcnn.system.errors import InputError

__all__ = ["decode_image", "has_class_folders", "read_class_folders"]

# One folder around train/ and test/ is allowed, as archives often have. A path is read without it where it can be: a class
# may be called train, as one of CIFAR-100's is.
_PLACE = re.compile(r"(?P<parent>[^/]+/)??(?P<part>train|test|val)/(?P<class_name>[^/]+)(?:/(?P<file>[^/]+))?")


def has_class_folders(files: Files) -> bool:
    """Say whether there is a folder ``train/<class>``."""
    return any((m := _PLACE.fullmatch(name)) and m["part"] == "train" and not m["file"] for name in files.folders)


def read_class_folders(files: Files) -> ImageData:
    """Decode all images. Class order is alphabetical; ``test`` is taken before ``val``.

    Images become grey (one channel) where all are, else RGB; EXIF rotation is applied.

    Raises:
        InputError: No test part, a class folder that is empty or missing in one part, an image that cannot be read, or
            images of several sizes.
    """
    parts = _images_by_part(files)
    test = "test" if "test" in parts else "val"
    if test not in parts:
        raise InputError(f"{files.path} has a folder train but no folder test (or val) beside it.")
    classes = sorted(parts["train"])
    for part in ("train", test):
        for name in sorted(set(classes) ^ set(parts[part])):
            lacking = part if name in classes else "train"
            raise InputError(f"{files.path}: class {name!r} has no folder {lacking}/{name}; both parts need each class.")
        for name, images in parts[part].items():
            if not images:
                raise InputError(f"{files.path}: class folder {part}/{name} holds no images.")
    decoded = {part: _decode_part(files, parts[part], classes) for part in ("train", test)}
    if any(image.ndim == 3 for images, _ in decoded.values() for image in images):
        decoded = {part: ([_as_rgb(image) for image in images], labels) for part, (images, labels) in decoded.items()}
    sets = {part: _stack(images, labels) for part, (images, labels) in decoded.items()}
    return ImageData(sets["train"], sets[test], tuple(classes))


def decode_image(content: bytes, where: str) -> NDArray[np.uint8]:
    """Return an image as ``[H, W]`` if it is grey, else as RGB ``[H, W, 3]``.

    Raises:
        InputError: The bytes are no readable image, or one of more than 8 bits; the message names ``where``.
    """
    return np.asarray(decode(content, where, _upright))


def _upright(image: Image.Image) -> Image.Image:
    image = ImageOps.exif_transpose(image)
    return image.convert("L" if image.mode in ("1", "L", "LA") else "RGB")


def _images_by_part(files: Files) -> dict[str, dict[str, list[str]]]:
    """Return part -> class -> names of its image files."""
    parts: dict[str, dict[str, list[str]]] = defaultdict(dict)
    parents = set()
    for name in sorted(files.folders) + files.names:
        place = _PLACE.fullmatch(name)
        if place is None:
            continue
        if place["file"]:
            if not place["file"].lower().endswith(IMG_EXTENSIONS):
                continue
            parts[place["part"]].setdefault(place["class_name"], []).append(name)
        elif name in files.folders:
            parts[place["part"]].setdefault(place["class_name"], [])
        else:
            continue
        parents.add(place["parent"] or "")
    only_parent(parents, files.path, "class folders")
    return parts


def _decode_part(
    files: Files, by_class: dict[str, list[str]], classes: list[str]
) -> tuple[list[NDArray[np.uint8]], list[int]]:
    images: list[NDArray[np.uint8]] = []
    labels = []
    for label, class_name in enumerate(classes):
        for name in by_class[class_name]:
            image = decode_image(files.read(name), files.where(name))
            if images and image.shape[:2] != images[0].shape[:2]:
                sizes = " and ".join(f"{w}x{h}" for h, w in (images[0].shape[:2], image.shape[:2]))
                raise InputError(
                    f"images must have one size to be kept in memory; found {sizes} (the latter is {files.where(name)}). "
                    "Resize them first."
                )
            images.append(image)
            labels.append(label)
    return images, labels


def _as_rgb(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return image if image.ndim == 3 else np.repeat(image[:, :, None], 3, axis=2)


def _stack(images: list[NDArray[np.uint8]], labels: list[int]) -> ImageSet:
    pixels = torch.from_numpy(np.stack(images))
    pixels = pixels.unsqueeze(1) if pixels.ndim == 3 else pixels.permute(0, 3, 1, 2)
    return ImageSet(pixels.contiguous(), torch.tensor(labels))
