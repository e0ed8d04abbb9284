"""From a decoded image to pixels of one size: timm's transforms, with draws that are a function of the image's place."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Protocol

from PIL import Image
from timm.data import IMAGENET_DEFAULT_MEAN, create_transform
from timm.data.auto_augment import augment_and_mix_transform, auto_augment_transform, rand_augment_transform
from torch import Tensor

from ditcnn.data.stream.randomness import seeded
from ditcnn.system.errors import InputError

__all__ = ["EvalTransform", "ImageTransform", "TrainTransform", "WholeTransform"]


class ImageTransform(Protocol):
    """What makes of an image the pixels of an epoch."""

    def __call__(self, image: Image.Image, epoch: int, index: int) -> Tensor:
        """Return uint8 ``[C, H, W]``; the draws are a function of (seed, epoch, index)."""
        ...


@dataclass(frozen=True)
class TrainTransform:
    """Crop, flip and augment as timm's training script does; the fields mean what its flags mean.

    The draws are a function of (seed, epoch, index): neither of the process nor of the order.

    Raises:
        InputError: A value that timm does not take.
    """

    size: int | tuple[int, int] = 224
    """Height and width of the result (``--img-size``)."""
    scale: tuple[float, float] = (0.08, 1.0)
    """Share of the image's area that the random crop covers (``--scale``)."""
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Aspect ratio of the crop (``--ratio``)."""
    hflip: float = 0.5
    """Probability of a flip left to right (``--hflip``)."""
    vflip: float = 0.0
    """Probability of a flip upside down (``--vflip``)."""
    auto_augment: str | None = "rand-m9-mstd0.5"
    """timm's name of a policy (``--aa``); None for none."""
    color_jitter: float | tuple[float, ...] | None = 0.4
    """Strength of colour jitter, which counts only without ``auto_augment`` (``--color-jitter``)."""
    interpolation: str = "random"
    """bilinear, bicubic, or random for one of them in each draw (``--train-interpolation``)."""
    mean: tuple[float, ...] = IMAGENET_DEFAULT_MEAN
    """Colour, in 0..1, of what a rotation or shift leaves empty."""
    seed: int = 0
    """Seed of the run."""

    def __post_init__(self) -> None:
        _ = self._transform  # so that a wrong value is told before workers start

    @cached_property
    def _transform(self) -> Any:
        return _create(
            self.size,
            is_training=True,
            scale=self.scale,
            ratio=self.ratio,
            hflip=self.hflip,
            vflip=self.vflip,
            auto_augment=self.auto_augment,
            color_jitter=self.color_jitter,
            interpolation=self.interpolation,
            mean=self.mean,
        )

    def __call__(self, image: Image.Image, epoch: int, index: int) -> Tensor:
        """Return an RGB image as uint8 ``[3, H, W]``, as it is drawn in an epoch."""
        with seeded(self.seed, epoch, index):
            pixels: Tensor = self._transform(image)
        return pixels


@dataclass(frozen=True)
class EvalTransform:
    """Resize and crop as timm's validation does: the shorter side to size/crop_pct, then the middle.

    Raises:
        InputError: A value that timm does not take.
    """

    size: int | tuple[int, int] = 224
    """Height and width of the result."""
    crop_pct: float = 0.95
    """Share of the resized image's shorter side that is kept (``--crop-pct``)."""
    interpolation: str = "bicubic"
    """How to resize (``--interpolation``)."""
    crop_mode: Literal["center", "squash", "border"] = "center"
    """center: the middle. squash: both sides to the size. border: the whole image, padded (``--crop-mode``)."""
    mean: tuple[float, ...] = IMAGENET_DEFAULT_MEAN
    """Colour of the border, in 0..1."""

    def __post_init__(self) -> None:
        _ = self._transform

    @cached_property
    def _transform(self) -> Any:
        return _create(
            self.size,
            is_training=False,
            crop_pct=self.crop_pct,
            crop_mode=self.crop_mode,
            interpolation=self.interpolation,
            mean=self.mean,
        )

    def __call__(self, image: Image.Image) -> Tensor:
        """Return an image as uint8 ``[C, H, W]``."""
        pixels: Tensor = self._transform(image)
        return pixels


@dataclass(frozen=True)
class WholeTransform:
    """An image without a random crop: augmented by timm's policy, then resized as for evaluation.

    Raises:
        InputError: timm has no such policy.
    """

    evaluation: EvalTransform
    auto_augment: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        _ = self._policy

    @cached_property
    def _policy(self) -> Any:
        if self.auto_augment is None:
            return None
        make = {"rand": rand_augment_transform, "augm": augment_and_mix_transform}.get(
            self.auto_augment[:4], auto_augment_transform
        )
        colour = tuple(min(255, round(255 * value)) for value in self.evaluation.mean)
        try:
            return make(self.auto_augment, {"translate_const": int(_least(self.evaluation.size) * 0.45), "img_mean": colour})
        except (AssertionError, KeyError, ValueError, TypeError) as error:
            raise InputError(
                f"timm has no augmentation {self.auto_augment!r}: {type(error).__name__} {error}".rstrip() + "."
            ) from None

    def __call__(self, image: Image.Image, epoch: int, index: int) -> Tensor:
        """Return an RGB image as uint8 ``[3, H, W]``, as it is drawn in an epoch."""
        with seeded(self.seed, epoch, index):
            return self.evaluation(image if self._policy is None else self._policy(image))


def _least(size: int | tuple[int, int]) -> int:
    return size if isinstance(size, int) else min(size)


def _create(size: int | tuple[int, int], **options: Any) -> Any:
    """Return timm's transform up to uint8 pixels: it calls leaving the rest to the device ``use_prefetcher``."""
    try:
        return create_transform(size, use_prefetcher=True, **options)
    except (AssertionError, KeyError, ValueError, TypeError) as error:
        given = ", ".join(f"{name}={value!r}" for name, value in options.items())
        raise InputError(f"timm makes no transform of {given}: {type(error).__name__} {error}".rstrip() + ".") from None
