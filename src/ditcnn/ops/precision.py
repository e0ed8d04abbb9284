"""In which arithmetic a form is computed."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

__all__ = ["in_working_precision", "saturate", "without_autocast"]


def in_working_precision(form: Callable[..., Tensor], x: Tensor, *parameters: Tensor) -> Tensor:
    """Return ``form(x, *parameters)``, computed so that no product of half-precision inputs overflows.

    Under autocast the form runs in bfloat16 where that is the autocast dtype, else in float32, as
    ``torch.nn.functional.layer_norm`` does: products of float16 overflow once ``|x|`` passes 256. float16 inputs outside
    autocast are computed in float32, and the result saturates at float16's largest number.

    Raises:
        ValueError: The dtypes differ outside autocast.
    """
    device = "cpu" if x.is_cpu else x.device.type  # to ask for the type makes an object: 5 us, where a small call takes 150
    if x.dtype != torch.float64 and torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        dtype = torch.bfloat16 if torch.get_autocast_dtype(device) == torch.bfloat16 else torch.float32
        with torch.autocast(device, enabled=False):
            return form(x.to(dtype), *(p.to(dtype) for p in parameters))
    for p in parameters:
        if p.dtype != x.dtype:
            raise ValueError(f"x and weight must have one dtype; got {x.dtype} and {p.dtype}. Cast one, or use autocast.")
    if x.dtype == torch.float16:
        return saturate(form(x.float(), *(p.float() for p in parameters)), torch.float16)
    return form(x, *parameters)


def without_autocast(x: Tensor) -> AbstractContextManager[object]:
    """Return a context in which operations on the device of ``x`` keep the dtypes of their inputs."""
    device = x.device.type
    return torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()


def saturate(y: Tensor, dtype: torch.dtype) -> Tensor:
    """Return ``y`` in ``dtype``; what is too large for float16 becomes its largest number, not an infinity."""
    if y.dtype == dtype:
        return y
    if dtype == torch.float16:
        limit = torch.finfo(dtype).max
        y = y.clamp(-limit, limit)
    return y.to(dtype)
