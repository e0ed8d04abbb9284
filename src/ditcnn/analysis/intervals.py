"""Confidence intervals: of means over seeds, and of paired differences."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

__all__ = ["Interval", "mean_interval", "paired_interval"]


class Interval(NamedTuple):
    """An estimate with its interval; ``low`` and ``high`` are None where one value gives none."""

    mean: float
    low: float | None
    high: float | None
    n: int

    @property
    def half(self) -> float:
        """Half the interval's width, the length of an error bar; 0 where one value gives no interval."""
        return 0.0 if self.low is None else self.mean - self.low


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """Return the mean of independent values and Student's interval.

    Raises:
        ValueError: There are no values, or one is not finite.

    >>> [round(value, 3) for value in mean_interval([1.0, 2.0, 3.0])]
    [2.0, -0.484, 4.484, 3]
    """
    array = np.asarray(values, dtype=float)
    if not array.size or not np.isfinite(array).all():
        raise ValueError(f"an interval needs finite values; got {list(values)}.")
    mean = float(array.mean())
    if array.size == 1:
        return Interval(mean, None, None, 1)
    half = float(stats.t.ppf((1 + confidence) / 2, array.size - 1) * array.std(ddof=1) / math.sqrt(array.size))
    return Interval(mean, mean - half, mean + half, int(array.size))


def paired_interval(first: Sequence[float], second: Sequence[float], confidence: float = 0.95) -> Interval:
    """Return the mean of ``first - second``, value by value, and its interval: both had the same seeds, in the same order.

    Raises:
        ValueError: The numbers of values differ.
    """
    if len(first) != len(second):
        raise ValueError(f"pairs need as many values on both sides; got {len(first)} and {len(second)}.")
    return mean_interval([a - b for a, b in zip(first, second, strict=True)], confidence)
