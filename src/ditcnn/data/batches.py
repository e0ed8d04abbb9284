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
    def of(cls, images: int, seed: int, epoch: int, crop_padding: int) -> "EpochDraws":
        """Draw for so many images."""
        draw = torch.Generator().manual_seed(derived_seed(seed, epoch))
        order = torch.randperm(images, generator=draw)
        offsets = torch.randint(2 * crop_padding + 1, (images, 2), generator=draw)
        return cls(order, offsets, torch.rand(images, generator=draw) < 0.5)

    def crop_and_flip(self, images: Tensor, index: Tensor, crop_padding: int, flip: bool) -> Tensor:
        """Return images ``[B, C, H, W]``, which stand at ``index`` ``[B]`` in the set, as they are drawn in the epoch."""
        if crop_padding:
            images = random_crop(images, crop_padding, self.offsets[index])
        return random_flip(images, self.flips[index]) if flip else images


def random_crop(images: Tensor, padding: int, offsets: Tensor) -> Tensor:
    """Pad images ``[N, C, H, W]`` with black and cut windows at ``offsets`` (row, column), ``[N, 2]`` in 0..2*padding."""
    height, width = images.shape[-2:]
    windows = F.pad(images, [padding] * 4).unfold(2, height, 1).unfold(3, width, 1)
    return windows[torch.arange(len(images)), :, offsets[:, 0], offsets[:, 1]]


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
