"""Classifiers of digits from few images: networks by gradient descent, and what needs none."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.covariance import ledoit_wolf
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

from ditcnn.analysis.normal import log_density
from ditcnn.data import ImageSet
from ditcnn.data.batches import derived_seed
from ditcnn.layers import QuadraticLinear
from ditcnn.system.errors import Diverged

__all__ = ["discriminant_hits", "logistic_hits", "make_network", "share", "trained_hits", "vectors"]


def vectors(part: ImageSet) -> Tensor:
    """Return images as vectors of values in 0..1, ``[N, C]``."""
    return part.images.flatten(1).float() / 255


def share(part: ImageSet, fraction: float, seed: int) -> ImageSet:
    """Return a stratified random share of the images; the same for every method."""
    count = round(fraction * len(part))
    if count == len(part):
        return part
    state = derived_seed(seed, count) % 2**32
    chosen, _ = train_test_split(
        np.arange(len(part)), train_size=count, stratify=part.labels.numpy(), random_state=np.random.RandomState(state)
    )
    return part[torch.from_numpy(np.sort(chosen))]


def make_network(method: str, pixels: int, classes: int, width: int) -> nn.Module:
    """Return an untrained network from C pixels to the classes.

    ``neuron``: whole quadratic neurons, without a width; ``low_rank``: with A of rank ``width``; ``mlp``: one hidden layer
    of ``width`` ReLUs.
    """
    if method == "mlp":
        return nn.Sequential(nn.Linear(pixels, width), nn.ReLU(), nn.Linear(width, classes))
    return QuadraticLinear(pixels, classes, rank=width if method == "low_rank" else None)


def trained_hits(
    network: nn.Module, x: Tensor, labels: Tensor, test: ImageSet, how: Mapping[str, Any], progress: Callable[[float], None]
) -> tuple[float, int]:
    """Train by plain SGD on cross-entropy; return the mean loss over the last epoch, in nats, and the hits on test.

    Args:
        network: It is changed.
        x: Training images as vectors, ``[N, C]``.
        labels: What it is taught, ``[N]``.
        test: The images that it is tested on.
        how: ``epochs``, ``lr``, ``batch_size`` and ``seed``, of the order of the images.
        progress: Takes the fraction done.

    Raises:
        Diverged: The loss is not finite.
    """
    optimizer = torch.optim.SGD(network.parameters(), lr=how["lr"])
    draw = torch.Generator().manual_seed(derived_seed(how["seed"], 1))
    total = 0.0
    for epoch in range(how["epochs"]):
        total = 0.0
        for batch in torch.randperm(len(x), generator=draw).split(how["batch_size"]):
            loss = F.cross_entropy(network(x[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(batch)
        if not np.isfinite(total):
            raise Diverged(f"the loss became {total} in epoch {epoch + 1} at learning rate {how['lr']}.")
        progress((epoch + 1) / how["epochs"])
    with torch.no_grad():
        decisions = torch.cat([network(batch).argmax(1) for batch in vectors(test).split(1000)])
    return total / len(x), int((decisions == test.labels).sum())


def logistic_hits(x: Tensor, labels: Tensor, test: Tensor, truth: Tensor) -> int:
    """Return the right decisions of scikit-learn's logistic regression at its defaults (C = 1), up to 1,000 iterations."""
    fit = LogisticRegression(max_iter=1000).fit(x.numpy(), labels.numpy())
    return int((torch.from_numpy(fit.predict(test.numpy())) == truth).sum())


def discriminant_hits(x: Tensor, labels: Tensor, test: Tensor, truth: Tensor, classes: int) -> int:
    """Return the right decisions of quadratic discriminant analysis, with Ledoit and Wolf's shrunk covariances."""
    scores = torch.full((len(test), classes), -torch.inf, dtype=torch.float64)
    for number in range(classes):
        members = x[labels == number].double()
        if not len(members):
            continue
        cov, _ = ledoit_wolf(members.numpy())
        # A pixel that is black in all images of a class has only the shrunk part; with one image there is not even that.
        floor = torch.eye(x.shape[1], dtype=torch.float64) * 1e-6
        log_prior = float(np.log(len(members) / len(x)))
        scores[:, number] = log_density(test.double(), members.mean(0), torch.from_numpy(cov) + floor) + log_prior
    return int((scores.argmax(1) == truth).sum())
