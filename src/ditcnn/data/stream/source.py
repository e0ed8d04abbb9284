"""Labelled images that are read one at a time: what every form of ImageNet-sized data is opened as."""

import functools
import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from ditcnn.data.decoding import BadImage, decode_rgb
from ditcnn.data.names import natural_key, one_form
from ditcnn.system.errors import InputError, nearest

__all__ = ["BadImage", "FileSource", "ImageSource", "decode_rgb", "labelled", "subset"]


class ImageSource(ABC):
    """Images with labels, at random access; labels index ``classes``.

    Args:
        where: Where the images come from, as messages name it.
        names: Name of each image below ``where``, in the order of the indices.
        labels: Label of each.
        classes: Names of the classes; some may have no image here, see ``absent``.
    """

    notes: tuple[str, ...] = ()
    """What a person should be told of the images: how they were split, what was left out."""
    draws: bool = False
    """Whether `read` may draw from the global generators, as the transforms of a user's own dataset do."""
    upright: bool = False
    """Whether `read` turns images as their EXIF orientation says."""
    samples_in_digest = 256  # asking a million files for their size takes minutes on a network's disk

    def __init__(self, where: str, names: Sequence[str], labels: ArrayLike, classes: Sequence[str]) -> None:
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

    @functools.cached_property
    def digest(self) -> str:
        """A text that changes with classes, names, labels and marks of sampled images, but not with where they lie."""
        digest = hashlib.sha256(repr((self.classes, len(self))).encode())
        names = self._names
        if not names.tobytes().isascii():  # in one Unicode form, so that a copy on another system has the same digest
            names = np.array([os.fsencode(one_form(os.fsdecode(bytes(name)))) for name in names])
        digest.update(names.tobytes())
        digest.update(self.labels.tobytes())
        for index in np.linspace(0, len(self) - 1, min(len(self), self.samples_in_digest)).astype(int).tolist():
            digest.update(self.mark(index))
        return digest.hexdigest()

    @abstractmethod
    def read(self, index: int) -> tuple[Any, int]:
        """Return an image, as RGB, and its label.

        Raises:
            BadImage: It cannot be decoded, which is a function of its bytes alone.
            OSError: It cannot be fetched.
        """

    @abstractmethod
    def mark(self, index: int) -> bytes:
        """Return what tells an image from another of its name, at little cost."""


class FileSource(ImageSource):
    """Images that are bytes of a file, or of a part of one."""

    def read(self, index: int) -> tuple[Image.Image, int]:
        """Return an image as RGB, and its label; errors as those of `ImageSource.read`."""
        try:
            content = self.content(index)
        except InputError as error:
            raise BadImage(str(error)) from None
        return decode_rgb(content, self.path(index), self.upright), int(self.labels[index])

    def mark(self, index: int) -> bytes:
        """Return the size of its file."""
        return f"{self.size(index)}\n".encode()

    @abstractmethod
    def content(self, index: int) -> bytes:
        """Return an image's undecoded bytes."""

    def size(self, index: int) -> int:
        """Return the number of those bytes."""
        return len(self.content(index))


class _Subset(ImageSource):
    def __init__(self, source: ImageSource, indices: NDArray[np.int64]) -> None:
        self.where, self.classes, self.notes = source.where, source.classes, source.notes
        self.upright, self.draws = source.upright, source.draws
        self.labels = source.labels[indices]
        self._names = source._names[indices]
        self._source, self._indices = source, indices
        self.samples_in_digest = source.samples_in_digest

    def path(self, index: int) -> str:
        return self._source.path(int(self._indices[index]))

    def read(self, index: int) -> tuple[Any, int]:
        return self._source.read(int(self._indices[index]))

    def mark(self, index: int) -> bytes:
        return self._source.mark(int(self._indices[index]))


def subset(source: ImageSource, indices: ArrayLike, note: str = "") -> ImageSource:
    """Return a view of some of a source's images, in the order of ``indices``; classes and labels stay what they are.

    Args:
        source: The images.
        indices: Whole numbers from 0 to ``len(source) - 1``, or one bool for each image.
        note: Is added to the source's ``notes``.

    Raises:
        InputError: No image, or an index that is none of the source's.
    """
    chosen = np.asarray(indices)
    try:
        places = np.arange(len(source))[chosen]
    except IndexError as error:
        raise InputError(f"indices into {source.where}, of {len(source)} images, do not fit: {error}.") from None
    if places.ndim != 1 or places.size == 0 or chosen.min() < 0:
        raise InputError(f"a part of {source.where} needs one index or more, from 0 on; got {chosen.dtype} {chosen.shape}.")
    part = _Subset(source, places)
    part.notes += (note,) if note else ()
    return part


def labelled(
    where: str, found: Sequence[tuple[str, str]], classes: Sequence[str] | None
) -> tuple[list[int], list[int], tuple[str, ...]]:
    """Return the order of images in a source, their labels in that order, and the classes.

    Args:
        where: Where the images come from.
        found: (name, class) of each image.
        classes: The classes that labels index; None: those found, in timm's order (numbers in names count as numbers).

    Raises:
        InputError: No images, or images of a class that is not among ``classes``.
    """
    if not found:
        raise InputError(f"{where} holds no images.")
    names = sorted({class_name for _, class_name in found}, key=lambda name: (natural_key(name), name))
    known = {one_form(name): label for label, name in enumerate(names if classes is None else classes)}
    strange = [name for name in names if one_form(name) not in known]
    if strange:
        raise InputError(
            f"{where} has a class {strange[0]!r} that is not among the {len(known)} known ones"
            f" ({len(strange)} such).{nearest(strange[0], known)}"
        )
    order = sorted(range(len(found)), key=lambda i: (natural_key(found[i][0]), one_form(found[i][0]), found[i][0]))
    return order, [known[one_form(found[i][1])] for i in order], tuple(names if classes is None else classes)
