r"""The form for CUDA in Triton: products are made in registers and never reach global memory. Opt-in, and *unmeasured*.

On the matrix units (all but exact float32) they are made where a matrix instruction reads them; exact float32, which those
do not have, passes them through shared memory to ordinary multiplications.

It is checked in Triton's interpreter and compiled ahead of time (``benchmarks/fused_compile.jsonl``: registers, spills,
shared memory); until it has run on a GPU nothing is known of its speed, nor of its bits there.

Forward and the gradient of x are one contraction, :math:`y_{tn} = \sum_{ab} u_{ta} v_{tb} W_{abn}`: with u = v = x and the
triangle W of A + A' for the form, where blocks below the diagonal are skipped; with u the gradient, v = x and W = A + A' for
its derivative. That one runs over the whole of A: half of it would have to be scattered into two blocks of channels, where
now every program owns its part of the result and sums it in the matrix units. The gradient of A is a second kernel,
:math:`G_{oij} = \sum_t g_{to} x_{ti} x_{tj}` for :math:`i \le j`, over splits of the positions that are added in order.
Source of the form: Liu et al., NeurIPS 2024, section 4.
"""

from dataclasses import dataclass
from types import ModuleType
from typing import Literal

import torch
from torch import Tensor

Precision = Literal["ieee", "tf32x3", "tf32"]

CHANNELS = 16  # of a block, the second factor of its products; the waste on the diagonal is CHANNELS/C of the work
PROGRAMS = 512  # of the weight's gradient: several for every multiprocessor of a large GPU, and the same splits on any


@dataclass(frozen=True)
class Tiles:
    """What one program of a kernel works on."""

    positions: int
    outputs: int  # at most; 32 at least
    rows: int  # first factors of the products in a step, of which CHANNELS are the second
    warps: int = 4
    stages: int = 3

    def outputs_for(self, outputs: int) -> int:
        """Return the power of two that wastes the fewest columns, and of those the largest."""
        sizes = [size for size in (32, 64, 128) if size <= self.outputs]
        return min(sizes, key=lambda size: (_cdiv(outputs, size) * size, -size))


@dataclass(frozen=True)
class Plan:
    """How products are multiplied, and the tiles that fit into registers then."""

    dot: torch.dtype
    precision: Precision
    contract: Tiles
    correlate: Tiles


# Tiles with next to no spills on sm_80 and sm_90 (benchmarks/fused_compile.py); not tuned for speed, which is unmeasured.
FLOAT32: dict[str, Plan] = {
    "ieee": Plan(torch.float32, "ieee", Tiles(64, 64, rows=1), Tiles(32, 32, rows=4)),
    "tf32x3": Plan(torch.float32, "tf32x3", Tiles(64, 32, rows=1), Tiles(16, 32, rows=4)),
    "tf32": Plan(torch.float32, "tf32", Tiles(128, 128, rows=2, warps=8), Tiles(32, 64, rows=4)),
}
# Products of float16 pass its largest number once |x| > 256. TF32 has float16's mantissa and float32's exponents: nothing
# overflows and no scale is to be carried along, at half the rate of the matrix units.
FLOAT16 = FLOAT32["tf32"]
# bfloat16 has float32's exponents: products are made in float32 and rounded once.
BFLOAT16 = Plan(torch.bfloat16, "ieee", Tiles(64, 128, rows=4), Tiles(64, 64, rows=4))


def fused_forward(x: Tensor, weight: Tensor, *, input_precision: Precision = "ieee") -> Tensor:
    r"""Evaluate :math:`y_{to} = \sum_{ij} A_{oij} x_{ti} x_{tj}` without the products in memory.

    Costs ``O * C(C+16)/2`` multiplications a position, and a few times ``O * C * C`` numbers of memory beyond the result.

    Args:
        x: Channel vectors, ``[T, C]``, float32, bfloat16 or float16.
        weight: Matrices A, ``[O, C, C]``, of that dtype.
        input_precision: How float32 is multiplied: ``"ieee"`` exactly, ``"tf32x3"`` nearly so and ``"tf32"`` with 10 bits of
            mantissa on the matrix units. Half precision takes its own way; sums are always float32.

    Returns:
        ``[T, O]``, in the dtype of ``x``.

    Raises:
        ValueError: The dtype or ``input_precision`` is none of these.
        RuntimeError: Triton is missing, or ``x`` is not on a CUDA device of compute capability 8.0 or later.
    """
    plan = _plan(x.dtype, input_precision)
    kernels = _kernels(x)
    doubled = weight.float()
    triangle = doubled.triu() + doubled.tril(-1).mT  # y is the sum over i <= j of (A_ij + A_ji) x_i x_j, and A_ii x_i^2
    return _contract(kernels, plan, x, x, triangle.permute(1, 2, 0), triangular=True)


