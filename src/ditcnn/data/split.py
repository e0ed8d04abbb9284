"""A part of the training images that is not trained on, but selected on; the same in every run."""

import numpy as np
import torch
from torch import Tensor

from ditcnn.data.images import ImageData, ImageSet
from ditcnn.system.errors import InputError

__all__ = ["hold_out", "hold_out_places", "trained_on"]

MOST = 5000


def hold_out(train: ImageSet) -> tuple[ImageSet, ImageSet]:
    """Split training images into a part to train on and a stratified part to select on, as `hold_out_places` does."""
    kept, held = hold_out_places(train.labels)
    return train[kept], train[held]


def trained_on(data: ImageData, protocol: str) -> ImageSet:
    """Return the images that a run of a protocol trains on."""
    return hold_out(data.train)[0] if protocol == "holdout" else data.train


def hold_out_places(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the places of the images to train on and of those to select on, of their labels ``[N]``.

    The held-out part is a stratified tenth of the images, at most 5,000.

    Raises:
        InputError: There are too few images to hold out one of each class.
    """
    count = min(MOST, len(labels) // 10)
    classes, counts = labels.unique(return_counts=True)
    if count < len(classes) or int(counts.min()) < 2:
        raise InputError(
            f"{len(labels)} training images of {len(classes)} classes are too few to hold out a tenth with each class in "
            "it. Use `protocol` paper or last, which train on all of them."
        )
    from sklearn.model_selection import train_test_split  # slow to import

    kept, held = train_test_split(np.arange(len(labels)), test_size=count, stratify=labels.numpy(), random_state=0)
    return torch.from_numpy(np.sort(kept)), torch.from_numpy(np.sort(held))
