"""Images of the user's own: arrays, and any torch Dataset of (image, label)."""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset, IterableDataset, Subset, TensorDataset

from ditcnn.data.decoding import BadImage, as_picture
from ditcnn.data.images import ImageSet
from ditcnn.data.stream.randomness import seeded
from ditcnn.data.stream.source import ImageSource
from ditcnn.system.errors import InputError
from ditcnn.system.text import in_words, one_line

__all__ = ["DatasetSource", "first_image", "from_arrays"]


def from_arrays(images: Any, labels: Any, classes: Sequence[str] | None = None) -> ImageSet:
    """Return images and labels as a set in memory.

    Args:
        images: uint8 ``[N, C, H, W]``, C 1 or 3: a tensor, or what NumPy makes an array of.
        labels: N whole numbers, from 0 on.
        classes: Names that labels index; a label must be below their number.

    Raises:
        InputError: Another shape or dtype, or labels that do not fit.

    >>> from_arrays(np.zeros((2, 3, 8, 8), np.uint8), [0, 1]).images.shape
    torch.Size([2, 3, 8, 8])
    """
    pixels = _array(images, "images")
    shape = list(pixels.shape)
    if pixels.ndim == 3:
        raise InputError(f"images must be [N, C, H, W]; got {shape}. Grey ones: images[:, None].")
    if pixels.ndim == 4 and shape[1] not in (1, 3) and shape[3] in (1, 3):
        permuted = "permute(0, 3, 1, 2)" if isinstance(images, Tensor) else "transpose(0, 3, 1, 2)"
        raise InputError(f"images must be [N, C, H, W]; got {shape}, which looks like [N, H, W, C]: images.{permuted}.")
    if pixels.ndim != 4 or shape[1] not in (1, 3):
        raise InputError(f"images must be [N, C, H, W] with 1 or 3 channels; got {shape}.")
    if pixels.dtype != np.uint8:
        raise InputError(f"images must be uint8, 0 to 255; got {pixels.dtype}. Scale and round them: (255 * x).round().")
    if not pixels.size:
        raise InputError(f"images are empty: {shape}.")
    known = _labels(_array(labels, "labels"), len(pixels), None if classes is None else len(classes))
    return ImageSet(torch.from_numpy(np.ascontiguousarray(pixels)), torch.from_numpy(known))


class DatasetSource(ImageSource):
    """A map-style torch Dataset of (image, label), read as other sources are.

    An item's image may be a PIL image, a uint8 array or tensor (``[H, W]``, ``[H, W, C]`` as an array, ``[C, H, W]`` as a
    tensor), all of which `read` returns as RGB, or a float tensor ``[C, H, W]``, which it returns as it is. Its label is a
    whole number, or a tensor or array of one.

    Labels are taken from the dataset's ``targets``, ``labels`` or ``samples`` (``target_transform`` applied) if they
    agree with a sample of its items; else each item is read once. Of PyTorch's, Subset, ConcatDataset and
    TensorDataset are looked into. Random numbers that it draws from Python's, NumPy's or torch's global generator
    are no part of the digest; in a run they are a function of (seed, epoch, index).

    Args:
        dataset: With ``__len__`` and ``__getitem__``.
        classes: Names that labels index. Default: the dataset's ``classes``, or the numbers.

    Raises:
        InputError: An IterableDataset, no items, or items and labels of other kinds.
    """

    draws = True
    samples_in_digest = 16  # each is read twice
    draws = True

    def __init__(self, dataset: Dataset[Any], classes: Sequence[str] | None = None) -> None:
        count = _count(dataset)
        self.dataset = dataset
        names = _classes_of(dataset) if classes is None else tuple(classes)
        checked = _labels(_all_labels(dataset), count, len(names) if names else None)
        names = names or tuple(map(str, range(int(checked.max()) + 1)))
        super().__init__(type(dataset).__name__, [str(i) for i in range(count)], checked, names)

    def path(self, index: int) -> str:
        """Return an item's place, as messages name it."""
        return f"{self.where}[{index}]"

    def read(self, index: int) -> tuple[Any, int]:
        """Return an image, as RGB or the float tensor that it is, and its label.

        Raises:
            BadImage: The dataset raised an error, or the item is none of the kinds.
            OSError: As the dataset raised it.
        """
        return _image(_item(self.dataset, index)[0], self.path(index)), int(self.labels[index])

    def mark(self, index: int) -> bytes:
        """Return a digest of an item's pixels, if they are the same when it is read again."""
        first, second = self._pixels(index), self._pixels(index)
        return hashlib.sha256(first).digest() if first == second else b"varies"

    def _pixels(self, index: int) -> bytes:
        with seeded(0, index):
            try:
                image = self.read(index)[0]
            except BadImage:
                return b"bad"
        return np.asarray(image.cpu() if isinstance(image, Tensor) else image).tobytes()


def first_image(dataset: Dataset[Any]) -> Any:
    """Return a dataset's first image, as `DatasetSource` reads it, without looking at the others' labels.

    Raises:
        InputError: It has none that can be read.
    """
    _count(dataset)
    with seeded(0, 0):
        try:
            return _image(_item(dataset, 0)[0], f"{type(dataset).__name__}[0]")
        except BadImage as error:
            raise InputError(str(error)) from None


