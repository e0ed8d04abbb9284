"""Batches of images in memory, augmented in bulk, each image with a draw of its own."""

import math
from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ditcnn.data.images import ImageSet

__all__ = ["derived_seed", "normalise", "random_crop", "random_flip", "steps_per_epoch", "train_batches"]


def train_batches(
    data: ImageSet, *, batch_size: int, seed: int, epoch: int, crop_padding: int = 0, flip: bool = False, first: int = 0
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield shuffled, augmented uint8 images ``[B, C, H, W]`` and labels ``[B]``, from batch ``first`` on.

    Order and draws are functions of (seed, epoch) and the image's index alone: an epoch that begins at batch k has the same
    batches from there on. The last batch of an epoch may be smaller.
    """
    draw = torch.Generator().manual_seed(derived_seed(seed, epoch))
    order = torch.randperm(len(data), generator=draw)
    offsets = torch.randint(2 * crop_padding + 1, (len(data), 2), generator=draw)
    flips = torch.rand(len(data), generator=draw) < 0.5
    for batch in range(first, steps_per_epoch(len(data), batch_size)):
        index = order[batch * batch_size : (batch + 1) * batch_size]
        images = data.images[index]
        if crop_padding:
            images = random_crop(images, crop_padding, offsets[index])
        if flip:
            images = random_flip(images, flips[index])
        yield images, data.labels[index]


def steps_per_epoch(images: int, batch_size: int) -> int:
    """Return the number of batches in an epoch, the last and smaller one included."""
    return math.ceil(images / batch_size)


def random_crop(images: Tensor, padding: int, offsets: Tensor) -> Tensor:
    """Pad images ``[N, C, H, W]`` with black and cut windows at ``offsets`` (row, column), ``[N, 2]`` in 0..2*padding."""
    height, width = images.shape[-2:]
    windows = F.pad(images, [padding] * 4).unfold(2, height, 1).unfold(3, width, 1)
    return windows[torch.arange(len(images)), :, offsets[:, 0], offsets[:, 1]]


def random_flip(images: Tensor, flips: Tensor) -> Tensor:
    """Mirror the images ``[N, C, H, W]`` whose entry of ``flips`` ``[N]`` is true, left to right."""
    return torch.where(flips[:, None, None, None], images.flip(-1), images)


def normalise(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Return uint8 images as float32 of (value/255 - mean)/std, per channel."""
    shift, scale = (torch.tensor(v, device=images.device)[:, None, None] for v in (mean, std))
    return (images.float() / 255 - shift) / scale


def derived_seed(*numbers: int) -> int:
    """Return a seed that is a well-mixed function of several numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)
