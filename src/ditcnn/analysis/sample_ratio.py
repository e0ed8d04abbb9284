"""How many times the samples one method needs for the accuracy of another."""

from collections.abc import Mapping

import numpy as np

__all__ = ["sample_ratio"]

_LEVELS = 1000


def sample_ratio(method: Mapping[int, float], reference: Mapping[int, float], least_range: float = 0.1) -> float | None:
    r"""Return the samples that a method needs over those that the reference needs, at equal accuracy.

    Each curve of accuracy against log(samples) is made monotone by its running maximum and interpolated by lines. The
    ratio is :math:`\exp` of the mean horizontal distance of the curves over all accuracies that both pass through.

    Args:
        method: Accuracy, a fraction of 1, by number of training samples.
        reference: The same of the reference.
        least_range: Least range of shared accuracies that counts.

    Returns:
        The ratio, or None where the curves share too small a range, as when one of them learns nothing.

    >>> sample_ratio({10: 0.3, 100: 0.6, 1000: 0.9}, {5: 0.3, 500: 0.9})
    2.0
    """
    curves = [sorted(curve.items()) for curve in (method, reference)]
    samples = [np.log([count for count, _ in curve]) for curve in curves]
    accuracies = [np.maximum.accumulate([accuracy for _, accuracy in curve]) for curve in curves]
    low = max(curve[0] for curve in accuracies)
    high = min(curve[-1] for curve in accuracies)
    if high - low < least_range:
        return None
    levels = low + (high - low) * (np.arange(_LEVELS) + 0.5) / _LEVELS
    needed, by_reference = (np.interp(levels, curve, logs) for curve, logs in zip(accuracies, samples, strict=True))
    return float(np.exp(np.mean(needed - by_reference)).round(12))
