"""The form as an op of torch's: one node for the compiler, an explicit backward that recomputes the products.

The op takes x as ``[N, P, C]`` of any strides, so that a map with channels first is read where it lies; results have
channels where x has them.
"""

from typing import Literal

import torch
from torch import Tensor

from ditcnn.ops.fused import fused_backward, fused_forward
from ditcnn.ops.native import native_available, native_backward, native_forward
from ditcnn.ops.packed import packed_backward, packed_forward
from ditcnn.ops.precision import without_autocast
from ditcnn.ops.reference import reference_gradients, reference_quadratic_form
from ditcnn.ops.transforms import brings_many, op_has_no_rule, refuse_transform

__all__ = ["BACKENDS", "Backend", "custom_quadratic_form"]

Backend = Literal["auto", "reference", "packed", "native", "fused"]
BACKENDS: tuple[Backend, ...] = ("auto", "reference", "packed", "native", "fused")

NATIVE_DTYPES = (torch.float32, torch.bfloat16)


def custom_quadratic_form(x: Tensor, weight: Tensor, backend: str) -> Tensor:
    """Evaluate x'Ax by the op; shapes and dtypes are already checked."""
    y = _evaluate(_as_images(x), weight, backend)
    return y.reshape(*x.shape[:-1], weight.shape[0])


def _evaluate(x: Tensor, weight: Tensor, backend: str) -> Tensor:
    if op_has_no_rule():
        return reference_quadratic_form(x, weight) if backend == "auto" else refuse_transform(backend)
    y: Tensor = _form(x, weight, backend)
    return y


def _gradients(grad: Tensor, x: Tensor, weight: Tensor, backend: str, of_x: bool, of_weight: bool) -> list[Tensor]:
    # A graph that was recorded outside a transform may be run inside it, or for many gradients at once.
    if op_has_no_rule() or brings_many(grad):
        return list(reference_gradients(grad, x, weight)) if backend == "auto" else refuse_transform(backend)
    gradients: list[Tensor] = _form_backward(grad, x, weight, backend, of_x, of_weight)
    return gradients


def _as_images(x: Tensor) -> Tensor:
    """Return x as ``[N, P, C]``: a view, unless its strides do not allow it."""
    if x.ndim < 3:
        return x.reshape(1, x.shape[0] if x.ndim == 2 else 1, x.shape[-1])
    return x.flatten(1, -2) if x.ndim > 3 else x


@torch.library.custom_op("ditcnn::quadratic_form", mutates_args=())
def _form(x: Tensor, weight: Tensor, backend: str) -> Tensor:
    y = _beside(x, weight.shape[0])
    if y.numel() == 0 or x.shape[-1] == 0:
        return y.zero_()
    chosen = _choose(backend, x)
    if chosen == "native":
        native_forward(x, weight, y)
    else:
        forward = fused_forward if chosen == "fused" else packed_forward
        y.copy_(forward(x.reshape(-1, x.shape[-1]), weight.to(x.dtype)).view(y.shape))
    return y


@_form.register_fake
def _(x: Tensor, weight: Tensor, backend: str) -> Tensor:
    return _beside(x, weight.shape[0])


@torch.library.custom_op("ditcnn::quadratic_form_backward", mutates_args=())
def _form_backward(grad: Tensor, x: Tensor, weight: Tensor, backend: str, of_x: bool, of_weight: bool) -> list[Tensor]:
    """Return the gradients asked for; an empty tensor stands for one that is not."""
    grad_x, grad_weight = _empty_gradients(x, weight, of_x, of_weight)
    if grad.numel() == 0 or x.shape[-1] == 0:
        return [grad_x.zero_(), grad_weight.zero_().to(weight.dtype)]
    chosen = _choose(backend, x)
    if chosen == "native":
        native_backward(grad, x, weight, grad_x if of_x else None, grad_weight if of_weight else None)
    else:
        flat_grad, flat_x = (t.reshape(-1, t.shape[-1]) for t in (grad.to(x.dtype), x))
        matrices = (flat_grad, flat_x, weight.to(x.dtype))
        with without_autocast(x):  # as in the forward pass: products of float16 overflow
            gradients = fused_backward(*matrices) if chosen == "fused" else packed_backward(*matrices, of_x, of_weight)
        if of_x:
            grad_x.copy_(gradients[0].view(x.shape))
        if of_weight:
            grad_weight.copy_(gradients[1])
    return [grad_x, grad_weight.to(weight.dtype)]


@_form_backward.register_fake
def _(grad: Tensor, x: Tensor, weight: Tensor, backend: str, of_x: bool, of_weight: bool) -> list[Tensor]:
    grad_x, grad_weight = _empty_gradients(x, weight, of_x, of_weight)
    return [grad_x, grad_weight.to(weight.dtype)]


def _empty_gradients(x: Tensor, weight: Tensor, of_x: bool, of_weight: bool) -> tuple[Tensor, Tensor]:
    sums = torch.float64 if weight.dtype == torch.float64 else torch.float32
    grad_x = _beside(x, x.shape[-1]) if of_x else x.new_empty(0)
    return grad_x, weight.new_empty(weight.shape if of_weight else 0, dtype=sums)


