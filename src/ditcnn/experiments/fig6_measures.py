"""What figure 6 measures: eigenvectors of covariances beside those of the matrices A of a trained layer."""

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ditcnn.analysis.alignment import best_alignment, chance_alignment, chance_quantile, eigenvectors_by_size
from ditcnn.data import ImageData, channel_statistics
from ditcnn.data.batches import normalise
from ditcnn.experiments.experiment import Numbers
from ditcnn.layers import QuadraticForm2d
from ditcnn.recipes import Recipe
from ditcnn.train import Display, RunFolder, Trainer
from ditcnn.train.device import choose_device

__all__ = ["channel_numbers", "pixel_numbers", "term_input_covariance", "train_run"]

RANKS = 50  # leading eigenvectors of a pixel covariance that are followed


def pixel_numbers(covariances: Tensor, forms: Tensor, with_pictures: bool) -> Numbers:
    """Return alignments of class covariances S_j with the matrices A_j of the class's neuron, and of other classes' neurons.

    Args:
        covariances: ``[K, C, C]``.
        forms: A, ``[K, C, C]``.
        with_pictures: Keep the leading eigenvectors as well.
    """
    varying = int((covariances.diagonal(dim1=1, dim2=2).sum(0) > 0).sum())
    of_forms = [eigenvectors_by_size(a.double()) for a in forms]
    of_classes = [eigenvectors_by_size(s) for s in covariances]
    own, others, lead, position, sign, pictures = [], [], [], [], [], []
    for number, (_, directions) in enumerate(of_classes):
        cosines = [(vectors @ directions[:RANKS].mT).abs().amax(0) for _, vectors in of_forms]
        own.append(cosines[number])
        others.append(torch.stack([c for other, c in enumerate(cosines) if other != number]).mean(0))
        values, vectors = of_forms[number]
        index, cosine = best_alignment(directions[0], vectors)
        lead.append(cosine)
        position.append(index + 1)
        sign.append(int(values[index].sign()))
        if with_pictures:
            pictures.append(_alike(directions[0], vectors[index]))
    spectra = torch.stack([(values / values.abs().max()).sort().values for values, _ in of_forms]).mean(0)
    explained = torch.stack([(values / values.sum())[:RANKS] for values, _ in of_classes]).mean(0)
    numbers: Numbers = {
        "lead_cosine": lead,
        "lead_other_cosine": [float(c[0]) for c in others],
        "lead_position": position,
        "lead_sign": sign,
        "by_rank": _rounded(torch.stack(own).mean(0)),
        "by_rank_other": _rounded(torch.stack(others).mean(0)),
        "form_spectrum": _rounded(spectra),
        "variance_share": _rounded(explained),
        "varying": varying,
        "chance": chance_alignment(varying, varying),
        "chance_95": chance_quantile(varying, varying),
    }
    return numbers | ({"pictures": pictures} if with_pictures else {})


def channel_numbers(covariance: Tensor, forms: Tensor) -> Numbers:
    r"""Return alignments of a covariance of channels S with the matrices A_o of a term.

    ``by_rank``: mean over o of the best cosine for each eigenvector of S, the largest variance first. ``variance_along``:
    :math:`u^\top S u / (\mathrm{tr} S / C)` for the eigenvectors u of A_o, the largest :math:`|\lambda|` first, mean over o;
    a random direction has 1.

    Args:
        covariance: S, ``[C, C]``.
        forms: A, ``[O, C, C]``.
    """
    values, directions = eigenvectors_by_size(covariance.double())
    best, along = [], []
    for form in forms:
        _, vectors = eigenvectors_by_size(form.double())
        best.append((vectors @ directions.mT).abs().amax(0))
        along.append(((vectors @ covariance.double()) * vectors).sum(1) / values.mean())
    dims = len(values)
    return {
        "by_rank": _rounded(torch.stack(best).mean(0)),
        "variance_along": _rounded(torch.stack(along).mean(0)),
        "variance_share": _rounded(values / values.sum()),
        "form_norm": float(forms.double().norm()),
        "chance": chance_alignment(dims, dims),
        "chance_95": chance_quantile(dims, dims),
    }


@torch.no_grad()
def term_input_covariance(model: nn.Module, data: ImageData, recipe: Recipe, images: int) -> tuple[Tensor, Tensor]:
    """Return the covariance of the channels at the input of the model's term, behind its norm, ``[C, C]``, and A.

    Over all positions of the first ``images`` training images, as they are, without augmentation.
    """
    term = next(module for module in model.modules() if isinstance(module, QuadraticForm2d))
    sums: list[tuple[int, Tensor, Tensor]] = []

    def note(module: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> None:
        z = output.movedim(1, -1).flatten(0, -2).double()
        sums.append((len(z), z.sum(0), z.mT @ z))

    handle = term.norm.register_forward_hook(note)
    try:
        model.eval()
        for batch in data.train.images[:images].split(500):
            model(normalise(batch, recipe.mean, recipe.std))
    finally:
        handle.remove()
    count = sum(n for n, _, _ in sums)
    mean = sum((s for _, s, _ in sums), torch.zeros(())) / count
    second = sum((s for _, _, s in sums), torch.zeros(())) / count
    return second - torch.outer(mean, mean), term.matrices()


def train_run(
    recipe: Recipe, data: ImageData, folder: RunFolder, progress: Callable[[float], None]
) -> tuple[nn.Module, Recipe, dict[str, Any]]:
    """Train by a recipe, or go on with it; return the model after the last epoch, the recipe as run, and the result."""
    if not recipe.mean:
        mean, std = channel_statistics(data.train)
        recipe = dataclasses.replace(recipe, mean=mean, std=std)
    trainer = Trainer(recipe, data, folder, choose_device("cpu"), _BarOnly(progress))
    with folder.locked():
        trainer.restore()
        result = trainer.run()
    return trainer.model, recipe, result


class _BarOnly(Display):
    """A run's display that moves the experiment's bar."""

    def __init__(self, progress: Callable[[float], None]) -> None:
        super().__init__()
        self._tell = progress

    @contextmanager
    def bar(self, total: float, done: float, description: str = "training") -> Iterator[None]:
        """Count steps meanwhile."""
        self._total, self._done = total, done
        yield

    def step(self, description: str) -> None:
        """Count a step."""
        self._done += 1
        self._tell(self._done / self._total)

    def say(self, message: str) -> None:
        """Say nothing: the cell has one line when it is done."""


def _alike(direction: Tensor, other: Tensor) -> list[list[float]]:
    """Return both vectors with the signs that make them most alike, the first one's sum positive."""
    direction = direction * (1.0 if direction.sum() >= 0 else -1.0)
    other = other * (1.0 if direction @ other >= 0 else -1.0)
    return [_rounded(direction, 3), _rounded(other, 3)]


def _rounded(values: Tensor, decimals: int = 4) -> list[float]:
    return [round(value, decimals) for value in values.tolist()]
