"""What the arithmetic alone costs: the multiplications of the form by the fastest call that torch has here."""

import math
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["bound_calls"]

TILE = 512  # positions


def bound_calls(
    channels: int, outputs: int, positions: int, dtype: torch.dtype = torch.float32
) -> dict[str, dict[str, Callable[[], object]]]:
    """Return the three multiplications of forward and backward, each as alternatives of which the fastest counts.

    Products by weights, gradient by weights, products by gradient; T x K x O with K = C(C+1)/2, in tiles of 512 positions
    that are multiplied once for every tile there is. Where C is so large that a tile of products would fill the memory,
    it is (xA)x: three multiplications of T x C x (C O).
    """
    drawn = partial(torch.randn, dtype=dtype)
    tile = min(TILE, positions)
    repeat = math.ceil(positions / tile)
    columns = channels * (channels + 1) // 2
    if tile * columns > 1 << 26:
        x, weight = drawn(tile, channels), drawn(outputs * channels, channels)
        wide = drawn(tile, outputs * channels)
        return {
            "xA": _alternatives(x, weight, repeat),
            "gradient by A": {"mm": _repeated(lambda: torch.mm(wide, weight), repeat)},
            "gradient by x": {"mm": _repeated(lambda: torch.mm(wide.T, x), repeat)},
        }
    products, weight, grad = drawn(tile, columns), drawn(outputs, columns), drawn(tile, outputs)
    return {
        "products by weights": _alternatives(products, weight, repeat),
        "gradient by weights": _alternatives(grad, weight.T.contiguous(), repeat),
        "products by gradient": {
            "mm": _repeated(lambda: torch.mm(grad.T, products), repeat),
            "convolution": _repeated(lambda: _as_convolution(grad.T.contiguous(), products.T.contiguous()), repeat),
        },
    }


def _alternatives(rows: Tensor, weight: Tensor, repeat: int) -> dict[str, Callable[[], object]]:
    """Return the ways to compute rows by weight', ``[T, K]`` by ``[N, K]``."""
    out = rows.new_empty(len(rows), len(weight))
    return {
        "mm": _repeated(lambda: torch.mm(rows, weight.T, out=out), repeat),
        "convolution": _repeated(lambda: _as_convolution(rows, weight), repeat),
    }


def _as_convolution(rows: Tensor, weight: Tensor) -> Tensor:
    """Multiply as a 1x1 convolution of a map with channels last, which oneDNN runs: faster than MKL on some processors."""
    images = rows.view(1, 1, *rows.shape).permute(0, 3, 1, 2)
    return F.conv2d(images, weight[:, :, None, None])


def _repeated(call: Callable[[], object], times: int) -> Callable[[], object]:
    def repeated() -> None:
        for _ in range(times):
            call()

    return repeated