def _beside(x: Tensor, channels: int) -> Tensor:
    """Return an empty map like ``x``, ``[N, P, channels]``, with channels last or first in memory as in x."""
    if x.stride(-1) == 1 or x.shape[-1] == 1:
        return x.new_empty(x.shape[0], x.shape[1], channels)
    return x.new_empty(x.shape[0], channels, x.shape[1]).transpose(1, 2)


def _choose(backend: str, x: Tensor) -> str:
    if backend == "auto":
        suited = x.device.type == "cpu" and x.dtype in NATIVE_DTYPES
        return "native" if suited and native_available() else "packed"
    if backend == "native":
        if x.device.type != "cpu" or x.dtype not in NATIVE_DTYPES:
            raise ValueError(f"backend='native' is for float32 and bfloat16 on a CPU; got {x.dtype} on {x.device}.")
        if not native_available():
            raise RuntimeError("backend='native' needs a C compiler (gcc) on Linux, and DITCNN_NATIVE not 0.")
    return backend


def _setup_context(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    x, weight, ctx.backend = inputs
    ctx.save_for_backward(x, weight)


def _backward(ctx, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:  # type: ignore[no-untyped-def]
    x, weight = ctx.saved_tensors
    of_x, of_weight, _ = ctx.needs_input_grad
    grad_x, grad_weight = _gradients(grad, x, weight, ctx.backend, of_x, of_weight)
    return grad_x if of_x else None, grad_weight if of_weight else None, None


def _setup_backward_context(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    grad, x, weight, ctx.backend, ctx.of_x, ctx.of_weight = inputs
    ctx.save_for_backward(grad, x, weight)


def _backward_twice(ctx, grads: list[Tensor]):  # type: ignore[no-untyped-def]
    r"""Differentiate :math:`\langle u, \bar x \rangle + \langle B, \bar A \rangle`, u and B the incoming gradients.

    With q(x; A) the form this is :math:`\langle g, u'(A + A')x + q(x; B) \rangle`, and by polarisation
    :math:`u'(A + A')x = (q(x + su; A) - q(x - su; A)) / 2s`, s chosen so that x and su are of one size. So it is made of the
    op itself. In half precision x + su would lose the smaller of the two and the differences their digits, so this is
    computed in float32.
    """
    dtypes = [t.dtype for t in ctx.saved_tensors]
    wide = torch.promote_types(dtypes[1], torch.float32)
    grad, x, weight = (t.to(wide) for t in ctx.saved_tensors)
    u, extra = (t.to(wide) for t in grads)
    of_grad = torch.zeros_like(grad)
    of_x, of_weight = torch.zeros_like(x), torch.zeros_like(weight)
    if ctx.of_x:
        ratio = x.detach().norm() / u.detach().norm()
        scale = torch.where(ratio.isfinite() & (ratio > 0), ratio, torch.ones_like(ratio))
        for sign in (1, -1):
            shifted = x + sign * scale * u
            of_grad = of_grad + sign * _evaluate(shifted, weight, ctx.backend) / (2 * scale)
            gx, gw = _gradients(grad, shifted, weight, ctx.backend, True, True)
            of_x, of_weight = of_x + sign * gx / (2 * scale), of_weight + sign * gw / (2 * scale)
    if ctx.of_weight:
        of_grad = of_grad + _evaluate(x, extra, ctx.backend)
        of_x = of_x + _gradients(grad, x, extra, ctx.backend, True, False)[0]
    of_grad, of_x, of_weight = (t.to(dtype) for t, dtype in zip((of_grad, of_x, of_weight), dtypes, strict=True))
    return of_grad, of_x, of_weight, None, None, None


_form.register_autograd(_backward, setup_context=_setup_context)
_form_backward.register_autograd(_backward_twice, setup_context=_setup_backward_context)


@_form.register_vmap
def _(info, in_dims, x: Tensor, weight: Tensor, backend: str):  # type: ignore[no-untyped-def]
    """Map over x alone by one call, its mapped dimension being one more of positions; over A by a loop."""
    x_dim, weight_dim, _ = in_dims
    if weight_dim is None:
        mapped = x.movedim(x_dim, 0)
        y = _form(mapped.flatten(0, 1), weight, backend)
        return y.unflatten(0, mapped.shape[:2]), 0
    forms = [_form(_at(x, x_dim, k), _at(weight, weight_dim, k), backend) for k in range(info.batch_size)]
    return torch.stack(forms), 0


@_form_backward.register_vmap
def _(info, in_dims, grad: Tensor, x: Tensor, weight: Tensor, backend: str, of_x: bool, of_weight: bool):  # type: ignore[no-untyped-def]
    """Map by a loop: as many backward passes in no more memory than one, as for the rows of a Jacobian."""
    mapped = list(zip((grad, x, weight), in_dims[:3], strict=True))
    parts = [
        _form_backward(*(_at(t, dim, k) for t, dim in mapped), backend, of_x, of_weight) for k in range(info.batch_size)
    ]
    return [torch.stack(gradients) for gradients in zip(*parts, strict=True)], [0, 0]


def _at(tensor: Tensor, dim: int | None, k: int) -> Tensor:
    return tensor if dim is None else tensor.select(dim, k)
