"""A network's loss and accuracy on images."""

import torch
import torch.nn.functional as F
from torch import nn

from ditcnn.data import ImageSet
from ditcnn.data.batches import normalise
from ditcnn.train.device import autocast

__all__ = ["evaluate"]


@torch.no_grad()
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
    training = model.training
    model.eval()
    loss, hits = 0.0, dict.fromkeys(topk, 0)
    for images, labels in zip(data.images.split(batch_size), data.labels.split(batch_size), strict=True):
        labels = labels.to(device)
        with autocast(device, precision):
            logits = model(normalise(images.to(device), mean, std))
        logits = logits.float()
        loss += F.cross_entropy(logits, labels, reduction="sum").item()
        ranked = logits.topk(min(max(topk), logits.shape[1])).indices == labels[:, None]
        for k in topk:
            hits[k] += int(ranked[:, :k].sum())
    model.train(training)
    return {"loss": loss / len(data)} | {f"top{k}": 100 * n / len(data) for k, n in hits.items()}
