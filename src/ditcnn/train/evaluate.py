"""Networks' losses and accuracies on images."""

from collections.abc import Iterable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ditcnn.data import ImageSet
from ditcnn.data.batches import normalise
from ditcnn.data.views import views_of
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
    views: int = 1,
) -> dict[str, float]:
    """Return the mean cross-entropy in nats, ``loss``, and accuracies in percent, ``top1`` and so on; of several test-time
    views too, ``views_loss``, ``views_top1``.

    The model is evaluated in eval mode and left in the mode it had.
    """
    batches = zip(data.images.split(batch_size), data.labels.split(batch_size), strict=True)
    sums = evaluate_batches(
        {"": model}, batches, mean=mean, std=std, device=device, precision=precision, topk=topk, views=views
    )
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
    views: int = 1,
) -> dict[str, dict[str, float]]:
    """Return for each model the number of ``images``, the sum of their cross-entropies in nats, ``loss``, and numbers of
    hits, ``top1`` and so on; of the mean logits over several ``views`` too, ``views_loss``, ``views_top1``.

    Sums, so that processes that share the images can add theirs, for `mean_scores`. Each model is evaluated in eval mode and
    left in the mode that it had.

    Args:
        models: Models by name.
        batches: Images ``[B, C, H, W]``, uint8, or floats, which are taken as they are, and labels ``[B]``.
        views: Test-time views, as in `views_of`.
    """
    kinds = ("",) if views == 1 else ("", "views_")
    names = ["images", *(f"{kind}{name}" for kind in kinds for name in ("loss", *(f"top{k}" for k in topk)))]
    sums: dict[str, dict[str, float]] = {name: dict.fromkeys(names, 0) for name in models}
    training = {name: model.training for name, model in models.items()}
    for model in models.values():
        model.eval()
    for images, labels in batches:
        labels = labels.to(device)
        x = normalise(images.to(device), mean, std)
        for name, model in models.items():
            sums[name]["images"] += len(labels)
            for kind, logits in zip(kinds, _logits(model, x, views, device, precision), strict=True):
                sums[name][f"{kind}loss"] += F.cross_entropy(logits, labels, reduction="sum").item()
                ranked = logits.topk(min(max(topk), logits.shape[1])).indices == labels[:, None]
                for k in topk:
                    sums[name][f"{kind}top{k}"] += int(ranked[:, :k].sum())
    for name, model in models.items():
        model.train(training[name])
    return sums


def _logits(model: nn.Module, x: Tensor, views: int, device: torch.device, precision: str) -> list[Tensor]:
    """Return the logits of normalised images, and those of their views where there are several."""
    plain = mean = None
    for share, view in views_of(x, views):
        with autocast(device, precision):
            logits = model(view).float()
        plain = logits if plain is None else plain
        mean = share * logits if mean is None else mean + share * logits
    assert plain is not None
    assert mean is not None
    return [plain] if views == 1 else [plain, mean]


def mean_scores(sums: Mapping[str, float]) -> dict[str, float]:
    """Return a model's mean losses in nats and accuracies in percent from its sums."""
    images = sums["images"]
    return {name: (1 if name.endswith("loss") else 100) * sums[name] / images for name in sums if name != "images"}
