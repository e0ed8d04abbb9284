"""Which recipe suits data that come without one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ditcnn.data.datasets import first_image
from ditcnn.data.images import MAX_SIDE
from ditcnn.data.kinds import Found, look_at
from ditcnn.system.errors import InputError

__all__ = ["holds_small_images", "match_recipe"]

FEW = 20_000  # photographs, up to which small batches and few epochs suit them


def holds_small_images(data: Any) -> bool:
    """Say whether a path holds images of one size that are kept in memory."""
    return look_at(data).small


def match_recipe(data: Any, say: Callable[[str], None]) -> str:
    """Return the name of the recipe that suits data: a path, a torch Dataset, or a pair (images, labels).

    Raises:
        InputError: None does, or several do; the message names them.
    """
    if data is None:
        raise InputError("name the images to train on, or a recipe that has its own: digits, cifar10 or cifar100.")
    if not isinstance(data, str | Path):
        return _by_size(*_first_of(data))
    found = look_at(data)
    name, others = _by_images(found)
    say(f"recipe {name}, as {found.where} holds {_words(found)}{f' (also: {others})' if others else ''}")
    return name


def _first_of(data: Any) -> tuple[int, int, int]:
    """Return channels, height and width of a Dataset's or an array's first image."""
    if isinstance(data, tuple):
        shape = tuple(np.shape(data[0]))
        return shape[1:] if len(shape) == 4 else (3, 0, 0)  # what it lacks is told where it is opened
    image = first_image(data)
    return (3, image.height, image.width) if hasattr(image, "height") else tuple(image.shape)


def _by_size(channels: int, height: int, width: int) -> str:
    if max(height, width) > MAX_SIDE:
        return "photos"
    return "digits" if channels == 1 else "cifar10-warmup"


def _by_images(found: Found) -> tuple[str, str]:
    """Return the recipe's name, and others that would do."""
    if found.small:
        if found.grey:
            return "digits", ""
        kind = found.name or ("cifar100" if found.classes == 100 else "cifar10")
        return f"{kind}-warmup", f"{kind}, the paper's 160 epochs"
    train = found.images.get("train", found.images.get("all"))
    if found.sizes and train is not None and train <= FEW:
        return "photos", "imagenet"
    raise InputError(
        f"{found.where} holds {_words(found)}: name the recipe, photos (20 epochs, small batches), imagenet (the paper's "
        "300 epochs) or imagenet-finetune (from `pretrained` weights)."
    )


def _words(found: Found) -> str:
    count = sum(number for number in found.images.values() if number is not None)
    sizes = sorted(set(found.sizes))
    size = "" if not sizes else f" of {sizes[0][1]}x{sizes[0][0]}" if len(sizes) == 1 else " of several sizes"
    classes = f" in {found.classes} classes" if found.classes else ""
    return f"{'' if found.exact else 'about '}{count:,} {'grey ' * found.grey}images{size}{classes}" if count else "images"
