r"""How near the eigenvectors of a form's matrix come to those of a covariance, and how near they would by chance."""

import math

import numpy as np
import torch
from scipy.integrate import quad
from scipy.special import erf, gammaln
from torch import Tensor

__all__ = [
    "best_alignment",
    "chance_alignment",
    "chance_quantile",
    "class_moments",
    "eigenvectors_by_size",
    "matrix_cosine",
]


def class_moments(x: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Return the mean ``[K, C]`` and covariance ``[K, C, C]`` of each class in float64; divisor N.

    Args:
        x: Vectors, ``[N, C]``.
        labels: Class of each, ``[N]``.
        classes: K.

    Raises:
        ValueError: A class has no vector.
    """
    means, covariances = [], []
    for number in range(classes):
        members = x[labels == number].double()
        if not len(members):
            raise ValueError(f"class {number} of {classes} has no vectors.")
        mean = members.mean(0)
        means.append(mean)
        covariances.append((members - mean).mT @ (members - mean) / len(members))
    return torch.stack(means), torch.stack(covariances)


def eigenvectors_by_size(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Return eigenvalues of the symmetric part, the largest in absolute value first, and their unit vectors as rows.

    >>> values, vectors = eigenvectors_by_size(torch.tensor([[1.0, 0.0], [0.0, -3.0]]))
    >>> values.tolist(), vectors.abs().tolist()
    ([-3.0, 1.0], [[0.0, 1.0], [1.0, 0.0]])
    """
    values, vectors = torch.linalg.eigh((matrix + matrix.mT) / 2)
    order = values.abs().argsort(descending=True)
    return values[order], vectors.mT[order]


def best_alignment(direction: Tensor, basis: Tensor) -> tuple[int, float]:
    """Return the row of ``basis``, unit vectors ``[K, C]``, most similar to a unit vector ``[C]``, and their abs. cosine.

    An eigenvector's sign means nothing, so the cosine has none.
    """
    cosines = (basis @ direction).abs()
    index = int(cosines.argmax())
    return index, min(float(cosines[index]), 1.0)


def chance_alignment(dims: int, vectors: int) -> float:
    r"""Return the expected `best_alignment` of a direction with random orthonormal vectors.

    For g normal in d dimensions its direction u is independent of its length, so
    :math:`E \max_{i \le k} |u_i| = E \max_{i \le k} |g_i| \,/\, E|g|`, with
    :math:`E \max_{i \le k} |g_i| = \int_0^\infty 1 - \mathrm{erf}(t/\sqrt2)^k\, dt` and
    :math:`E|g| = \sqrt2\, \Gamma((d+1)/2) / \Gamma(d/2)`.

    Args:
        dims: d.
        vectors: k, at most d.

    >>> round(chance_alignment(2, 1), 4), round(chance_alignment(2, 2), 4)  # 2/pi and 2 sqrt(2)/pi
    (0.6366, 0.9003)
    """
    _check(dims, vectors)
    largest, _ = quad(lambda t: 1 - erf(t / math.sqrt(2)) ** vectors, 0, 12)
    length = math.sqrt(2) * math.exp(gammaln((dims + 1) / 2) - gammaln(dims / 2))
    return float(largest / length)


def chance_quantile(dims: int, vectors: int, quantile: float = 0.95, draws: int = 20_000) -> float:
    """Return a quantile of the alignment whose mean is `chance_alignment`, by simulation with a fixed seed."""
    _check(dims, vectors)
    random = np.random.default_rng(0)
    cosines = []
    for _ in range(0, draws, 1000):
        square = random.standard_normal((1000, vectors)) ** 2
        rest = random.chisquare(dims - vectors, 1000) if dims > vectors else 0.0
        cosines.append(np.sqrt(square.max(1) / (square.sum(1) + rest)))
    return float(np.quantile(np.concatenate(cosines), quantile))


def matrix_cosine(a: Tensor, b: Tensor) -> float:
    r"""Return :math:`\langle A, B \rangle / (|A|\,|B|)` of the symmetric parts: 1 where they are equal up to scale.

    >>> matrix_cosine(torch.tensor([[0.0, 2.0], [0.0, 0.0]]), torch.tensor([[0.0, 3.0], [3.0, 0.0]]))
    1.0
    """
    a, b = ((m + m.mT).double() for m in (a, b))
    return float((a * b).sum() / (a.norm() * b.norm()))


def _check(dims: int, vectors: int) -> None:
    if not 1 <= vectors <= dims:
        raise ValueError(f"there are 1 to {dims} orthonormal vectors in {dims} dimensions; got {vectors}.")
