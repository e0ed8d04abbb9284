"""What becomes of an image before a model sees it: recorded once, for training's evaluation, eval, predict and timm."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, get_args

from PIL import Image, ImageOps
from torch import Tensor

from ditcnn.data.stream import EvalTransform

__all__ = ["CropMode", "Preprocessing"]

CropMode = Literal["center", "squash", "border"]
MAX_SIDE = 2**14


@dataclass(frozen=True)
class Preprocessing:
    """timm's data config of a model, and whether images are turned as their EXIF orientation says.

    Without that they are read as they are stored, as timm and torchvision do, and as published figures of ImageNet are.

    Raises:
        ValueError: A value is of another kind or out of its range.
    """

    input_size: tuple[int, int, int]
    """(C, H, W) of what the model sees."""
    mean: tuple[float, ...]
    """Per channel, in 0..1."""
    std: tuple[float, ...]
    """Standard deviation per channel."""
    crop_pct: float = 1.0
    """Share of a resized image's shorter side that is kept."""
    crop_mode: CropMode = "center"
    """As in `EvalTransform`. An image of the model's own size comes through all of them as it is."""
    interpolation: str = "bicubic"
    """How images are resized."""
    exif_orientation: bool = False
    """Turn images upright first."""

    def __post_init__(self) -> None:
        size = self.input_size
        if len(size) != 3 or not all(type(n) is int and 0 < n <= MAX_SIDE for n in size):
            raise ValueError(f"input_size must be (C, H, W), each from 1 to {MAX_SIDE}; got {size}")
        for name in ("mean", "std"):
            values = getattr(self, name)
            if len(values) != size[0] or not all(_is_number(value) for value in values):
                raise ValueError(f"{name} must be {size[0]} finite numbers, one a channel; got {values}")
        if not all(value > 0 for value in self.std):
            raise ValueError(f"std must be above 0; got {self.std}")
        if not _is_number(self.crop_pct) or not 0 < self.crop_pct <= 1:
            raise ValueError(f"crop_pct must be above 0 and at most 1; got {self.crop_pct}")
        if self.crop_mode not in get_args(CropMode):
            raise ValueError(f"crop_mode must be one of {', '.join(get_args(CropMode))}; got {self.crop_mode!r}")

    @classmethod
    def of(cls, config: Mapping[str, Any], exif_orientation: object = False) -> "Preprocessing":
        """Return what a config of timm's says; what it leaves out is as timm has it."""
        channels = int(config["input_size"][0])
        mean, std = (tuple(config[name]) for name in ("mean", "std"))
        return cls(
            tuple(config["input_size"]),
            mean * channels if len(mean) == 1 else mean,
            std * channels if len(std) == 1 else std,
            crop_pct=config.get("crop_pct") or 0.875,
            crop_mode=config.get("crop_mode") or "center",
            interpolation=config.get("interpolation") or "bicubic",
            exif_orientation=exif_orientation is True,
        )

    def data_config(self) -> dict[str, Any]:
        """Return timm's part of it, for ``save_model`` and for ``timm.data.create_transform``."""
        names = ("input_size", "mean", "std", "crop_pct", "crop_mode", "interpolation")
        return {name: getattr(self, name) for name in names}

    @cached_property
    def _transform(self) -> EvalTransform:
        return EvalTransform(
            self.input_size[1:],
            crop_pct=self.crop_pct,
            interpolation=self.interpolation,
            crop_mode=self.crop_mode,
            mean=self.mean,
        )

    def __call__(self, image: Image.Image) -> Tensor:
        """Return an image as uint8 ``[C, H, W]``; what is left is to normalise it."""
        if self.exif_orientation:
            image = ImageOps.exif_transpose(image)
        return self._transform(image.convert("L" if self.input_size[0] == 1 else "RGB"))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
