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
from ditcnn.data.names import is_junk, natural_key, one_form
from ditcnn.system.errors import InputError, nearest

__all__ = ["BadImage", "FileSource", "ImageSource", "decode_rgb", "is_hidden", "labelled", "subset"]

is_hidden = is_junk


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
    upright: bool = False
    """Whether `read` turns images as their EXIF orientation says."""
    draws: bool = False
    """Whether `read` may draw random numbers: code of the user's own."""
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
        digest.update(_composed(self._names).tobytes())
        digest.update(self.labels.tobytes())
        for index in self._samples():
            digest.update(self.mark(index))
        return digest.hexdigest()

    def _samples(self) -> list[int]:
        samples: list[int] = np.linspace(0, len(self) - 1, min(len(self), self.samples_in_digest)).astype(int).tolist()
        return samples

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
        return decode_rgb(self.content(index), self.path(index), self.upright), int(self.labels[index])

    def mark(self, index: int) -> bytes:
        """Return the size of its file."""
        return f"{self.size(index)}\n".encode()

    @abstractmethod
    def content(self, index: int) -> bytes:
        """Return an image's undecoded bytes."""

    @abstractmethod
    def size(self, index: int) -> int:
        """Return the number of those bytes."""


class _Subset(ImageSource):
    def __init__(self, source: ImageSource, indices: NDArray[np.int64]) -> None:
        self.where, self.classes, self.notes, self.draws = source.where, source.classes, source.notes, source.draws
        self.labels = source.labels[indices]
        self._names = source._names[indices]
        self._source, self._indices = source, indices
        self.samples_in_digest = source.samples_in_digest

    @property
    def upright(self) -> bool:  # type: ignore[override]
        return self._source.upright

    @upright.setter
    def upright(self, value: bool) -> None:
        self._source.upright = value

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
    if chosen.dtype == np.bool_:
        if chosen.shape != (len(source),):
            raise InputError(f"a choice of {len(source)} images needs a bool for each; got an array of {chosen.shape}.")
        chosen = np.flatnonzero(chosen)
    if chosen.ndim != 1 or chosen.size == 0 or chosen.dtype.kind not in "iu":
        raise InputError(f"a part of {source.where} needs one index or more; got {chosen.dtype} {list(chosen.shape)}.")
    if chosen.min() < 0 or chosen.max() >= len(source):
        raise InputError(
            f"indices into {source.where} must be from 0 to {len(source) - 1}; got {chosen.min()} to {chosen.max()}."
        )
    part = _Subset(source, chosen.astype(np.int64))
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


def _composed(names: "NDArray[np.bytes_]") -> "NDArray[np.bytes_]":
    """Return names in one Unicode form, so that a copy on another system has the same digest."""
    if not names.tobytes().isascii():
        return np.array([os.fsencode(one_form(os.fsdecode(bytes(name)))) for name in names])
    return names
