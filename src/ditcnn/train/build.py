"""A fresh model for images of a given shape."""

from collections.abc import Sequence
from typing import Any

import timm
import torch
from timm.models import resolve_model_input_args
from torch import nn

from ditcnn.errors import InputError

__all__ = ["build_model"]


def build_model(name: str, image_shape: Sequence[int], num_classes: int, **model_kwargs: Any) -> nn.Module:
    """Return a fresh model of timm's registry for images of shape (C, H, W).

    Raises:
        InputError: The model does not take these arguments or images.
    """
    try:
        arguments = resolve_model_input_args(name, {"input_size": tuple(image_shape)}, **model_kwargs)
        model: nn.Module = timm.create_model(**arguments, num_classes=num_classes)
        model.eval()
        with torch.no_grad():
            model(torch.zeros(1, *image_shape))
        model.train()
    except (TypeError, ValueError, RuntimeError, AssertionError) as error:
        size = "x".join(map(str, image_shape[1:]))
        raise InputError(f"model {name} with {model_kwargs or 'its defaults'} on {size} images: {error}") from None
    return model
