"""The quadratic form with matrices of low rank."""

import torch.nn.functional as F
from torch import Tensor


def low_rank_products(x: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """Evaluate V(Ux)^2 as `ditcnn.ops.low_rank_form` does; shapes and dtypes are already checked."""
    return F.linear(F.linear(x, u).square(), v)


def check_low_rank_shapes(x: Tensor, u: Tensor, v: Tensor) -> None:
    """Raise ``ValueError`` unless ``u`` is ``[R, C]`` for the C of ``x`` and ``v`` ``[O, R]``."""
    if x.ndim == 0:
        raise ValueError("x must have shape [..., C]; got a scalar.")
    channels = x.shape[-1]
    if u.ndim != 2 or u.shape[1] != channels or v.ndim != 2 or v.shape[1] != u.shape[0]:
        raise ValueError(
            f"u must have shape [R, {channels}] to match x with {channels} channels, and v [O, R]; "
            f"got {list(u.shape)} and {list(v.shape)}."
        )
