"""Images in memory: what every loader returns."""

import hashlib
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ditcnn.system.errors import InputError

__all__ = ["MAX_SIDE", "ImageData", "ImageSet", "channel_statistics", "digest_of", "too_large"]

MAX_SIDE = 64  # pixels: photographs, which recipes for small images do not suit, are larger


@dataclass(frozen=True)
class ImageSet:
    """Labelled images: ``images`` uint8 ``[N, C, H, W]``, ``labels`` int64 ``[N]``."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: Tensor) -> "ImageSet":
        return ImageSet(self.images[index], self.labels[index])


def digest_of(*parts: ImageSet) -> str:
    """Return a text that changes when an image or a label of the sets does."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.images.contiguous().numpy().data)
        digest.update(part.labels.contiguous().numpy().data)
    return digest.hexdigest()


@dataclass(frozen=True)
class ImageData:
    """A data set with its official split; labels index ``classes``, and ``notes`` are what a person should be told of it.

    Raises:
        InputError: An empty part, images of two shapes, or labels without a class.
    """

    train: ImageSet
    test: ImageSet
    classes: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, part in (("training", self.train), ("test", self.test)):
            if part.images.dtype != torch.uint8 or part.images.ndim != 4 or part.labels.ndim != 1:
                raise InputError(
                    f"the {name} part must be uint8 images [N, C, H, W] and labels [N]; got {part.images.dtype} "
                    f"{list(part.images.shape)} and {list(part.labels.shape)}."
                )
            if len(part) == 0:
                raise InputError(f"the {name} part holds no images.")
            if len(part.images) != len(part.labels):
                raise InputError(f"the {name} part has {len(part.images)} images but {len(part.labels)} labels.")
            low, high = int(part.labels.min()), int(part.labels.max())
            if low < 0 or high >= len(self.classes):
                raise InputError(
                    f"the {name} part has labels from {low} to {high}, but there are {len(self.classes)} classes."
                )
        if self.train.images.shape[1:] != self.test.images.shape[1:]:
            raise InputError(
                f"training images are {_shape(self.train)}, test images {_shape(self.test)}; they must be alike."
            )

    @cached_property
    def digest(self) -> str:
        """A text that changes when an image or a label does."""
        return digest_of(self.train, self.test)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        channels, height, width = self.train.images.shape[1:]
        return channels, height, width


def _shape(part: ImageSet) -> str:
    channels, height, width = part.images.shape[1:]
    return f"{height}x{width} with {channels} channel{'s' if channels > 1 else ''}"


def too_large(where: str, height: int, width: int) -> InputError:
    """Return the error of images that are no small ones."""
    return InputError(
        f"{where} has {width}x{height} pixels; images kept in memory have at most {MAX_SIDE} a side. Name a size to which "
        "they are brought (img_size), or a recipe that reads images from disk."
    )


def channel_statistics(part: ImageSet) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of each channel, of values scaled to 0..1."""
    levels = torch.arange(256, dtype=torch.float64) / 255
    counts = torch.stack([torch.bincount(c.flatten().int(), minlength=256) for c in part.images.unbind(1)]).double()
    counts /= counts.sum(1, keepdim=True)
    mean = counts @ levels
    std = (counts @ levels**2 - mean**2).clamp(min=0).sqrt()
    return tuple(round(v, 4) for v in mean.tolist()), tuple(max(round(v, 4), 1e-4) for v in std.tolist())
