r"""What a term does in a trained network: taken out, or less the part that sees correlation.

Over the training images and all positions of the map, the term's input z (behind its norm) has mean m and covariance S, and
the mean of the term is :math:`E[z^\top A_o z] = m^\top A_o m + \mathrm{tr}(A_o S)`. The paper takes "tr(A S)" out without
saying more; here the number :math:`\mathrm{tr}(A_o S)`, one for each output channel o, is subtracted from the term's map at
every position of every image. The other ablation sets A to zero and leaves the network as it is otherwise, its halving of
the convolution's part included.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ditcnn.analysis.channel_moments import ChannelMoments
from ditcnn.convert import quadratic_terms
from ditcnn.data import ImageSet
from ditcnn.data.batches import normalise
from ditcnn.experiments.engine.training import TrainedModel, evaluate
from ditcnn.layers import QuadraticForm2d

__all__ = [
    "Removal",
    "TermParts",
    "accuracy",
    "less_covariance",
    "measure_removal",
    "term_moments",
    "term_parts",
    "without_terms",
]


@dataclass(frozen=True)
class TermParts:
    """The two parts of a term's mean, a number for each output channel, ``[O]`` each: m'A_o m and tr(A_o S)."""

    of_mean: Tensor
    of_covariance: Tensor


@dataclass(frozen=True)
class Removal:
    """Test top-1 in percent of a trained model, whole, with every A at zero, and less tr(A S); and the terms' parts.

    Only channel-wise terms have parts and ``less_covariance``.
    """

    whole: float
    without: float
    less_covariance: float | None
    parts: dict[str, TermParts]


def measure_removal(
    trained: TrainedModel, seen: ImageSet, test: ImageSet, *, progress: Callable[[float], None] = lambda done: None
) -> Removal:
    """Take a trained model apart, S over the images ``seen`` in training, and measure what is left on ``test``."""
    parts = term_parts(trained, seen, progress=progress)
    whole, without = (accuracy(trained, model, test) for model in (trained.model, without_terms(trained.model)))
    less = accuracy(trained, less_covariance(trained.model, parts), test) if parts else None
    return Removal(whole, without, less, parts)


@torch.no_grad()
def without_terms(model: nn.Module) -> nn.Module:
    """Return a copy with every A at zero; what halves the convolution's part still does."""
    copied = copy.deepcopy(model)
    for _, term in quadratic_terms(copied):
        getattr(term, "weight" if term.rank is None else "v").zero_()
    return copied


@torch.no_grad()
def term_moments(
    trained: TrainedModel, images: ImageSet, *, batch_size: int = 500, progress: Callable[[float], None] = lambda done: None
) -> dict[str, tuple[QuadraticForm2d, ChannelMoments]]:
    """Return each channel-wise term by its name, with the moments of its input, behind its norm, over the images."""
    terms = {name: (term, ChannelMoments()) for name, term in _channelwise(trained.model)}
    hooks = [term.norm.register_forward_hook(_adding(moments)) for term, moments in terms.values()]
    try:
        for first in range(0, len(images), batch_size):
            trained.model(normalise(images.images[first : first + batch_size], trained.mean, trained.std))
            progress(min(1.0, (first + batch_size) / len(images)))
    finally:
        for hook in hooks:
            hook.remove()
    return terms


@torch.no_grad()
def term_parts(
    trained: TrainedModel, images: ImageSet, *, batch_size: int = 500, progress: Callable[[float], None] = lambda done: None
) -> dict[str, TermParts]:
    """Return the parts of each channel-wise term's mean over images, by the term's name."""
    parts = {}
    for name, (term, moments) in term_moments(trained, images, batch_size=batch_size, progress=progress).items():
        a, m, s = term.matrices().double(), moments.mean, moments.covariance
        parts[name] = TermParts(torch.einsum("oij,i,j->o", a, m, m), torch.einsum("oij,ij->o", a, s))
    return parts


def less_covariance(model: nn.Module, parts: dict[str, TermParts]) -> nn.Module:
    """Return a copy whose channel-wise terms give :math:`z^\\top A_o z - \\mathrm{tr}(A_o S)`."""
    copied = copy.deepcopy(model)
    for name, term in _channelwise(copied):
        term.register_forward_hook(_subtracting(parts[name].of_covariance))
    return copied


def accuracy(trained: TrainedModel, model: nn.Module, images: ImageSet) -> float:
    """Return the top-1 accuracy in percent of a changed copy of a trained model."""
    return evaluate(model, images, mean=trained.mean, std=trained.std, device=torch.device("cpu"))["top1"]


def _channelwise(model: nn.Module) -> list[tuple[str, QuadraticForm2d]]:
    return [(name, term) for name, term in quadratic_terms(model) if isinstance(term, QuadraticForm2d)]


def _adding(moments: ChannelMoments) -> Callable[..., None]:
    def hook(module: nn.Module, inputs: Any, z: Tensor) -> None:
        moments.add(z)

    return hook


def _subtracting(constant: Tensor) -> Callable[..., Tensor]:
    def hook(module: nn.Module, inputs: Any, q: Tensor) -> Tensor:
        return q - constant.to(q.dtype)[:, None, None]

    return hook
