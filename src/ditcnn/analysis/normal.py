r"""Two normal classes: the best possible classifier in closed form, and how far another stays behind it."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Quadratic", "bayes_accuracy", "bayes_quadratic", "excess_error", "log_density"]


class Quadratic(NamedTuple):
    r"""The function :math:`x^\top A x + w^\top x + b` of vectors: ``a`` ``[C, C]``, ``w`` ``[C]``, ``b`` a number."""

    a: Tensor
    w: Tensor
    b: Tensor

    def at(self, x: Tensor) -> Tensor:
        """Return its value at each row of x: ``[..., C]`` -> ``[...]``."""
        values: Tensor = ((x @ self.a) * x).sum(-1) + x @ self.w + self.b
        return values


def bayes_quadratic(mean0: Tensor, cov0: Tensor, mean1: Tensor, cov1: Tensor) -> Quadratic:
    r"""Return the log-odds of class 1 against class 0, both normal and equally frequent, in nats.

    .. math:: A = (S_0^{-1} - S_1^{-1})/2, \quad w = S_1^{-1} m_1 - S_0^{-1} m_0, \quad
              b = (m_0^\top S_0^{-1} m_0 - m_1^\top S_1^{-1} m_1)/2 + \tfrac12 \log(|S_0| / |S_1|)

    It is positive where class 1 is the likelier: the Bayes boundary is its zero set. With sample means and covariances it is
    quadratic discriminant analysis.

    Args:
        mean0, mean1: ``[C]``.
        cov0, cov1: ``[C, C]``, positive definite.

    Raises:
        torch.linalg.LinAlgError: A covariance is not positive definite.

    >>> one = torch.eye(1, dtype=torch.float64)
    >>> odds = bayes_quadratic(torch.zeros(1).double(), one, torch.zeros(1).double(), 4 * one)
    >>> odds.a.item(), round(odds.b.item(), 4)  # narrow class 0, wide class 1
    (0.375, -0.6931)
    """
    parts = []
    for mean, cov in ((mean0, cov0), (mean1, cov1)):
        factor = torch.linalg.cholesky(cov)
        inverse = torch.cholesky_inverse(factor)
        parts.append((inverse, inverse @ mean, mean @ inverse @ mean + 2 * factor.diagonal().log().sum()))
    (inverse0, w0, b0), (inverse1, w1, b1) = parts
    return Quadratic((inverse0 - inverse1) / 2, w1 - w0, (b0 - b1) / 2)


def bayes_accuracy(log_odds: Tensor) -> tuple[float, float]:
    r"""Return a Monte Carlo estimate of the Bayes accuracy, and its standard error.

    At x the best decision is right with probability :math:`\max(p, 1-p) = \sigma(|\ell(x)|)`; the estimate is the mean of
    these, whose spread is smaller than that of counted hits.

    Args:
        log_odds: Log-odds :math:`\ell` at points drawn from the equal mixture of the classes, ``[N]``.
    """
    right = log_odds.double().abs().sigmoid()
    return float(right.mean()), float(right.std() / math.sqrt(len(right)))


def excess_error(decision: Tensor, log_odds: Tensor) -> Tensor:
    r"""Return how much more often than the Bayes classifier a decision errs, 0 to 1.

    Where the two disagree at x, the decision loses :math:`|2p - 1| = \tanh(|\ell(x)|/2)`. The estimate cannot be negative,
    and is exactly zero for the Bayes classifier itself.

    Args:
        decision: Positive where class 1 is decided, ``[..., N]``.
        log_odds: The true log-odds at the same points, drawn from the equal mixture of the classes, ``[..., N]``.

    Returns:
        ``[...]``, float64.

    >>> excess_error(torch.tensor([1.0, 1.0]), torch.tensor([3.0, -0.2])).round(decimals=4)  # tanh(0.1)/2
    tensor(0.0498, dtype=torch.float64)
    """
    odds = log_odds.double()
    return (((decision > 0) != (odds > 0)) * (odds.abs() / 2).tanh()).mean(-1)


def log_density(x: Tensor, mean: Tensor, cov: Tensor) -> Tensor:
    """Return the log-density of a normal law in nats at each row of x, less ``-C/2 log(2 pi)``, which classes share.

    The largest over classes is the decision of quadratic discriminant analysis.

    Raises:
        torch.linalg.LinAlgError: The covariance is not positive definite.
    """
    factor = torch.linalg.cholesky(cov)
    whitened = torch.linalg.solve_triangular(factor, (x - mean).mT, upper=False)
    density: Tensor = -whitened.square().sum(0) / 2 - factor.diagonal().log().sum()
    return density
