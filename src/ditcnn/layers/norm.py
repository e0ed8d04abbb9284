"""Norms in front of the quadratic form."""

from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

__all__ = ["NORMS", "Norm", "SpatialLayerNorm", "make_norm"]

Norm = Literal["spatial", "instance", "batch", "none"]
NORMS: tuple[Norm, ...] = get_args(Norm)


class SpatialLayerNorm(nn.LayerNorm):
    """Layer normalisation of each channel over the positions of its map, with a weight and a bias per position.

    The published norm before the term. Its parameters tie it to one map size.

    Args:
        map_size: (H, W).

    Raises:
        ValueError: The map has another size.
    """

    def __init__(self, map_size: Sequence[int], **factory: Any) -> None:
        super().__init__(list(map_size), **factory)

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


class InstanceNorm(nn.GroupNorm):
    """Normalisation of each channel over the positions of its map, with a weight and a bias per channel.

    ``nn.InstanceNorm2d`` and ``nn.GroupNorm`` refuse a single image of one position, even in eval mode; this gives the bias.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalised map."""
        return torch.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)


def make_norm(norm: Norm | None, channels: int, map_size: Sequence[int] | None, **factory: Any) -> nn.Module:
    """Return the norm of that name for maps ``[N, channels, H, W]``; `QuadraticForm2d` says which there are.

    Raises:
        ValueError: There is no such norm, or the one with a parameter per position has no map size.
    """
    if norm == "spatial":
        if map_size is None:
            raise ValueError(
                "norm='spatial' needs map_size=(H, W): its parameters are one a position. For maps of any size: "
                "norm='instance', 'batch' or None."
            )
        return SpatialLayerNorm(map_size, **factory)
    if norm == "instance":
        return InstanceNorm(channels, channels, **factory)
    if norm == "batch":
        return nn.BatchNorm2d(channels, **factory)
    if norm in (None, "none"):
        return nn.Identity()
    raise ValueError(f"norm must be one of {', '.join(NORMS)}; got {norm!r}.")
