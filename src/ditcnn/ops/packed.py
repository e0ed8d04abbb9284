r"""Exact and light: symmetric, tiled, with an explicit backward that recomputes the products.

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


def packed_quadratic_form(x: Tensor, weight: Tensor) -> Tensor:
    """Evaluate x'Ax as `ditcnn.quadratic_form` does; shapes and dtypes are already checked."""
    positions = x.reshape(-1, x.shape[-1])
    y: Tensor = _form(positions, weight)
    return y.reshape(*x.shape[:-1], weight.shape[0])


@torch.library.custom_op("ditcnn::packed_quadratic_form", mutates_args=())
def _form(x: Tensor, weight: Tensor) -> Tensor:
    columns = _pack(weight)
    y = x.new_empty(len(x), len(weight))
    for start, tile in _tiles(x, columns.shape[1]):
        torch.mm(_products(tile, columns.shape[1]), columns.T, out=y[start : start + len(tile)])
    return y


@_form.register_fake
def _(x: Tensor, weight: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], weight.shape[0])


@torch.library.custom_op("ditcnn::packed_quadratic_form_backward", mutates_args=())
def _form_backward(grad: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    channels = x.shape[1]
    columns = _pack(weight)
    grad_x = torch.empty_like(x, memory_format=torch.contiguous_format)
    grad_columns = torch.zeros_like(columns, dtype=_accumulator(x.dtype))
    for start, tile in _tiles(x, columns.shape[1]):
        g = grad[start : start + len(tile)]
        products = _products(tile, columns.shape[1])
        grad_columns += g.T @ products
        grad_products = torch.mm(g, columns, out=products)
        grad_tile = torch.zeros_like(tile)
        for (s, e), gp in _blocks_of(grad_products, channels):
            grad_tile[:, s:e] += torch.bmm(gp, tile[:, s:, None]).squeeze(2)
            grad_tile[:, s:] += torch.bmm(tile[:, None, s:e], gp).squeeze(1)
        grad_x[start : start + len(tile)] = grad_tile
    return grad_x, _unpack(grad_columns, channels).to(weight.dtype)


@_form_backward.register_fake
def _(grad: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), weight.new_empty(weight.shape)


def _setup_context(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    ctx.save_for_backward(*inputs)


def _backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[no-untyped-def]
    x, weight = ctx.saved_tensors
    grad_x, grad_weight = _form_backward(grad, x, weight)
    return grad_x, grad_weight


def _backward_twice(ctx, *grads: Tensor) -> None:  # type: ignore[no-untyped-def]
    raise NotImplementedError(
        "quadratic_form has no second derivative in its packed form; use ditcnn.ops.reference_quadratic_form for that."
    )


_form.register_autograd(_backward, setup_context=_setup_context)
_form_backward.register_autograd(_backward_twice)


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
