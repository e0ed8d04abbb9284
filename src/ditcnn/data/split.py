"""The held-out part of train, on which models are selected."""

import numpy as np
import torch
from sklearn.model_selection import train_test_split

from ditcnn.data.images import ImageSet
from ditcnn.errors import InputError

__all__ = ["hold_out"]

MOST = 5000


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
    kept, held = train_test_split(np.arange(len(train)), test_size=count, stratify=train.labels.numpy(), random_state=0)
    return train[torch.from_numpy(np.sort(kept))], train[torch.from_numpy(np.sort(held))]
