"""Labelled images that are read one at a time: what every form of ImageNet-sized data is opened as."""

import functools
import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image
from timm.utils import natural_key

from ditcnn.data.decoding import BadImage, decode
from ditcnn.system.errors import InputError, nearest

__all__ = ["BadImage", "ImageSource", "decode_rgb", "is_hidden", "labelled"]

SIZES_IN_DIGEST = 256  # asking a million files for their size takes minutes on a network's disk


class ImageSource(ABC):
    """Images with labels, at random access; labels index ``classes``.

    Args:
        where: Where the images come from, as messages name it.
        names: Name of each image below ``where``, in the order of the indices.
        labels: Label of each.
        classes: Names of the classes; some may have no image here, see ``absent``.
    """

    def __init__(self, where: str, names: Sequence[str], labels: Sequence[int], classes: Sequence[str]) -> None:
        self.where = where
        self.classes = tuple(classes)
        self.labels = np.asarray(labels, np.int64)
        # One array, as each worker gets a copy: a list of a million strings is several times as large, and slow to send.
        self._names = np.array([os.fsencode(name) for name in names])

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def absent(self) -> tuple[str, ...]:
        """The classes that have no image here, as may be in a part of a validation set."""
        present = set(self.labels.tolist())
        return tuple(name for label, name in enumerate(self.classes) if label not in present)

    def name(self, index: int) -> str:
        """Return an image's name below ``where``."""
        return os.fsdecode(bytes(self._names[index]))

    def path(self, index: int) -> str:
        """Return where an image lies, as messages name it."""
        return f"{self.where}/{self.name(index)}"

    def read(self, index: int) -> tuple[Image.Image, int]:
        """Return an image as RGB, and its label.

        Raises:
            BadImage: It cannot be decoded, which is a function of its bytes alone.
            OSError: It cannot be fetched.
        """
        return decode_rgb(self.content(index), self.path(index)), int(self.labels[index])

    @functools.cached_property
    def digest(self) -> str:
        """A text that changes with classes, names, labels and sizes of sampled files, but not with where they lie."""
        digest = hashlib.sha256(repr((self.classes, len(self))).encode())
        digest.update(self._names.tobytes())
        digest.update(self.labels.tobytes())
        for index in np.linspace(0, len(self) - 1, min(len(self), SIZES_IN_DIGEST)).astype(int).tolist():
            digest.update(f"{self.size(index)}\n".encode())
        return digest.hexdigest()

    @abstractmethod
    def content(self, index: int) -> bytes:
        """Return an image's undecoded bytes."""

    @abstractmethod
    def size(self, index: int) -> int:
        """Return the number of those bytes."""


def decode_rgb(content: bytes, where: str) -> Image.Image:
    """Return an image as RGB, as timm and torchvision do: grey is repeated, alpha dropped, EXIF rotation not applied.

    Published ImageNet figures are of images as they are stored; the few with an EXIF rotation stay as they lie.

    Raises:
        BadImage: The bytes are no whole image, or one of more than 8 bits, whose conversion would clip it.
    """
    return decode(content, where, lambda image: image.convert("RGB"))


def is_hidden(name: str) -> bool:
    """Say whether a file below a data set, or a folder that it lies in, is hidden."""
    return name.startswith(".") or "/." in name


def refuse_merged(where: str, folders: Iterable[str]) -> None:
    """Raise `InputError` where two folders of images have one name, which would make them one class.

    So have sets that keep a class's images one folder deeper, as ``<class>/images/*``.
    """
    seen: dict[str, str] = {}
    for folder in sorted(set(folders)):
        name = folder.rpartition("/")[2]
        if name in seen:
            both = f"{seen[name]} and {folder}"
            raise InputError(f"{where}: {both} would be one class, {name!r}; images must lie as <class>/<image>.")
        seen[name] = folder


def labelled(
    where: str, found: Sequence[tuple[str, str]], classes: Sequence[str] | None
) -> tuple[list[int], list[int], tuple[str, ...]]:
    """Return the order of images in a source, their labels in that order, and the classes.

    Args:
        where: Where the images come from.
        found: (name, class) of each image.
        classes: The classes that labels index; None: those found, in timm's order (numbers in names count as numbers).

    Raises:
        InputError: No images, images in no class folder, or of a class that is not among ``classes``.
    """
    if not found:
        raise InputError(f"{where} holds no images.")
    names = sorted({class_name for _, class_name in found}, key=lambda name: (natural_key(name), name))
    if "" in names:
        stray = next(name for name, class_name in found if not class_name)
        raise InputError(f"{where}: {stray} lies in no class folder; images must lie as <class>/<image>.")
    known = {name: label for label, name in enumerate(names if classes is None else classes)}
    strange = [name for name in names if name not in known]
    if strange:
        raise InputError(
            f"{where} has a class {strange[0]!r} that is not among the {len(known)} known ones"
            f" ({len(strange)} such).{nearest(strange[0], known)}"
        )
    order = sorted(range(len(found)), key=lambda i: (natural_key(found[i][0]), found[i][0]))
    return order, [known[found[i][1]] for i in order], tuple(known)
