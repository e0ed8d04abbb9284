"""Test-time views: an image, its mirror image, and both moved by a pixel."""

from collections.abc import Iterator

import torch.nn.functional as F
from torch import Tensor

__all__ = ["views_of"]


def views_of(images: Tensor, views: int) -> Iterator[tuple[float, Tensor]]:
    """Yield the views of images with the shares that their logits have in the mean; the images themselves come first.

    1: the images. 2: these and their mirror images, half each. 6: both as they are, half together, and moved by a pixel up
    and left and down and right, a quarter together each; what is left open is reflected. Source: Keller Jordan's
    `cifar10-airbench`.

    Args:
        images: Floats ``[N, C, H, W]``; for 6 views H and W are at least 2.
        views: Their number.
    """
    height, width = images.shape[-2:]
    moved = [(images, 0.5 if views == 6 else 1.0)]
    if views == 6:
        padded = F.pad(images, [1] * 4, "reflect")
        moved += [(padded[..., i : i + height, i : i + width], 0.25) for i in (0, 2)]
    for view, share in moved:
        yield (share if views == 1 else share / 2), view
        if views > 1:
            yield share / 2, view.flip(-1)
