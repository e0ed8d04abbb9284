"""The form in compiled code for CPUs: products made in registers, never in memory.

``kernel.c`` is one file of C without dependencies. GCC compiles it at the first use for the machine it runs on, in a
second or two, and it is kept in the cache folder. Without GCC nothing is lost but speed: ``backend="auto"`` then takes the
packed form.
"""

import ctypes

import torch
from torch import Tensor

from ditcnn.ops.native.build import load_library

__all__ = ["native_available", "native_backward", "native_forward"]


class _Map(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("image", ctypes.c_int64),
        ("position", ctypes.c_int64),
        ("channel", ctypes.c_int64),
        ("positions", ctypes.c_int64),
        ("bfloat16", ctypes.c_int32),
    )


def native_available() -> bool:
    """Say whether compiled code can be had here; the first call compiles it."""
    return load_library() is not None


def native_forward(x: Tensor, weight: Tensor, y: Tensor) -> None:
    """Write x'Ax into ``y``.

    Args:
        x: ``[N, P, C]``, float32 or bfloat16, of any strides.
        weight: ``[O, C, C]``, any dtype; taken in float32.
        y: ``[N, P, O]``, float32 or bfloat16, of any strides.
    """
    library, weight = _library(), weight.float().contiguous()
    outputs, channels = weight.shape[:2]
    packed = _scratch(library, channels, outputs)
    sizes = (ctypes.c_int64(x.shape[0] * x.shape[1]), channels, outputs)
    _check(library.ditcnn_form(_map(x), _pointer(weight), _map(y), *sizes, _pointer(packed), torch.get_num_threads()))


def native_backward(grad: Tensor, x: Tensor, weight: Tensor, grad_x: Tensor | None, grad_weight: Tensor | None) -> None:
    """Write the gradients into ``grad_x`` and ``grad_weight``, where they are asked for.

    Args:
        grad: ``[N, P, O]``, float32 or bfloat16, of any strides.
        x, weight: As in `native_forward`.
        grad_x: ``[N, P, C]``, float32 or bfloat16, of any strides.
        grad_weight: ``[O, C, C]``, float32, contiguous.
    """
    library = _library()
    outputs, channels = weight.shape[:2]
    scratch = _scratch(library, channels, outputs)
    sizes = (ctypes.c_int64(x.shape[0] * x.shape[1]), channels, outputs)
    threads = torch.get_num_threads()
    if grad_x is not None:
        weight = weight.float().contiguous()
        matrices = (_map(grad), _map(x), _pointer(weight), _map(grad_x))
        _check(library.ditcnn_grad_x(*matrices, *sizes, _pointer(scratch), threads))
    if grad_weight is not None:
        maps = (_map(grad), _map(x), _pointer(grad_weight))
        _check(library.ditcnn_grad_weight(*maps, *sizes, _pointer(scratch), threads))


def _library() -> ctypes.CDLL:
    library = load_library()
    assert library is not None  # callers ask native_available first
    return library


def _scratch(library: ctypes.CDLL, channels: int, outputs: int) -> Tensor:
    return torch.empty(library.ditcnn_packed_size(channels, outputs), dtype=torch.float32, device="cpu")


def _map(tensor: Tensor) -> object:
    bfloat16 = int(tensor.dtype == torch.bfloat16)
    return ctypes.byref(_Map(tensor.data_ptr(), *tensor.stride(), tensor.shape[1], bfloat16))


def _pointer(tensor: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())


def _check(failed: int) -> None:
    if failed:
        raise MemoryError("quadratic_form found no memory for its tiles.")
