"""The quadratic form x'Ax at every position, and nothing else."""

import torch
from torch import Tensor

from ditcnn.ops.packed import packed_quadratic_form
from ditcnn.ops.reference import check_shapes, reference_quadratic_form

__all__ = ["quadratic_form", "reference_quadratic_form"]


def quadratic_form(x: Tensor, weight: Tensor) -> Tensor:
    r"""Evaluate :math:`y_o = x^\top A_o x` at every position.

    Only the symmetric part of each :math:`A_o` affects the result. Source: Liu et al., NeurIPS 2024, section 4.

    Costs ``O * C(C+1)/2`` multiplications a position (rounded up to blocks of channels) and a few MiB of memory beyond
    the result, whatever the number of positions; the backward pass recomputes the products instead of keeping them.

    Under autocast the form runs in bfloat16 where that is the autocast dtype. float16 autocast runs it in float32, as
    ``torch.nn.functional.layer_norm`` does: products of float16 overflow once ``|x|`` passes 256.

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
    device = x.device.type
    autocast = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    if autocast and x.dtype != torch.float64:
        dtype = torch.bfloat16 if torch.get_autocast_dtype(device) == torch.bfloat16 else torch.float32
        with torch.autocast(device, enabled=False):
            return _dispatch(x.to(dtype), weight.to(dtype))
    return _dispatch(x, weight)


def _dispatch(x: Tensor, weight: Tensor) -> Tensor:
    if x.dtype != weight.dtype:
        raise ValueError(f"x and weight must have one dtype; got {x.dtype} and {weight.dtype}. Cast one, or use autocast.")
    if torch.compiler.is_exporting():  # torch.export and ONNX shall see plain nodes, not a custom op
        return reference_quadratic_form(x, weight)
    if x.dtype == torch.float16:  # products overflow once |x| passes 256
        return packed_quadratic_form(x.float(), weight.float()).half()
    return packed_quadratic_form(x, weight)