def _count(dataset: Any) -> int:
    """Return the number of items, of which there must be some, at random access."""
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
        raise InputError(
            f"{type(dataset).__name__} has no items at random access, which shuffling and resuming need; give a "
            "map-style Dataset, with __len__ and __getitem__."
        )
    if (count := len(dataset)) == 0:
        raise InputError(f"{type(dataset).__name__} holds no images.")
    return count


def _item(dataset: Any, index: int) -> Any:
    """Return an item, a pair."""
    where = f"{type(dataset).__name__}[{index}]"
    try:
        item = dataset[index]
    except (OSError, InputError, MemoryError):
        raise
    except Exception as error:  # code of the user's own
        raise BadImage(f"{where} raised {type(error).__name__}: {one_line(error, 300)}.") from error
    if not isinstance(item, tuple | list) or len(item) != 2:
        raise InputError(f"{where} must be a pair (image, label); got {_kind(item)}.")
    return item


def _all_labels(dataset: Any) -> NDArray[Any]:
    """Return the labels that a dataset keeps, if they are those of its items; else those of its items, each read."""
    count = len(dataset)
    kept = _labels_of(dataset)
    with seeded(0):
        if kept is not None and kept.shape == (count,):
            some = np.linspace(0, count - 1, min(count, DatasetSource.samples_in_digest)).astype(int).tolist()
            if all(_agrees(dataset, i, int(kept[i])) for i in some):
                return kept
        return np.array([_number(_item(dataset, i)[1], dataset, i) for i in range(count)])


def _agrees(dataset: Any, index: int, label: int) -> bool:
    try:
        return _number(_item(dataset, index)[1], dataset, index) == label
    except BadImage:  # told when it is read for its pixels, or skipped
        return True


def _array(values: Any, what: str) -> NDArray[Any]:
    try:
        return np.asarray(values.detach().cpu() if isinstance(values, Tensor) else values)
    except (ValueError, TypeError) as error:
        raise InputError(f"{what} must be one array: {in_words(error)}.") from None


def _labels(labels: NDArray[Any], count: int, classes: int | None) -> NDArray[np.int64]:
    """Return labels as int64.

    Raises:
        InputError: They are no whole numbers, not ``count``, negative, or not below ``classes``.
    """
    if labels.dtype.kind not in "iu":
        raise InputError(f"labels must be whole numbers, one an image; got {labels.dtype} {list(labels.shape)}.")
    if labels.shape != (count,):
        raise InputError(f"labels must be one an image, [{count}]; got {list(labels.shape)}.")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or (classes is not None and high >= classes):
        below = "" if classes is None else f" and below the number of classes, {classes}"
        raise InputError(f"labels must be from 0 on{below}; got {low} to {high}.")
    return labels.astype(np.int64)


def _number(label: Any, dataset: Any, index: int) -> int:
    value = _array(label, "a label")
    if value.size != 1 or value.dtype.kind not in "iu":
        raise InputError(f"the label of {type(dataset).__name__}[{index}] must be a whole number; got {_kind(label)}.")
    return int(value.item())


def _labels_of(dataset: Any) -> NDArray[Any] | None:
    """Return the labels that a dataset keeps beside its items, or None."""
    try:
        labels = _array(_kept(dataset), "labels")
    except Exception:  # fields of these names may be anything
        return None
    return labels if labels.ndim == 1 and labels.dtype.kind in "iu" else None


def _kept(dataset: Any) -> Any:
    if isinstance(dataset, Subset):
        return _array(_kept(dataset.dataset), "labels")[np.asarray(dataset.indices, np.int64)]
    if isinstance(dataset, ConcatDataset):
        return np.concatenate([_array(_kept(part), "labels") for part in dataset.datasets])
    if isinstance(dataset, TensorDataset):
        return dataset.tensors[-1]
    labels = next((v for n in ("targets", "labels") if (v := getattr(dataset, n, None)) is not None), None)
    labels = [label for _, label in dataset.samples] if labels is None else labels
    transform = getattr(dataset, "target_transform", None)
    return labels if transform is None else [transform(label) for label in labels]


def _classes_of(dataset: Any) -> tuple[str, ...]:
    """Return the names of a dataset's classes, or nothing."""
    names = getattr(dataset, "classes", None)
    if isinstance(names, list | tuple) and names and all(isinstance(name, str) for name in names):
        return tuple(names)
    if isinstance(dataset, Subset):
        return _classes_of(dataset.dataset)
    if isinstance(dataset, ConcatDataset):
        known = {_classes_of(part) for part in dataset.datasets}
        return known.pop() if len(known) == 1 else ()
    return ()


def _image(image: Any, where: str) -> Any:
    """Return an item's image as RGB, or a float tensor as it is."""
    if isinstance(image, Tensor) and image.is_floating_point() and image.ndim == 3:
        return image
    if (picture := as_picture(image)) is not None:
        return picture.convert("RGB")
    raise InputError(
        f"{where} must hold a PIL image, a uint8 array [H, W] or [H, W, C], a uint8 tensor [C, H, W] or a float tensor "
        f"[C, H, W]; got {_kind(image)}."
    )


def _kind(value: Any) -> str:
    """Return what a value is, in few words."""
    shape = getattr(value, "shape", None)
    if shape is not None:
        return f"{type(value).__name__} of {value.dtype} {list(shape)}"
    return f"{type(value).__name__} of {len(value)}" if isinstance(value, tuple | list) else type(value).__name__