def fused_backward(grad: Tensor, x: Tensor, weight: Tensor, *, input_precision: Precision = "ieee") -> tuple[Tensor, Tensor]:
    r"""Return the gradients of x and A from that of :math:`y = x^\top A x`, with the products made again.

    :math:`\bar x_{ti} = \sum_{oj} g_{to} x_{tj} (A_{oji} + A_{oij})` costs ``O * C * C`` multiplications a position, and
    :math:`\bar A_{oij} = \sum_t g_{to} x_{ti} x_{tj}` costs ``O * C(C+16)/2``. Sums are float32 in a fixed order, without
    atomic additions: the same input gives the same bits on the same device, and :math:`\bar A_o` is symmetric to the bit.
    Memory beyond the results: a few times ``O * C * C`` numbers, and at most 16 MiB more of partial sums.

    Args:
        grad: Gradient of the result, ``[T, O]``, in the dtype of ``x``.
        x: Channel vectors, ``[T, C]``, as in `fused_forward`.
        weight: Matrices A, ``[O, C, C]``.
        input_precision: As in `fused_forward`.

    Returns:
        Gradients of ``x``, ``[T, C]``, and of ``weight``, ``[O, C, C]``, in their dtypes.

    Raises:
        ValueError: As `fused_forward`.
        RuntimeError: As `fused_forward`.
    """
    plan = _plan(x.dtype, input_precision)
    kernels = _kernels(x)
    doubled = weight.float()
    grad_x = _contract(kernels, plan, grad, x, doubled + doubled.mT, triangular=False)
    upper = _correlate(kernels, plan, x, grad).triu()
    return grad_x, (upper + upper.triu(1).mT).to(weight.dtype)


def _contract(kernels: ModuleType, plan: Plan, u: Tensor, v: Tensor, weight: Tensor, *, triangular: bool) -> Tensor:
    """Return the sums ``[T, N]`` of u[t, a] v[t, b] W[a, b, n] over a and b (over blocks with a <= b if triangular)."""
    tiles, dot = plan.contract, _dot(kernels, plan)
    u, v, weight = u.contiguous(), v.contiguous(), weight.to(dot).contiguous()
    y = v.new_empty(len(v), weight.shape[2])
    block = tiles.outputs_for(y.shape[1])
    if y.numel():
        grid = (_cdiv(len(y), tiles.positions), _cdiv(y.shape[1], block))
        with torch.cuda.device_of(v):
            kernels.contract_products[grid](
                *(u, v, weight, y, len(y), u.shape[1], v.shape[1], y.shape[1]),
                TRIANGULAR=triangular,
                DOT=kernels.DTYPES[dot],
                PRECISION=plan.precision,
                BLOCK_T=tiles.positions,
                BLOCK_N=block,
                BLOCK_A=tiles.rows,
                BLOCK_B=CHANNELS,
                num_warps=tiles.warps,
                num_stages=tiles.stages,
            )
    return y


def _correlate(kernels: ModuleType, plan: Plan, x: Tensor, grad: Tensor) -> Tensor:
    """Return the sums ``[O, C, C]`` of g[t, o] x[t, i] x[t, j] over t, in float32; only i <= j has a meaning."""
    tiles, x, grad = plan.correlate, x.contiguous(), grad.contiguous()
    (positions, channels), outputs = x.shape, grad.shape[1]
    block = tiles.outputs_for(outputs)
    pairs = _cdiv(channels, tiles.rows) * _cdiv(channels, CHANNELS)
    steps = _cdiv(positions, tiles.positions)
    splits = max(
        1, min(steps, 2 * PROGRAMS // max(1, pairs * _cdiv(outputs, block)))
    )  # half of the pairs have nothing to do
    parts = x.new_empty(splits, outputs, channels, channels, dtype=torch.float32)
    if parts.numel():
        with torch.cuda.device_of(x):
            kernels.correlate_products[(pairs, _cdiv(outputs, block), splits)](
                *(x, grad, parts, positions, channels, outputs, _cdiv(steps, splits) * tiles.positions),
                DOT=kernels.DTYPES[_dot(kernels, plan)],
                PRECISION=plan.precision,
                BLOCK_T=tiles.positions,
                BLOCK_N=block,
                BLOCK_I=tiles.rows,
                BLOCK_J=CHANNELS,
                num_warps=tiles.warps,
                num_stages=tiles.stages,
            )
    return parts.sum(0)


def _plan(dtype: torch.dtype, input_precision: str) -> Plan:
    if input_precision not in FLOAT32:
        raise ValueError(f"input_precision must be one of {', '.join(FLOAT32)}; got {input_precision!r}.")
    plans = {torch.float32: FLOAT32[input_precision], torch.bfloat16: BFLOAT16, torch.float16: FLOAT16}
    if dtype not in plans:
        raise ValueError(f"The fused form takes float32, bfloat16 and float16; got {dtype}. Cast x, or use the packed form.")
    return plans[dtype]


def _kernels(x: Tensor) -> ModuleType:
    """Return the module of kernels, imported now, once it is certain that they can run where ``x`` is."""
    try:
        from ditcnn.ops import fused_kernels
    except ImportError as error:
        raise RuntimeError(
            f"The fused form needs Triton, which cannot be imported ({error}). Install triton, or use the packed form."
        ) from error
    if fused_kernels.INTERPRETED:
        return fused_kernels
    if not x.is_cuda:
        raise RuntimeError(
            f"The fused form needs tensors on a CUDA device; got {x.device}. Move them there, or use the packed form."
        )
    if torch.cuda.get_device_capability(x.device) < (8, 0):
        raise RuntimeError(
            f"The fused form needs compute capability 8.0 or later; {torch.cuda.get_device_name(x.device)} has "
            f"{'.'.join(map(str, torch.cuda.get_device_capability(x.device)))}. Use the packed form."
        )
    return fused_kernels


def _dot(kernels: ModuleType, plan: Plan) -> torch.dtype:
    """Return the type of products; the interpreter cannot multiply bfloat16: it takes its bits for integers."""
    return torch.float32 if kernels.INTERPRETED else plan.dot


def _cdiv(a: int, b: int) -> int:
    return -(-a // b)
