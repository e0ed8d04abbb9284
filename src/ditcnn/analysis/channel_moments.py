"""Mean and covariance of channels over images and positions, batch by batch."""

import torch
from torch import Tensor

__all__ = ["ChannelMoments"]


class ChannelMoments:
    """Mean m and covariance S of channel vectors, over all images and positions of the maps that were added.

    Sums are in float64, of differences from the first batch's mean, so that a large mean costs no digits.

    >>> moments = ChannelMoments()
    >>> moments.add(torch.tensor([[[[0.0, 2.0]], [[0.0, 4.0]]]]))
    >>> moments.mean.tolist(), moments.covariance.tolist()
    ([1.0, 2.0], [[1.0, 2.0], [2.0, 4.0]])
    """

    def __init__(self) -> None:
        self.count = 0

    def add(self, maps: Tensor) -> None:
        """Take in maps ``[N, C, H, W]``."""
        vectors = maps.movedim(1, -1).flatten(0, -2).double()
        if not self.count:
            self._origin = vectors.mean(0)
            self._sum = torch.zeros_like(self._origin)
            self._products = torch.zeros(len(self._sum), len(self._sum), dtype=torch.float64, device=maps.device)
        vectors = vectors - self._origin
        self.count += len(vectors)
        self._sum += vectors.sum(0)
        self._products += vectors.T @ vectors

    @property
    def mean(self) -> Tensor:
        """m, ``[C]``."""
        return self._origin + self._sum / self.count

    @property
    def covariance(self) -> Tensor:
        """S = E[xx'] - mm', ``[C, C]``."""
        mean = self._sum / self.count
        return self._products / self.count - torch.outer(mean, mean)
