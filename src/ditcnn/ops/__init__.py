"""The quadratic form x'Ax at every position, and nothing else."""

import torch
from torch import Tensor

from ditcnn.ops.low_rank import check_low_rank_shapes, low_rank_products
from ditcnn.ops.packed import packed_quadratic_form
from ditcnn.ops.precision import in_working_precision, saturate
from ditcnn.ops.reference import check_shapes, reference_quadratic_form

__all__ = ["low_rank_form", "quadratic_form", "reference_quadratic_form", "saturate"]


def quadratic_form(x: Tensor, weight: Tensor) -> Tensor:
    r"""Evaluate :math:`y_o = x^\top A_o x` at every position.

    Only the symmetric part of each :math:`A_o` affects the result. Source: Liu et al., NeurIPS 2024, section 4.

    Costs ``O * C(C+1)/2`` multiplications a position (rounded up to blocks of channels) and a few MiB of memory beyond
    the result, whatever the number of positions; the backward pass recomputes the products instead of keeping them.

    Under autocast the form runs in bfloat16 where that is the autocast dtype. float16 is computed in float32: under autocast
    the result stays in it, outside it saturates at float16's largest number.

    Args:
        x: Channel vectors, ``[..., C]``.
        weight: Matrices A, ``[O, C, C]``, as in ``nn.Bilinear``.

    Returns:
        ``[..., O]``, in the dtype of ``x`` (under autocast as above); units are those of ``x`` squared times those of
        ``weight``.

    Raises:
        ValueError: ``weight`` is not ``[O, C, C]`` for this ``C``, or the dtypes differ outside autocast.

    >>> import torch
    >>> quadratic_form(torch.tensor([1.0, 2.0]), torch.eye(2)[None])
    tensor([5.])
    """
    check_shapes(x, weight)
    # torch.export and ONNX shall see plain nodes, not a custom op.
    form = reference_quadratic_form if torch.compiler.is_exporting() else packed_quadratic_form
    return in_working_precision(form, x, weight)


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
    check_low_rank_shapes(x, u, v)
    return in_working_precision(low_rank_products, x, u, v)
