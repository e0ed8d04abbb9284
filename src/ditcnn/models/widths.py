"""A plain network widened until it costs what another one does."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import nn

from ditcnn.cost import cost_of

__all__ = ["widths_of_equal_cost"]

WIDEST = 1024  # channels of the last stage


def widths_of_equal_cost(
    rival: Callable[[], nn.Module],
    cost: Literal["parameters", "macs"],
    *,
    plain: Callable[[tuple[int, int, int]], nn.Module],
    image_shape: tuple[int, int, int] = (3, 32, 32),
    step: int = 1,
) -> tuple[int, int, int]:
    """Return the channels of the stages with which a plain CIFAR ResNet costs nearest to what its rival does.

    The last stage takes each width W in turn, the others W/4 and W/2, rounded, as in the plain network. Multiplications
    are counted as the paper counts them, C^2 a position and output of a term: ditcnn computes it with about half, so a
    plain network of as many is the stronger one.

    Args:
        rival: Makes the rival, as ``lambda: timm.create_model("dit_resnet20")``; nothing is allocated.
        cost: What is to be equal.
        plain: Makes the network to widen from its widths.
        image_shape: Channels, height and width of the images.
        step: The last width is a multiple of it; with 4 all three are in proportion, W/4, W/2 and W.

    >>> from ditcnn.models import CifarResNet
    >>> widths_of_equal_cost(lambda: CifarResNet(20), "parameters", plain=lambda widths: CifarResNet(20, widths=widths))
    (16, 32, 64)
    """

    def of(make: Callable[[], nn.Module]) -> int:
        with torch.device("meta"):
            value: int = getattr(cost_of(make(), image_shape, 2), cost)
        return value

    def of_width(last: int) -> int:
        return of(lambda: plain(_stages(last * step)))

    wanted = of(rival)
    low, high = max(1, 4 // step), WIDEST // step
    while high - low > 1:  # cost grows with the width
        middle = (low + high) // 2
        low, high = (middle, high) if of_width(middle) < wanted else (low, middle)
    return _stages(step * min((low, high), key=lambda last: abs(of_width(last) - wanted)))


def _stages(last: int) -> tuple[int, int, int]:
    return round(last / 4), round(last / 2), last
