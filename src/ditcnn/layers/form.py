"""The quadratic form as a module: of vectors, and of feature maps."""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.fx import Proxy

from ditcnn.layers.foreign import as_leaf
from ditcnn.layers.norm import Norm, make_norm
from ditcnn.layers.rates import watch_rate
from ditcnn.ops import low_rank_form, quadratic_form

__all__ = ["QuadraticForm", "QuadraticForm2d"]


class QuadraticForm(nn.Module):
    r"""Quadratic form of the last dimension, :math:`q_o = x^\top A_o x`, zero at the start.

    From A = 0 every gradient is symmetric, and SGD and AdamW keep A symmetric. With ``rank=R`` each A is
    :math:`\sum_r V_{or}\, u_r u_r^\top`, so :math:`q = V (U x)^2`: for layers so wide that C^2 parameters an output are
    too many. U is drawn as ``nn.Linear`` draws its weight and V is zero; so the first step moves V alone. Source: Liu et
    al., NeurIPS 2024, section 4; the low-rank form is ours.

    The type marks what trains at its own rate: `ditcnn.parameter_groups` is made from it, not from parameters' names.

    Args:
        in_features: C.
        out_features: O.
        rank: R, or None for the whole matrices.
        rate: Learning rate of these parameters, as a multiple of the model's; `ditcnn.parameter_groups` applies it.

    Shapes:
        ``[..., C]`` -> ``[..., O]``. ``weight`` is A, ``[O, C, C]``; with a rank ``u`` is U, ``[R, C]``, and ``v`` is V,
        ``[O, R]``.

    Raises:
        ValueError: A size is not positive, the rate is negative, or the input has not C features.

    >>> form = QuadraticForm(2, 1)
    >>> _ = nn.init.ones_(form.weight)
    >>> form(torch.tensor([1.0, 2.0])).tolist()
    [9.0]
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        rank: int | None = None,
        rate: float = 1.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        for name, value in (("in_features", in_features), ("out_features", out_features), ("rank", rank)):
            if value is not None and value < 1:
                raise ValueError(f"{name} must be above 0; got {value}.")
        if not rate >= 0:
            raise ValueError(f"rate must not be negative; got {rate}.")
        self.in_features, self.out_features = in_features, out_features
        self.rank, self.rate = rank, rate
        factory: dict[str, Any] = {"device": device, "dtype": dtype}
        if rank is None:  # Store A whole: a packed triangle rescales off-diagonal SGD steps.
            self.weight = nn.Parameter(torch.empty(out_features, in_features, in_features, **factory))
        else:
            self.u = nn.Parameter(torch.empty(rank, in_features, **factory))
            self.v = nn.Parameter(torch.empty(out_features, rank, **factory))
        self.reset_parameters()
        watch_rate(self, rate)

    def __setstate__(self, state: dict[str, Any]) -> None:  # of a copy, whose parameters are others
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        watch_rate(self, self.rate)

    def reset_parameters(self) -> None:
        """Set the form to zero."""
        if self.rank is None:
            nn.init.zeros_(self.weight)
        else:
            nn.init.kaiming_uniform_(self.u, a=5**0.5)
            nn.init.zeros_(self.v)

    def matrices(self) -> Tensor:
        """Return the symmetric A of each output, ``[O, C, C]``."""
        if self.rank is None:
            return (self.weight + self.weight.mT) / 2
        return torch.einsum("or,ri,rj->oij", self.v, self.u, self.u)

    def forward(self, x: Tensor) -> Tensor:
        """Return the form of each vector."""
        if isinstance(x, Proxy):
            return cast(Tensor, as_leaf(self, x))
        return quadratic_form(x, self.weight) if self.rank is None else low_rank_form(x, self.u, self.v)

    def extra_repr(self) -> str:
        """Return the arguments, for printing."""
        rank = "" if self.rank is None else f", rank={self.rank}"
        rate = "" if self.rate == 1 else f", rate={self.rate:g}"
        return f"{self.in_features}, {self.out_features}{rank}{rate}"


class QuadraticForm2d(QuadraticForm):
    r"""Channel-wise quadratic form of a feature map, zero at the start.

    .. math:: q_{nohw} = \sum_{ij} A_{oij}\, z_{nihw}\, z_{njhw}, \qquad z = \mathrm{norm}(x)

    No bias and no kernel: each position of the map is one vector of C channels. Source: Liu et al., NeurIPS 2024,
    section 4.

    Args:
        in_channels: C.
        out_channels: O.
        rank, rate: As in `QuadraticForm`.
        norm: ``"spatial"`` normalises each channel over its positions, with an affine map per position (published for
            CIFAR; one map size); ``"instance"`` the same with an affine map per channel (any size); ``"batch"`` is batch
            normalisation; None or ``"none"`` leaves x as it is (published for ImageNet).
        map_size: (H, W) of the map, for ``"spatial"``.
        spatial_transpose: Replay the published CIFAR layer, whose result has height and width swapped: ``y[..., h, w]``
            holds the form of position (w, h). For loading and reproducing published networks; square maps only.

    Shapes:
        ``[N, C, H, W]`` -> ``[N, O, H, W]``, or without N. Parameters as in `QuadraticForm`.

    Raises:
        ValueError: The input has not three or four dimensions or not C channels, or ``spatial_transpose`` meets a map that
            is not square.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        rank: int | None = None,
        rate: float = 1.0,
        norm: Norm | None = None,
        map_size: Sequence[int] | None = None,
        spatial_transpose: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(in_channels, out_channels, rank=rank, rate=rate, device=device, dtype=dtype)
        self.norm = make_norm(norm, in_channels, map_size, device=device, dtype=dtype)
        watch_rate(self.norm, rate)
        self.spatial_transpose = spatial_transpose

    def forward(self, x: Tensor) -> Tensor:
        """Return the form at every position."""
        if isinstance(x, Proxy):
            return cast(Tensor, as_leaf(self, x))
        if x.ndim not in (3, 4) or x.shape[-3] != self.in_features:
            raise ValueError(f"x must have shape [N, {self.in_features}, H, W]; got {list(x.shape)}.")
        z = self.norm(x if x.ndim == 4 else x[None]).reshape(x.shape)
        first, last = x.ndim - 3, x.ndim - 1  # the older ONNX exporter copies negative dimensions as they are
        y = super().forward(z.movedim(first, last)).movedim(last, first)
        if not self.spatial_transpose:
            return y
        if x.shape[-2] != x.shape[-1]:
            raise ValueError(
                f"spatial_transpose swaps height and width and needs a square map; got {x.shape[-2]}x{x.shape[-1]}. "
                "Use spatial_transpose=False."
            )
        return y.mT

    def extra_repr(self) -> str:
        """Return the arguments, for printing."""
        return super().extra_repr() + (", spatial_transpose=True" if self.spatial_transpose else "")
