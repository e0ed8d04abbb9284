"""Batches of images in memory, augmented in bulk, each image with a draw of its own."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["EpochDraws", "derived_seed", "normalise", "random_crop", "random_flip"]


@dataclass(frozen=True)
class EpochDraws:
    """The order of an epoch's images ``[N]`` and each image's draws, functions of (seed, epoch, index) alone."""

    order: Tensor
    offsets: Tensor
    """Row and column of each image's crop ``[N, 2]``, in 0..2*padding."""
    flips: Tensor
    """Whether each image is mirrored ``[N]``."""

    @classmethod
    def of(cls, images: int, seed: int, epoch: int, crop_padding: int, alternating: bool = False) -> "EpochDraws":
        """Draw for so many images.

        Args:
            images: Their number.
            seed, epoch: What the draws are a function of.
            crop_padding: Pixels around an image before its crop.
            alternating: Mirror each image in every other epoch, half of them first, in place of a draw in each epoch.
        """
        draw = torch.Generator().manual_seed(derived_seed(seed, epoch))
        order = torch.randperm(images, generator=draw)
        offsets = torch.randint(2 * crop_padding + 1, (images, 2), generator=draw)
        if alternating:
            draw.manual_seed(derived_seed(seed, *_FIRST_FLIPS))
        flips = torch.rand(images, generator=draw) < 0.5
        return cls(order, offsets, ~flips if alternating and epoch % 2 else flips)

    def crop_and_flip(
        self, images: Tensor, index: Tensor, crop_padding: int, flip: bool, padding_mode: str = "constant"
    ) -> Tensor:
        """Return images ``[B, C, H, W]``, which stand at ``index`` ``[B]`` in the set, as they are drawn in the epoch."""
        if crop_padding:
            images = random_crop(images, crop_padding, self.offsets[index], padding_mode)
        return random_flip(images, self.flips[index]) if flip else images


_FIRST_FLIPS = (0, 0, 1)  # behind the seed: numbers that no epoch, step or image has


def random_crop(images: Tensor, padding: int, offsets: Tensor, padding_mode: str = "constant") -> Tensor:
    """Pad images ``[N, C, H, W]`` and cut windows at ``offsets`` (row, column), ``[N, 2]`` in 0..2*padding.

    Args:
        images: Images.
        padding: Pixels on each side.
        offsets: Where the windows begin.
        padding_mode: ``constant``, black, or ``reflect``, mirrored at the edge: then ``padding`` is below height and width.
    """
    height, width = images.shape[-2:]
    if padding_mode == "reflect":
        padded = images[..., _reflected(height, padding)[:, None], _reflected(width, padding)]
    else:
        padded = F.pad(images, [padding] * 4)
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)
    return windows[torch.arange(len(images)), :, offsets[:, 0], offsets[:, 1]]


def _reflected(length: int, padding: int) -> Tensor:
    """Return for each place of a padded row the pixel that is there: torch pads no bytes by reflection."""
    last = length - 1
    return last - (last - torch.arange(-padding, length + padding).abs()).abs()


def random_flip(images: Tensor, flips: Tensor) -> Tensor:
    """Mirror the images ``[N, C, H, W]`` whose entry of ``flips`` ``[N]`` is true, left to right."""
    return torch.where(flips[:, None, None, None], images.flip(-1), images)


def normalise(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Return images as float32: those of bytes as (value/255 - mean)/std, per channel, those of floats as they are."""
    if images.is_floating_point():
        return images.float()
    shift, scale = (torch.tensor(v, device=images.device)[:, None, None] for v in (mean, std))
    return (images.float() / 255 - shift) / scale


def derived_seed(*numbers: int) -> int:
    """Return a seed that is a well-mixed function of several numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)
