"""Networks' losses and accuracies on images."""

from collections.abc import Iterable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ditcnn.data import ImageSet
from ditcnn.data.batches import normalise
from ditcnn.system.devices import autocast

__all__ = ["evaluate", "evaluate_batches", "mean_scores"]


def evaluate(
    model: nn.Module,
    data: ImageSet,
    *,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    device: torch.device,
    precision: str = "fp32",
    batch_size: int = 500,
    topk: tuple[int, ...] = (1,),
) -> dict[str, float]:
    """Return the mean cross-entropy in nats, ``loss``, and accuracies in percent, ``top1`` and so on.

    The model is evaluated in eval mode and left in the mode it had.
    """
    batches = zip(data.images.split(batch_size), data.labels.split(batch_size), strict=True)
    sums = evaluate_batches({"": model}, batches, mean=mean, std=std, device=device, precision=precision, topk=topk)
    return mean_scores(sums[""])


@torch.no_grad()
def evaluate_batches(
    models: Mapping[str, nn.Module],
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    device: torch.device,
    precision: str = "fp32",
    topk: tuple[int, ...] = (1,),
) -> dict[str, dict[str, float]]:
    """Return for each model the number of ``images``, the sum of their cross-entropies in nats, ``loss``, and numbers of
    hits, ``top1`` and so on.

    Sums, so that processes that share the images can add theirs, for `mean_scores`. Each model is evaluated in eval mode and
    left in the mode that it had.

    Args:
        models: Models by name.
        batches: Images ``[B, C, H, W]``, uint8, or floats, which are taken as they are, and labels ``[B]``.
    """
    sums: dict[str, dict[str, float]] = {
        name: dict.fromkeys(["images", "loss", *(f"top{k}" for k in topk)], 0) for name in models
    }
    training = {name: model.training for name, model in models.items()}
    for model in models.values():
        model.eval()
    for images, labels in batches:
        labels = labels.to(device)
        x = normalise(images.to(device), mean, std)
        for name, model in models.items():
            with autocast(device, precision):
                logits = model(x)
            logits = logits.float()
            sums[name]["images"] += len(labels)
            sums[name]["loss"] += F.cross_entropy(logits, labels, reduction="sum").item()
            ranked = logits.topk(min(max(topk), logits.shape[1])).indices == labels[:, None]
            for k in topk:
                sums[name][f"top{k}"] += int(ranked[:, :k].sum())
    for name, model in models.items():
        model.train(training[name])
    return sums


def mean_scores(sums: Mapping[str, float]) -> dict[str, float]:
    """Return a model's mean ``loss`` in nats and accuracies in percent from its sums."""
    images = sums["images"]
    return {name: (1 if name == "loss" else 100) * sums[name] / images for name in sums if name != "images"}
