"""How many times the samples one method needs for the accuracy of another."""

from collections.abc import Sequence

import numpy as np

__all__ = ["sample_ratio"]

_LEVELS = 1000


def sample_ratio(
    samples: Sequence[int], accuracy: Sequence[float], reference: Sequence[float], least_range: float = 0.1
) -> float | None:
    r"""Return the samples that a method needs over those that the reference needs, at equal accuracy.

    Each curve of accuracy against log(samples) is made monotone by its running maximum and interpolated by lines. The
    ratio is :math:`\exp` of the mean horizontal distance of the curves over all accuracies that both reach.

    Args:
        samples: Numbers of training samples, rising.
        accuracy: The method's accuracy at each, as a fraction of 1.
        reference: The reference's.
        least_range: Least range of shared accuracies that counts.

    Returns:
        The ratio, or None where the curves share too small a range, as when a method learns nothing.

    >>> round(sample_ratio([10, 20, 40, 80], [0.3, 0.4, 0.5, 0.6], [0.4, 0.5, 0.6, 0.7]), 6)
    2.0
    """
    curves = [np.maximum.accumulate(np.asarray(values, dtype=float)) for values in (accuracy, reference)]
    low = max(curve[0] for curve in curves)
    high = min(curve[-1] for curve in curves)
    if high - low < least_range:
        return None
    levels = low + (high - low) * (np.arange(_LEVELS) + 0.5) / _LEVELS
    needed, needed_by_reference = (np.interp(levels, curve, np.log(samples)) for curve in curves)
    return float(np.exp(np.mean(needed - needed_by_reference)))
