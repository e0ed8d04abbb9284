"""What counters of operations see of the op: torch's ``FlopCounterMode`` and whatever reads its table of formulas."""

import math
from typing import Any

import torch
from torch.utils.flop_counter import register_flop_formula

__all__ = ["form_macs"]


def form_macs(positions: int, channels: int, outputs: int) -> int:
    """Return the multiplications with an addition of a form with A's symmetry used: T O C(C+1)/2."""
    return positions * outputs * channels * (channels + 1) // 2


def _flops(x: torch.Size, weight: torch.Size) -> int:
    return 2 * form_macs(math.prod(x[:-1]), x[-1], weight[0])


@register_flop_formula(torch.ops.ditcnn.quadratic_form)  # type: ignore[untyped-decorator]
def _(x: torch.Size, weight: torch.Size, *_: Any, **__: Any) -> int:
    return _flops(x, weight)


@register_flop_formula(torch.ops.ditcnn.quadratic_form_backward)  # type: ignore[untyped-decorator]
def _(
    grad: torch.Size, x: torch.Size, weight: torch.Size, backend: str, of_x: bool, of_weight: bool, *_: Any, **__: Any
) -> int:
    return (of_x + of_weight) * _flops(x, weight)
