"""Modules built on the quadratic form."""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from ditcnn.ops import quadratic_form

__all__ = ["NORMS", "Norm", "QuadraticForm2d", "QuadraticTerm2d", "SpatialLayerNorm"]

Norm = Literal["spatial", "instance", "batch", "none"]
NORMS: tuple[Norm, ...] = get_args(Norm)


class QuadraticForm2d(nn.Module):
    r"""Channel-wise quadratic form of a feature map.

    .. math:: q_{nohw} = \sum_{ij} A_{oij}\, x_{nihw}\, x_{njhw}

    No bias and no kernel: each position of the map is one vector of C channels. A starts at zero, so the form is zero until
    it is trained; from there every gradient is symmetric, and SGD and AdamW keep A symmetric. Source: Liu et al., NeurIPS
    2024, section 4.

    Args:
        in_channels: C.
        out_channels: O.
        spatial_transpose: Replay the published CIFAR layer, whose result has height and width swapped: ``y[..., h, w]``
            holds the form of position (w, h). For loading and reproducing published networks; square maps only.

    Shapes:
        ``[N, C, H, W]`` -> ``[N, O, H, W]``. ``weight`` is A, ``[O, C, C]``.

    Raises:
        ValueError: The input has not four dimensions or not C channels, or ``spatial_transpose`` meets a map that is not
            square.
    """

    def __init__(self, in_channels: int, out_channels: int, *, spatial_transpose: bool = False) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.spatial_transpose = spatial_transpose
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, in_channels))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set A to zero."""
        nn.init.zeros_(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Return the form at every position."""
        if x.ndim != 4 or x.shape[1] != self.in_channels:
            raise ValueError(f"x must have shape [N, {self.in_channels}, H, W]; got {list(x.shape)}.")
        y = quadratic_form(x.permute(0, 2, 3, 1), self.weight).permute(0, 3, 1, 2)
        if not self.spatial_transpose:
            return y
        if x.shape[2] != x.shape[3]:
            raise ValueError(
                f"spatial_transpose swaps height and width and needs a square map; got {x.shape[2]}x{x.shape[3]}. "
                "Use spatial_transpose=False."
            )
        return y.mT

    def extra_repr(self) -> str:
        """Return the arguments, for printing."""
        swap = ", spatial_transpose=True" if self.spatial_transpose else ""
        return f"{self.in_channels}, {self.out_channels}{swap}"


class SpatialLayerNorm(nn.LayerNorm):
    """Layer normalisation of each channel over the positions of its map, with a weight and a bias per position.

    The published norm before the term. Its parameters tie it to one map size.

    Args:
        map_size: (H, W).

    Raises:
        ValueError: The map has another size.
    """

    def __init__(self, map_size: Sequence[int]) -> None:
        super().__init__(list(map_size))

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalised map."""
        if tuple(x.shape[-2:]) != tuple(self.normalized_shape):
            built, got = ("x".join(map(str, size)) for size in (self.normalized_shape, x.shape[-2:]))
            raise ValueError(
                f"the norm before the quadratic term ('spatial', the published one) is built for maps of {built} and got "
                f"{got}. Build the model with img_size of your images, or choose a norm for any size: "
                "quadratic_norm='instance', 'batch' or 'none'."
            )
        return super().forward(x)


class QuadraticTerm2d(nn.Module):
    """The quadratic form of a normalised feature map: ``form(norm(x))``.

    The type marks what trains at its own rate: optimiser groups are made from it, not from parameters' names.

    Args:
        in_channels: C.
        out_channels: O.
        norm: ``"spatial"`` normalises each channel over its positions, with an affine map per position (published; one map
            size); ``"instance"`` the same with an affine map per channel (any size); ``"batch"`` is batch
            normalisation; ``"none"`` leaves x as it is.
        map_size: (H, W) of the map, for ``"spatial"``.
        spatial_transpose: As in `QuadraticForm2d`.

    Shapes:
        ``[N, C, H, W]`` -> ``[N, O, H, W]``.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        norm: Norm = "none",
        map_size: Sequence[int] | None = None,
        spatial_transpose: bool = False,
    ) -> None:
        super().__init__()
        self.norm = _make_norm(norm, in_channels, map_size)
        self.form = QuadraticForm2d(in_channels, out_channels, spatial_transpose=spatial_transpose)

    def forward(self, x: Tensor) -> Tensor:
        """Return the form of the normalised map."""
        y: Tensor = self.form(self.norm(x))
        return y


def _make_norm(norm: Norm, channels: int, map_size: Sequence[int] | None) -> nn.Module:
    if norm == "spatial":
        if map_size is None:
            raise ValueError("norm='spatial' needs map_size=(H, W): its parameters are one a position.")
        return SpatialLayerNorm(map_size)
    if norm == "instance":
        return nn.GroupNorm(channels, channels)  # InstanceNorm2d with affine, but for 1x1 maps too
    if norm == "batch":
        return nn.BatchNorm2d(channels)
    if norm == "none":
        return nn.Identity()
    raise ValueError(f"norm must be one of {', '.join(NORMS)}; got {norm!r}.")
