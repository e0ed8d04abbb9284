"""A plain network widened until it costs what another one does."""

from typing import Any, Literal

import timm
import torch

from ditcnn.cost import cost_of

__all__ = ["widths_of_equal_cost"]

WIDEST = 1024  # channels of the last stage


def widths_of_equal_cost(
    rival: str, cost: Literal["parameters", "macs"], *, plain: str, num_classes: int = 10
) -> tuple[int, int, int]:
    """Return the channels of the stages with which a plain CIFAR ResNet costs nearest to what its rival does.

    The last stage takes each width W in turn, the others W/4 and W/2, rounded, as in the plain network. Multiplications
    are counted as the paper counts them, C^2 a position and output of a term: ditcnn computes it with about half, so a
    plain network of as many is the stronger one.

    Args:
        rival: A name of timm's registry, as ``dit_resnet20``.
        cost: What is to be equal.
        plain: The name of the network to widen, as ``resnet20``.
        num_classes: Outputs of both heads.

    >>> widths_of_equal_cost("resnet20", "parameters", plain="resnet20")
    (16, 32, 64)
    """
    wanted = _cost(rival, cost, num_classes)
    low, high = 4, WIDEST
    while high - low > 1:  # cost grows with the width
        middle = (low + high) // 2
        if _cost(plain, cost, num_classes, widths=_stages(middle)) < wanted:
            low = middle
        else:
            high = middle
    nearest = min((low, high), key=lambda last: abs(_cost(plain, cost, num_classes, widths=_stages(last)) - wanted))
    return _stages(nearest)


def _stages(last: int) -> tuple[int, int, int]:
    return round(last / 4), round(last / 2), last


def _cost(name: str, cost: str, num_classes: int, **kwargs: Any) -> int:
    with torch.device("meta"):
        model = timm.create_model(name, num_classes=num_classes, **kwargs)
    value: int = getattr(cost_of(model, (3, 32, 32), 2), cost)
    return value
