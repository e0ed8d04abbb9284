"""What figure 6 measures: eigenvectors of covariances beside those of the matrices A of a trained layer."""

import torch
from torch import Tensor

from ditcnn.analysis.alignment import best_alignment, chance_alignment, chance_quantile, eigenvectors_by_size
from ditcnn.experiments.engine.experiment import Numbers

__all__ = ["channel_numbers", "pixel_numbers"]

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


def _alike(direction: Tensor, other: Tensor) -> list[list[float]]:
    """Return both vectors with the signs that make them most alike, the first one's sum positive."""
    direction = direction * (1.0 if direction.sum() >= 0 else -1.0)
    other = other * (1.0 if direction @ other >= 0 else -1.0)
    return [_rounded(direction, 3), _rounded(other, 3)]


def _rounded(values: Tensor, decimals: int = 4) -> list[float]:
    return [round(value, decimals) for value in values.tolist()]
