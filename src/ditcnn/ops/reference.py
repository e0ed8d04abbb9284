"""The definition: slow, obvious, to be checked against the paper by eye."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def reference_quadratic_form(x: Tensor, weight: Tensor) -> Tensor:
    r"""Evaluate :math:`y_o = \sum_{ij} A_{oij} x_i x_j` from the matrix of all products.

    The published layer's way: it builds ``... x C^2`` numbers and keeps them for the backward pass. It is here to be
    compared with, and for exporters, which want plain operations.

    Args:
        x: Channel vectors, ``[..., C]``.
        weight: Matrices A, ``[O, C, C]``.

    Returns:
        ``[..., O]``.
    """
    if x.ndim != 2:  # a reshape to the same shape would still be two more nodes of autograd's, a tenth of a small call
        y = reference_quadratic_form(x.reshape(math.prod(x.shape[:-1]), x.shape[-1]), weight)
        return y.reshape(*x.shape[:-1], weight.shape[0])
    return F.linear(_products(x), weight.flatten(1))


def _products(x: Tensor) -> Tensor:
    """Return all x_i x_j, ``[T, C * C]``."""
    if x.shape[-1] == 1:  # one node of autograd's in place of four
        return x.square()
    return torch.bmm(x.unsqueeze(2), x.unsqueeze(1)).flatten(1)


def reference_gradients(grad: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    r"""Return :math:`\bar x_i = \sum_{oj} g_o (A_{oij} + A_{oji}) x_j` and :math:`\bar A_{oij} = \sum g_o x_i x_j`.

    Plain operations, for the transforms that have no rule for the op; half precision is computed in float32.

    Args:
        grad: Gradient of the result, ``[N, P, O]``.
        x: Channel vectors, ``[N, P, C]``.
        weight: Matrices A, ``[O, C, C]``.
    """
    dtypes = x.dtype, weight.dtype
    wide = torch.promote_types(x.dtype, torch.float32)
    grad, x, weight = grad.to(wide), x.to(wide), weight.to(wide)
    # In this order nothing large depends on the gradient, of which a transform may bring many at once.
    rows, vectors = grad.reshape(-1, 1, grad.shape[-1]), x.reshape(-1, x.shape[-1])
    forms = F.linear(vectors, (weight + weight.mT).flatten(0, 1)).unflatten(1, weight.shape[:2])  # (A + A')x, [T, O, C]
    grad_x = torch.bmm(rows, forms).reshape(x.shape)
    grad_weight = torch.mm(rows.squeeze(1).mT, _products(vectors)).reshape(weight.shape)
    return grad_x.to(dtypes[0]), grad_weight.to(dtypes[1])


def check_inputs(x: Tensor, weight: Tensor) -> None:
    """Raise ``ValueError`` unless ``weight`` is ``[O, C, C]`` for the C of ``x``, both real and on one device."""
    if x.ndim == 0:
        raise ValueError("x must have shape [..., C]; got a scalar.")
    channels = x.shape[-1]
    if weight.ndim != 3 or weight.shape[1] != channels or weight.shape[2] != channels:
        raise ValueError(
            f"weight must have shape [O, {channels}, {channels}] to match x with {channels} channels; "
            f"got {list(weight.shape)}."
        )
    if not (x.is_floating_point() and weight.is_floating_point()):
        raise ValueError(f"x and weight must be floating point, and real; got {x.dtype} and {weight.dtype}.")
    if x.device != weight.device:  # the op would read the one's memory as the other's
        raise ValueError(f"x and weight must be on one device; got {x.device} and {weight.device}.")
