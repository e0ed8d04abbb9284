"""Classifiers of digits from few images: networks by gradient descent, and what needs none."""

from collections.abc import Callable

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

__all__ = ["discriminant_hits", "logistic_hits", "make_network", "network_hits", "share", "train_network", "vectors"]


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
    """Return an untrained network.

    Args:
        method: ``neuron``: whole quadratic neurons; ``low_rank``: with A of rank ``width``; ``mlp``: one hidden layer of
            ``width`` ReLUs.
        pixels: C.
        classes: Outputs.
        width: As above; the whole neurons have none.
    """
    if method == "mlp":
        return nn.Sequential(nn.Linear(pixels, width), nn.ReLU(), nn.Linear(width, classes))
    return QuadraticLinear(pixels, classes, rank=width if method == "low_rank" else None)


def train_network(
    network: nn.Module,
    x: Tensor,
    labels: Tensor,
    *,
    epochs: int,
    lr: float,
    batch_size: int,
    seed: int,
    progress: Callable[[float], None] = lambda fraction: None,
) -> float:
    """Train by plain SGD on cross-entropy; return the mean loss over the last epoch, in nats.

    Raises:
        Diverged: The loss is not finite.
    """
    optimizer = torch.optim.SGD(network.parameters(), lr=lr)
    draw = torch.Generator().manual_seed(derived_seed(seed, 1))
    total = 0.0
    for epoch in range(epochs):
        total = 0.0
        for batch in torch.randperm(len(x), generator=draw).split(batch_size):
            loss = F.cross_entropy(network(x[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(batch)
        if not np.isfinite(total):
            raise Diverged(f"the loss became {total} in epoch {epoch + 1} at learning rate {lr}.")
        progress((epoch + 1) / epochs)
    return total / len(x)


@torch.no_grad()
def network_hits(network: nn.Module, test: Tensor, truth: Tensor) -> int:
    """Return the right decisions of a trained network."""
    decisions = torch.cat([network(batch).argmax(1) for batch in test.split(1000)])
    return int((decisions == truth).sum())


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
