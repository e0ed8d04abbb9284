"""Images of any kind, as a model wants them."""

from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ditcnn.data.batches import normalise
from ditcnn.system.errors import InputError
from ditcnn.train import Preprocessing

__all__ = ["pixels_of", "stacked"]


def pixels_of(image: Any, preprocessing: Preprocessing) -> Tensor:
    """Return an image as ``[C, H, W]`` of the model's size: uint8, or floats where it was given as such.

    Args:
        image: A PIL image; an array ``[H, W]`` or ``[H, W, C]`` of bytes; or a tensor ``[C, H, W]``, of bytes, or of floats
            that are normalised already, and are taken as they are.
        preprocessing: What the model wants.

    Raises:
        InputError: It is something else, or floats of another shape than the model's.
    """
    channels = preprocessing.input_size[0]
    if isinstance(image, np.ndarray):
        image = _from_array(image)
    if isinstance(image, Tensor) and image.ndim == 3 and image.shape[0] in (1, 3, channels):
        if tuple(image.shape) == preprocessing.input_size and (image.is_floating_point() or image.dtype == torch.uint8):
            return image
        if image.dtype == torch.uint8 and image.shape[0] in (1, 3):
            image = _from_array(image.permute(1, 2, 0).cpu().numpy())
    if isinstance(image, Image.Image):
        return preprocessing(image)
    what = f"a tensor {list(image.shape)} of {image.dtype}" if isinstance(image, Tensor) else f"a {type(image).__name__}"
    raise InputError(
        f"an image must be a PIL image, bytes [C, H, W], or normalised floats {list(preprocessing.input_size)}; got {what}."
    )


def _from_array(array: "np.ndarray[Any, Any]") -> Image.Image:
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3)):
        raise InputError(f"an array must be bytes [H, W] or [H, W, C]; got {list(array.shape)} of {array.dtype}.")
    return Image.fromarray(array[:, :, 0] if array.ndim == 3 and array.shape[2] == 1 else array)


def stacked(images: list[Tensor], preprocessing: Preprocessing) -> Tensor:
    """Return images of `pixels_of` as one batch: of bytes if all are, else normalised."""
    if not all(image.dtype == torch.uint8 for image in images):
        mean, std = preprocessing.mean, preprocessing.std
        images = [image.float() if image.is_floating_point() else normalise(image, mean, std) for image in images]
    return torch.stack(images)
