"""What a paired comparison can detect, and how its tests are read together."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import optimize, stats

__all__ = ["detectable_difference", "holm", "paired_p_value", "spread_bounds"]


def detectable_difference(spread: float, n: int, *, level: float = 0.05, power: float = 0.8) -> float:
    """Return the difference that a two-sided paired t-test finds with the given power.

    Args:
        spread: Standard deviation of the paired differences; the result has its unit.
        n: Pairs.
        level: Of the test.
        power: Probability that the test finds it.

    >>> round(detectable_difference(1.0, 5), 2), round(detectable_difference(1.0, 30), 2)
    (1.68, 0.53)
    """
    critical = stats.f.ppf(1 - level, 1, n - 1)  # the square of Student's t is F, and not central under a difference

    def lacking(effect: float) -> float:
        return float(power - stats.ncf.sf(critical, 1, n - 1, n * effect**2))

    largest = 1.0
    while lacking(largest) > 0:
        largest *= 2
    return spread * float(optimize.brentq(lacking, 1e-6, largest))


def spread_bounds(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float, float]:
    """Return the standard deviation of normal values and the bounds of its interval, from the chi-square distribution.

    >>> [round(bound, 2) for bound in spread_bounds([0.0, 1.0, 2.0])]
    [1.0, 0.52, 6.28]
    """
    n = len(values)
    deviation = float(np.std(values, ddof=1))
    tails = ((1 + confidence) / 2, (1 - confidence) / 2)
    low, high = (deviation * math.sqrt((n - 1) / float(stats.chi2.ppf(tail, n - 1))) for tail in tails)
    return deviation, low, high


def paired_p_value(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Return the p-value of the two-sided paired t-test; None where pairs are fewer than two or do not differ in spread.

    >>> round(paired_p_value([1.0, 2.0, 4.0], [0.0, 0.0, 1.0]), 3)
    0.074
    """
    differences = np.subtract(first, second)
    if len(differences) < 2 or np.allclose(differences, differences[0], rtol=0, atol=1e-9):  # equal but for rounding
        return None
    return float(stats.ttest_rel(first, second).pvalue)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Return p-values adjusted for their number by Holm's method (1979), in the order given.

    >>> {name: round(p, 3) for name, p in holm({"a": 0.01, "b": 0.04, "c": 0.03}).items()}
    {'a': 0.03, 'b': 0.06, 'c': 0.06}
    """
    adjusted, largest = {}, 0.0
    for rank, name in enumerate(sorted(p_values, key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[name]))
        adjusted[name] = largest
    return {name: adjusted[name] for name in p_values}
