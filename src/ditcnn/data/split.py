"""The images that a run trains on, and those it watches: a held-out part of train, or in the paper's protocol test."""

import numpy as np
import torch

from ditcnn.data.images import ImageData, ImageSet
from ditcnn.system.errors import InputError

__all__ = ["hold_out", "parts_of"]

MOST = 5000


def parts_of(data: ImageData, protocol: str) -> tuple[ImageSet, ImageSet, str]:
    """Return the images to train on by a protocol, ``holdout`` or ``paper``, the images to watch, and the latter's name.

    Raises:
        InputError: There are too few images to hold out one of each class.
    """
    if protocol == "paper":
        return data.train, data.test, "test"
    return *hold_out(data.train), "holdout"


def hold_out(train: ImageSet) -> tuple[ImageSet, ImageSet]:
    """Split training images into a part to train on and a stratified part to select on, the same in every run.

    The held-out part is a tenth of the images, at most 5,000.

    Raises:
        InputError: There are too few images to hold out one of each class.
    """
    count = min(MOST, len(train) // 10)
    classes, counts = train.labels.unique(return_counts=True)
    if count < len(classes) or int(counts.min()) < 2:
        raise InputError(
            f"{len(train)} training images of {len(classes)} classes are too few to hold out a tenth with each class in it. "
            "Use --protocol paper, which trains on all of them."
        )
    from sklearn.model_selection import train_test_split  # slow to import

    kept, held = train_test_split(np.arange(len(train)), test_size=count, stratify=train.labels.numpy(), random_state=0)
    return train[torch.from_numpy(np.sort(kept))], train[torch.from_numpy(np.sort(held))]
