r"""Colour images whose classes differ in one kind of correlation alone.

Four classes of Gaussian images with mean zero and variance one in every pixel of every channel, periodic and stationary,
given by their cross-spectra (`ditcnn.analysis.stationary`). Between classes the families differ so:

- ``channels``: in how the three channels correlate at a position. Every channel, looked at alone, is the same random
  field in all classes, with the smooth spectrum of natural images.
- ``white-channels``: the same, independent between positions: the channels' covariance at a position is all there is.
- ``neighbours``: in how neighbouring positions correlate. Channels are independent, and a position looked at alone
  has the same distribution in all classes.
"""

from typing import Literal, get_args

import torch
from torch import Tensor

from ditcnn.system.errors import InputError

__all__ = ["CLASSES", "FAMILIES", "Family", "cross_spectra"]

Family = Literal["channels", "white-channels", "neighbours"]
FAMILIES: tuple[Family, ...] = get_args(Family)
CHANNELS = 3
CLASSES = 4

# Class 0 correlates every pair of channels by +s; in the others one channel has its sign turned, so two pairs have -s.
SIGNS = torch.tensor([[1, 1, 1], [-1, 1, 1], [1, -1, 1], [1, 1, -1]], dtype=torch.float64)
# The neighbour that a position correlates with: right, below, and the two diagonals.
STEPS = ((0, 1), (1, 0), (1, 1), (1, -1))


def cross_spectra(family: Family, strength: float, size: int) -> Tensor:
    r"""Return the cross-spectra of a family's four classes.

    ``channels``: :math:`G_k(f) = S(f) R_k`, where R has ones on its diagonal and :math:`\pm s` beside it, and
    :math:`S(f) \propto 1/(|f|^2 + 1)`, f in cycles an image; ``white-channels``: the same with S = 1.
    ``neighbours``: :math:`G_k(f) = (1 + 2 s \cos 2\pi f\cdot d_k) I`, which is correlation s with the two positions at
    :math:`\pm d_k` and none with others.

    Args:
        family: See above.
        strength: s, a correlation: at least 0, below 1 for channels and below 1/2 for neighbours.
        size: Height and width, at least 4.

    Returns:
        G, ``[4, size, size, 3, 3]``, float64.

    Raises:
        InputError: There is no such family, or a value is out of its range.
    """
    if family not in FAMILIES:
        raise InputError(f"family must be one of {', '.join(FAMILIES)}; got {family!r}.")
    limit = 0.5 if family == "neighbours" else 1.0
    if not 0 <= strength < limit:
        raise InputError(f"the strength of family {family} must be at least 0 and below {limit:g}; got {strength}.")
    if size < 4:
        raise InputError(f"images must be at least 4 wide, for neighbours to be distinct; got {size}.")
    cycles = torch.fft.fftfreq(size, 1 / size, dtype=torch.float64)
    down, right = torch.meshgrid(cycles, cycles, indexing="ij")
    if family == "neighbours":
        angles = torch.stack([2 * torch.pi * (down * a + right * b) / size for a, b in STEPS])
        return (1 + 2 * strength * angles.cos())[..., None, None] * torch.eye(CHANNELS, dtype=torch.float64)
    power = torch.ones(size, size, dtype=torch.float64) if family == "white-channels" else 1 / (down**2 + right**2 + 1)
    equal = torch.full((CHANNELS, CHANNELS), strength, dtype=torch.float64).fill_diagonal_(1)
    correlations = SIGNS[:, :, None] * equal * SIGNS[:, None, :]
    return (power / power.mean())[None, :, :, None, None] * correlations[:, None, None]
