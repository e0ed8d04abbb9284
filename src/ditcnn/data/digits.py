"""The handwritten digits that scikit-learn ships: 1,797 grey images of 8x8, no download."""

import numpy as np
import torch

from ditcnn.data.images import ImageData, ImageSet

__all__ = ["read_digits"]


def read_digits() -> ImageData:
    """Return 1,437 training and 360 test digits, a fixed stratified split; grey levels 0..16 become 0..255.

    Source: E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI, 1998 (its test part).
    """
    from sklearn.datasets import load_digits  # slow to import
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    images = torch.from_numpy(np.rint(digits.images * (255 / 16)).astype(np.uint8)).unsqueeze(1)
    labels = torch.from_numpy(digits.target).long()
    everything = ImageSet(images, labels)
    train, test = train_test_split(np.arange(len(labels)), test_size=360, stratify=labels.numpy(), random_state=0)
    classes = tuple(str(name) for name in digits.target_names)
    return ImageData(everything[torch.from_numpy(train)], everything[torch.from_numpy(test)], classes)
