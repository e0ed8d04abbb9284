"""Images of any kind, as a model wants them."""

from typing import Any

import torch
from torch import Tensor

from ditcnn.data.batches import normalise
from ditcnn.data.decoding import as_picture
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
    size = preprocessing.input_size
    if isinstance(image, Tensor):
        if tuple(image.shape) == size and (image.is_floating_point() or image.dtype == torch.uint8):
            return image
        picture = as_picture(image) if image.ndim == 3 else None
    else:
        picture = as_picture(image)
    if picture is not None:
        return preprocessing(picture)
    array = hasattr(image, "shape") and hasattr(image, "dtype")
    what = f"a {type(image).__name__}" + (f" {list(image.shape)} of {image.dtype}" if array else "")
    raise InputError(
        "an image must be a PIL image, bytes [H, W, C] of an array, or a tensor: bytes [C, H, W], or normalised floats "
        f"{list(size)}; got {what}."
    )


def stacked(images: list[Tensor], preprocessing: Preprocessing) -> Tensor:
    """Return images of `pixels_of` as one batch: of bytes if all are, else normalised."""
    if not all(image.dtype == torch.uint8 for image in images):
        mean, std = preprocessing.mean, preprocessing.std
        images = [image.float() if image.is_floating_point() else normalise(image, mean, std) for image in images]
    return torch.stack(images)
