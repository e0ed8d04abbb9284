r"""Exact and light, for any device and dtype: symmetric, tiled, with a backward that recomputes the products.

With S = (A + A')/2 the form is :math:`\sum_i S_{ii} x_i^2 + 2 \sum_{i<j} S_{ij} x_i x_j`. Channels are cut into blocks;
block b, of the channels from s to e, contributes the products of its channels with all channels from s on. So about half of
the C^2 columns are needed (the squares on the diagonal blocks stay whole). The packed columns of a tile of positions are
one broadcast multiplication a block, and one matrix multiplication turns them into the result.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

BLOCK = 16  # channels; the waste on the diagonal is BLOCK/C of the work, the overhead one small call a block
TILE_BYTES = 4 << 20  # packed products of one tile: they stay in the last-level cache


def packed_forward(x: Tensor, weight: Tensor) -> Tensor:
    """Evaluate x'Ax: x ``[T, C]``, A ``[O, C, C]`` of one dtype -> ``[T, O]``."""
    columns = _pack(weight)
    y = x.new_empty(len(x), len(weight))
    for start, tile in _tiles(x, columns.shape[1]):
        torch.mm(_products(tile, columns.shape[1]), columns.T, out=y[start : start + len(tile)])
    return y


def packed_backward(grad: Tensor, x: Tensor, weight: Tensor, of_x: bool, of_weight: bool) -> tuple[Tensor, Tensor]:
    """Return the gradients of x, ``[T, C]``, and of A, ``[O, C, C]``, the latter in float32 for half precision.

    One that is not asked for means nothing.
    """
    channels = x.shape[1]
    columns = _pack(weight)
    grad_x = torch.empty_like(x, memory_format=torch.contiguous_format)
    grad_columns = torch.zeros_like(columns, dtype=_accumulator(x.dtype))
    for start, tile in _tiles(x, columns.shape[1]):
        g = grad[start : start + len(tile)]
        if of_weight:
            grad_columns += g.T @ _products(tile, columns.shape[1])
        if not of_x:
            continue
        grad_products = torch.mm(g, columns)
        grad_tile = torch.zeros_like(tile)
        for (s, e), gp in _blocks_of(grad_products, channels):
            grad_tile[:, s:e] += torch.bmm(gp, tile[:, s:, None]).squeeze(2)
            grad_tile[:, s:] += torch.bmm(tile[:, None, s:e], gp).squeeze(1)
        grad_x[start : start + len(tile)] = grad_tile
    return grad_x, _unpack(grad_columns, channels)


def _blocks(channels: int) -> Iterator[tuple[int, int]]:
    """Yield (start, end) of each block of channels."""
    for s in range(0, channels, BLOCK):
        yield s, min(s + BLOCK, channels)


def _blocks_of(columns: Tensor, channels: int) -> Iterator[tuple[tuple[int, int], Tensor]]:
    """Yield ((s, e), view ``[rows, e-s, C-s]``) of each block of packed columns ``[rows, K]``."""
    first = 0
    for s, e in _blocks(channels):
        width = (e - s) * (channels - s)
        yield (s, e), columns[:, first : first + width].view(-1, e - s, channels - s)
        first += width


def _tiles(x: Tensor, columns: int) -> Iterator[tuple[int, Tensor]]:
    """Yield (first position, contiguous tile of positions) so that a tile's products take `TILE_BYTES`."""
    size = max(64, TILE_BYTES // (x.element_size() * max(columns, 1)))
    for start in range(0, len(x), size):
        yield start, x[start : start + size].contiguous()


def _products(tile: Tensor, columns: int) -> Tensor:
    """Return the packed products ``[T, K]`` of a tile ``[T, C]``."""
    products = tile.new_empty(len(tile), columns)
    for (s, e), block in _blocks_of(products, tile.shape[1]):
        torch.mul(tile[:, s:e, None], tile[:, None, s:], out=block)
    return products


def _pack(weight: Tensor) -> Tensor:
    """Return S packed to ``[O, K]``: whole in the diagonal blocks, doubled right of them."""
    symmetric = (weight + weight.mT) / 2
    parts = []
    for s, e in _blocks(weight.shape[1]):
        part = symmetric[:, s:e, s:].clone()
        part[:, :, e - s :] *= 2
        parts.append(part.flatten(1))
    return torch.cat(parts, dim=1) if parts else weight.new_empty(len(weight), 0)


def _unpack(grad_columns: Tensor, channels: int) -> Tensor:
    """Return the symmetric gradient ``[O, C, C]``: every product's gradient at (i, j) and at (j, i)."""
    grad = grad_columns.new_empty(len(grad_columns), channels, channels)
    for (s, e), block in _blocks_of(grad_columns, channels):
        diagonal = block[:, :, : e - s]
        grad[:, s:e, s:e] = (diagonal + diagonal.mT) / 2  # equal but for rounding: keep A symmetric to the bit
        grad[:, s:e, e:] = block[:, :, e - s :]
        grad[:, e:, s:e] = block[:, :, e - s :].mT
    return grad


def _accumulator(dtype: torch.dtype) -> torch.dtype:
    """Half precision is summed over tiles in float32."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype
