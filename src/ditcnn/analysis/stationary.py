r"""Classes of periodic stationary Gaussian images: what they are, samples of them, and the Bayes-optimal classifier.

An image x, ``[C, H, W]``, of class k has mean zero, and its covariance depends on the distance of two positions alone,
modulo the image's size. Then the unitary discrete Fourier transform makes frequencies independent:

.. math:: \hat x(f) \sim \mathcal N(0, G_k(f)), \qquad
          \log p_k(x) = -\tfrac12 \sum_f \bigl[\log\det G_k(f) + \hat x(f)^* G_k(f)^{-1} \hat x(f)\bigr] + \text{const}

G, the cross-spectra, ``[K, H, W, C, C]``, say everything about the classes: the diagonal of G(f) is each channel's power
spectrum, and the mean of G over frequencies is the covariance of the channels at one position. Here G is real and even
in f. Source: Brillinger, Time Series, 1981, chapter 4.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["BayesAccuracy", "bayes_accuracy", "check_spectra", "dense_covariance", "log_likelihoods", "sample_images"]


def check_spectra(spectra: Tensor) -> None:
    """Raise unless these are cross-spectra of real images.

    Args:
        spectra: G, ``[K, H, W, C, C]``.

    Raises:
        ValueError: The shape is another, or some G(f) is not symmetric and positive definite, or G(-f) is not G(f).
    """
    if spectra.ndim != 5 or spectra.shape[-1] != spectra.shape[-2]:
        raise ValueError(f"spectra must have shape [K, H, W, C, C]; got {list(spectra.shape)}.")
    mirrored = spectra.flip(1, 2).roll((1, 1), (1, 2))
    if not torch.allclose(spectra, mirrored) or not torch.allclose(spectra, spectra.mT):
        raise ValueError(
            "spectra must be symmetric matrices, and the same at f and -f: other images are not real or not even."
        )
    least = float(torch.linalg.eigvalsh(spectra).min())
    if least <= 0:
        raise ValueError(f"spectra must be positive definite at every frequency; the least eigenvalue is {least:.3g}.")


def dense_covariance(spectra: Tensor) -> Tensor:
    r"""Return each class's covariance of whole images, pixel by pixel: slow and obvious, for small images.

    The covariance of channel c at p and channel d at q is :math:`\frac1{HW}\sum_f G_{cd}(f) e^{2\pi i f\cdot(p-q)}`.

    Args:
        spectra: G, ``[K, H, W, C, C]``.

    Returns:
        ``[K, CHW, CHW]``, indices in the order of ``image.flatten()``.
    """
    check_spectra(spectra)
    classes, height, width, channels, _ = spectra.shape
    at_shift: Tensor = torch.fft.ifft2(spectra, dim=(1, 2)).real
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    rows, columns = rows.flatten(), columns.flatten()
    down = (rows[:, None] - rows) % height
    right = (columns[:, None] - columns) % width
    size = channels * height * width
    pairs = at_shift[:, down, right]  # [K, HW, HW, C, C]
    return pairs.permute(0, 3, 1, 4, 2).reshape(classes, size, size)


def sample_images(spectra: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
    """Draw an image for each label: white noise, its frequencies coloured by the square root of G.

    Args:
        spectra: G, ``[K, H, W, C, C]``.
        labels: Classes, ``[N]``.
        generator: Where the noise comes from.

    Returns:
        ``[N, C, H, W]``, in the dtype of ``spectra``.
    """
    check_spectra(spectra)
    values, vectors = torch.linalg.eigh(spectra)
    roots = (vectors * values.sqrt()[..., None, :]) @ vectors.mT  # symmetric, so real and even as G is
    _, height, width, channels, _ = spectra.shape
    noise = torch.randn(len(labels), channels, height, width, generator=generator, dtype=spectra.dtype)
    images = torch.empty_like(noise)
    for k in labels.unique().tolist():
        root = roots[k]
        waves = torch.fft.fft2(noise[labels == k])
        images[labels == k] = torch.fft.ifft2(torch.einsum("hwcd,ndhw->nchw", root.to(waves.dtype), waves)).real
    return images


def log_likelihoods(images: Tensor, spectra: Tensor) -> Tensor:
    """Return log p_k of each image but for a constant that all classes share.

    Args:
        images: ``[N, C, H, W]``.
        spectra: G, ``[K, H, W, C, C]``.

    Returns:
        ``[N, K]``, in nats; with equal priors its argmax is the Bayes-optimal classifier.
    """
    check_spectra(spectra)
    waves = torch.fft.fft2(images.to(spectra.dtype), norm="ortho").permute(2, 3, 1, 0)  # [H, W, C, N]
    values = []
    for matrices in spectra:
        solved = torch.linalg.solve(matrices.to(waves.dtype), waves)
        squares = (waves.conj() * solved).real.sum(dim=(0, 1, 2))
        values.append(-(torch.logdet(matrices).sum() + squares) / 2)
    return torch.stack(values, dim=1)


@dataclass(frozen=True)
class BayesAccuracy:
    """The accuracy that no classifier exceeds, with equal priors, as a fraction of 1."""

    value: float
    standard_error: float


def bayes_accuracy(spectra: Tensor, count: int, generator: torch.Generator, batch: int = 2000) -> BayesAccuracy:
    r"""Return the Bayes-optimal accuracy, :math:`\mathbb E \max_k p(k \mid x)`, by Monte Carlo.

    The posterior's maximum is averaged, not the hits: the same mean, a smaller spread.

    Args:
        spectra: G, ``[K, H, W, C, C]``.
        count: Images drawn, as many of each class.
        generator: Where they come from.
        batch: Images at a time.
    """
    best = []
    for start in range(0, count, batch):
        labels = torch.arange(start, min(start + batch, count)) % len(spectra)
        images = sample_images(spectra, labels, generator)
        best.append(log_likelihoods(images, spectra).softmax(dim=1).amax(dim=1))
    posteriors = torch.cat(best)
    return BayesAccuracy(float(posteriors.mean()), float(posteriors.std() / len(posteriors) ** 0.5))
