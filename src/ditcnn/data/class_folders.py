"""Images in class folders: ``train/<class>/*`` and ``test/<class>/*`` (or ``val``), or ``<class>/*`` alone."""

import os
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ditcnn.data.decoding import MAX_IMAGE_BYTES, decode_image, resize
from ditcnn.data.files import Files, only_parent
from ditcnn.data.images import MAX_SIDE, ImageData, ImageSet, too_large
from ditcnn.data.names import PART_OF, classes_by_folder, hold_out_by_name, is_image, one_form, unread_pictures
from ditcnn.system.errors import InputError

__all__ = ["FORMS", "Layout", "Part", "class_folders_in", "read_class_folders"]

FORMS = (  # that a folder or archive may have, for messages
    "class folders (train/<class>/*, test/<class>/*, or <class>/* alone), tars of them, "
    "IDX files (train-images-idx3-ubyte, ...) or CIFAR's batches (cifar-10-batches-py)"
)
# One folder around the parts is allowed, as archives often have. A path is read without it where it can be: a class may be
# called train, as one of CIFAR-100's is.
_PLACE = re.compile(rf"(?P<parent>[^/]+/)??(?P<part>{'|'.join(PART_OF)})/(?P<rest>.+)")


class Part(NamedTuple):
    """The images of a part: their names in the folder or archive, and the class of each."""

    names: list[str]
    classes: list[str]


@dataclass
class Layout:
    """The parts, ``train`` and, where they are, ``test`` and ``val``; or ``all``, of class folders that stand alone."""

    parts: dict[str, Part]
    notes: tuple[str, ...] = ()

    def split(self) -> "Layout":
        """Return class folders that stand alone as ``train`` and ``test``, by a hash of their names; others as they are."""
        if "all" not in self.parts:
            return self
        whole = self.parts["all"]
        held = hold_out_by_name(classes_by_folder("", whole.names)[0])
        parts = {
            name: Part([whole.names[i] for i in indices], [whole.classes[i] for i in indices])
            for name, indices in (("train", np.flatnonzero(~held).tolist()), ("test", np.flatnonzero(held).tolist()))
        }
        note = (
            f"class folders alone, without train and test: {int(held.sum())} of {len(held)} images, chosen by a hash of "
            "their names, are the test part"
        )
        return Layout(parts, (*self.notes, note))


def class_folders_in(files: Files) -> Layout | None:
    """Return the images in class folders: ``train/<class>/*`` and ``test/<class>/*`` or ``val/<class>/*``, or ``<class>/*``.

    Raises:
        InputError: There are several sets, a class folder that is empty, or images that lie elsewhere.
    """
    images = [name for name in files.names if is_image(name)]
    notes = files.notes + unread_pictures(files.names)
    filled = {name[:end] for name in images for end, char in enumerate(name) if char == "/"}

    def refuse_empty(class_folders: Iterable[str]) -> None:
        for folder in sorted(set(class_folders) - filled):
            raise InputError(
                f"{files.path}: class folder {one_form(folder)} holds no images. Unpack it again, or remove it."
            )

    places = {folder: place for folder in files.folders if (place := _PLACE.fullmatch(folder)) and "/" not in place["rest"]}
    training = {folder for folder, place in places.items() if PART_OF[place["part"]] == "train"}
    if training:
        parents = {place["parent"] or "" for folder, place in places.items() if folder in training | filled}
        only_parent(parents, files.path, "class folders")
        below: dict[str, list[tuple[str, str]]] = defaultdict(list)  # part -> (name, name below the part)
        for name in images:
            if (place := _PLACE.fullmatch(name)) and "/" in place["rest"]:
                below[PART_OF[place["part"]]].append((name, place["rest"]))
        parts = {}
        for part, pairs in below.items():
            _, classes = classes_by_folder(f"{files.path}, {part}", [rest for _, rest in pairs])
            parts[part] = Part([name for name, _ in pairs], classes)
        refuse_empty(places)
        return Layout(parts, notes)
    if not filled:
        return None
    names, classes = classes_by_folder(str(files.path), images)
    if len(set(classes)) < 2:
        return None
    around = images[0].removesuffix(names[0])
    refuse_empty(folder for folder in files.folders if folder.startswith(around) and "/" not in folder[len(around) :])
    return Layout({"all": Part(images, classes)}, notes)


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
    sets = [sorted(zip(part.classes, part.names, strict=True)) for part in (train_part, test_part)]
    pixels = torch.from_numpy(_decode(files, [name for part in sets for _, name in part], img_size))
    images = pixels.unsqueeze(1) if pixels.ndim == 3 else pixels.permute(0, 3, 1, 2)
    number = {name: label for label, name in enumerate(classes)}
    train, test_set = (
        ImageSet(part.contiguous(), torch.tensor([number[name] for name, _ in own]))
        for part, own in zip(images.split([len(own) for own in sets]), sets, strict=True)
    )
    return ImageData(train, test_set, tuple(classes), layout.notes)


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
            f"{files.path}: {count:,} images of {size:,} bytes take {count * size / 2**30:.1f} GiB of memory, and this "
            f"machine has {memory / 2**30:.1f}. Train on them with a recipe that reads images from disk."
        )
