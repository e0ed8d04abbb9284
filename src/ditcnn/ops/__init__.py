"""The quadratic form x'Ax at every position, and nothing else."""

import functools

import torch
from torch import Tensor
from torch._C import _len_torch_dispatch_stack
from torch._C._functorch import maybe_current_level
from torch.overrides import handle_torch_function, has_torch_function_variadic

from ditcnn.ops.custom_op import BACKENDS, Backend, custom_quadratic_form
from ditcnn.ops.flops import form_macs
from ditcnn.ops.low_rank import check_low_rank_shapes, low_rank_products
from ditcnn.ops.precision import in_working_precision, saturate
from ditcnn.ops.reference import check_inputs, reference_quadratic_form
from ditcnn.ops.transforms import op_has_no_rule

__all__ = [
    "BACKENDS",
    "Backend",
    "form_macs",
    "in_working_precision",
    "low_rank_form",
    "quadratic_form",
    "reference_quadratic_form",
    "saturate",
]


# Where the plain form is the fastest (benchmarks/growth.jsonl): one channel, where there is no symmetry to use; so few
# channels that the products are nothing beside the results; few products, done before the op's own overhead is; or few
# positions, for which packing A costs more than it saves.
FEWER_THAN_RESULTS = 8  # times
SMALL = 1 << 16  # products
FEW = 128  # positions
FEW_LIMIT = 1 << 23  # products that those may have: 32 MiB in float32


def quadratic_form(x: Tensor, weight: Tensor, *, backend: Backend = "auto") -> Tensor:
    r"""Evaluate :math:`y_o = x^\top A_o x` at every position.

    Only the symmetric part of each :math:`A_o` affects the result. Source: Liu et al., NeurIPS 2024, section 4.

    Costs ``O * C(C+1)/2`` multiplications a position and a few MiB of memory beyond the result, whatever the number of
    positions; the backward pass recomputes the products instead of keeping them. For one channel, eight times more outputs
    than products a position (C^2), up to 65,536 products in all, or up to 127 positions with at most 8 million products,
    the plain form is faster and is taken, with these products in memory. The same input gives the same bits.

    Derivatives of every mode and order are supported. Inside ``torch.func.grad``, ``jvp`` and their kin, in forward mode,
    and where a model is exported or traced, the plain form is taken, with all products in memory.

    Under autocast the form runs in bfloat16 where that is the autocast dtype. float16 is computed in float32: under autocast
    the result stays in it, outside it saturates at float16's largest number. Sums are float32, or float64 for float64.

    Args:
        x: Channel vectors, ``[..., C]``.
        weight: Matrices A, ``[O, C, C]``, as in ``nn.Bilinear``.
        backend: ``"auto"``: compiled code on a CPU, the packed form elsewhere. By name: ``"native"``, compiled code for
            float32 and bfloat16 on a CPU (Linux with GCC); ``"packed"``, tiles of products and matrix
            multiplications, any device; ``"fused"``, a Triton kernel for CUDA, unmeasured as yet; ``"reference"``, the
            published way. One asked for by name never gives way to another.

    Returns:
        ``[..., O]``, in the dtype of ``x`` (under autocast as above); units are those of ``x`` squared times those of
        ``weight``.

    Raises:
        ValueError: ``weight`` is not ``[O, C, C]`` for this ``C``, one is not of real floating-point numbers, the devices
            differ, or the dtypes do outside autocast, or the backend is unknown or not for these tensors.
        RuntimeError: The backend cannot be had here, or was named where it has no rule for a derivative.

    >>> import torch
    >>> quadratic_form(torch.tensor([1.0, 2.0]), torch.eye(2)[None])
    tensor([5.])
    """
    if has_torch_function_variadic(x, weight):  # a tracer's stand-in, which has no sizes to choose by
        y: Tensor = handle_torch_function(quadratic_form, (x, weight), x, weight, backend=backend)
        return y
    check_inputs(x, weight)
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}; got {backend!r}.")
    if backend == "reference" or (backend == "auto" and _plain_is_better(x.shape, weight.shape[0])):
        return in_working_precision(reference_quadratic_form, x, weight)
    return in_working_precision(functools.partial(custom_quadratic_form, backend=backend), x, weight)


def _plain_is_better(shape: torch.Size, outputs: int) -> bool:
    # Exporters and tracers shall see plain nodes, which other programs have; transforms, operations with all rules.
    if torch.compiler.is_exporting() or torch._C._get_tracing_state() is not None or op_has_no_rule():
        return True
    # Sizes may be symbols in a compiler, or those of one sample under vmap; and what counts operations shall count one op.
    if torch.compiler.is_compiling() or maybe_current_level() is not None or _len_torch_dispatch_stack():
        return False
    channels, products = shape[-1], shape.numel() * shape[-1]
    if channels == 1 or channels**2 * FEWER_THAN_RESULTS <= outputs or products <= SMALL:
        return True
    return products <= FEW_LIMIT and products < FEW * channels**2


def low_rank_form(x: Tensor, u: Tensor, v: Tensor) -> Tensor:
    r"""Evaluate :math:`V (U x)^2`, the quadratic form with :math:`A_o = \sum_r V_{or}\, u_r u_r^\top`, at every position.

    Costs ``R * (C + O)`` multiplications a position. Precision is handled as in `quadratic_form`.

    Args:
        x: Channel vectors, ``[..., C]``.
        u: U, ``[R, C]``.
        v: V, ``[O, R]``.

    Returns:
        ``[..., O]``, in the dtype of ``x`` (under autocast as in `quadratic_form`).

    Raises:
        ValueError: The shapes do not fit, or the dtypes differ outside autocast.

    >>> import torch
    >>> low_rank_form(torch.tensor([1.0, 2.0]), torch.tensor([[1.0, 1.0]]), torch.tensor([[1.0], [-2.0]]))
    tensor([  9., -18.])
    """
    if has_torch_function_variadic(x, u, v):
        y: Tensor = handle_torch_function(low_rank_form, (x, u, v), x, u, v)
        return y
    check_low_rank_shapes(x, u, v)
    return in_working_precision(low_rank_products, x, u, v)
