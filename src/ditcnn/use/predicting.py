"""The likeliest classes of images."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ditcnn.data.archives import Member, read_member
from ditcnn.data.batches import normalise
from ditcnn.data.class_names import describe
from ditcnn.data.decoding import BadImage, decode
from ditcnn.data.files import Walk
from ditcnn.data.names import is_image
from ditcnn.data.stream.files import images_in
from ditcnn.system.devices import choose_device
from ditcnn.system.errors import InputError, reason
from ditcnn.train import TrainedModel
from ditcnn.use.loading import Model, as_trained, called
from ditcnn.use.pixels import pixels_of, stacked

__all__ = ["Picture", "pictures_at", "predict", "predictions"]

BATCH = 64


@dataclass(frozen=True)
class Picture:
    """An image to classify: its place, where it has one, and how to get it."""

    path: str | None
    get: Callable[[], Any]


def predict(
    model: Model,
    images: Any,
    topk: int = 5,
    *,
    device: str = "auto",
    batch_size: int = BATCH,
    skip_bad_images: bool = False,
    pretrained: bool = True,
    data_config: Mapping[str, Any] | None = None,
) -> list[dict[str, Any]]:
    """Return for each image a dict of its ``path``, None where it has none, and ``top``: its classes, the likeliest first.

    Each of ``top`` is a dict of ``class``, in words, ``wnid`` where the class has a WordNet id, and ``probability``.

    Args:
        model: A model, or what `ditcnn.load` takes.
        images: Paths of images, of folders or of tars of them; PIL images; arrays or tensors as `pixels_of` takes them; one
            of these, or several.
        topk: How many classes to name.
        device: Where to compute; ``auto`` is a GPU where there is one.
        batch_size: Images at a time.
        skip_bad_images: Leave out images that cannot be read.
        pretrained, data_config: As in `ditcnn.evaluate`.

    Raises:
        InputError: There is no such model or image, or one cannot be read.
    """
    if topk < 1 or batch_size < 1:
        raise InputError(f"topk and batch_size must be above 0; got {topk} and {batch_size}.")
    trained = as_trained(model, pretrained=pretrained, data_config=data_config)
    if not trained.classes:
        raise InputError(f"{called(model)} has no classes.")
    bad: dict[str, str] | None = {} if skip_bad_images else None
    pictures = [picture for image in _each(images) for picture in _pictures(image)]
    return list(predictions(trained, pictures, topk, choose_device(device), batch_size, bad))


def _each(images: Any) -> Iterable[Any]:
    one = isinstance(images, str | os.PathLike | Image.Image) or (
        isinstance(images, Tensor | np.ndarray) and images.ndim < 4
    )
    return [images] if one else images


def _pictures(image: Any) -> list[Picture]:
    return pictures_at(Path(image)) if isinstance(image, str | os.PathLike) else [Picture(None, lambda: image)]


def pictures_at(path: Path) -> list[Picture]:
    """Return the images at a path: that of an image, a folder, or a tar.

    Raises:
        InputError: There are none.
    """
    if path.is_file() and path.suffix.lower() != ".tar":
        return [Picture(str(path), lambda: _decoded(str(path), path.read_bytes))]
    if path.is_file():
        return [_in_tar(member) for member in images_in([path])[0]]
    if not path.is_dir():
        raise InputError(f"{path} is a pipe or a device; it must be a file or a folder." if path.exists() else
                         f"{path}: no such file or folder.")  # fmt: skip
    found = [path / name for name in sorted(Walk(path).files()) if is_image(name)]
    if not found:
        raise InputError(f"{path} holds no images.")
    return [picture for image in found for picture in pictures_at(image)]


def _in_tar(member: Member) -> Picture:
    place = f"{member.archive}:{member.name}"
    return Picture(place, lambda: _decoded(place, lambda: read_member(member)))


def _decoded(place: str, read: Callable[[], bytes]) -> Image.Image:
    try:
        content = read()
    except OSError as error:
        raise BadImage(f"{place} cannot be read: {error.strerror or reason(error)}.") from None
    return decode(content, place, grey=True)


def predictions(
    trained: TrainedModel,
    pictures: Sequence[Picture],
    topk: int,
    device: torch.device,
    batch_size: int = BATCH,
    bad: dict[str, str] | None = None,
) -> Iterator[dict[str, Any]]:
    """Yield the rows of `predict` as they are computed.

    Args:
        trained: The model.
        pictures: The images.
        topk, batch_size: As in `predict`.
        device: Where to compute.
        bad: Filled with message by path of the images that cannot be read, which are left out. None: the first one ends it.

    Raises:
        BadImage: An image cannot be read; the rows of those before it have been yielded.
    """
    trained.model.to(device)
    batch: list[tuple[str | None, Tensor]] = []
    for picture in pictures:
        try:
            batch.append((picture.path, pixels_of(picture.get(), trained.preprocessing)))
        except BadImage as error:
            if bad is None:
                yield from _rows(trained, batch, topk, device)
                raise
            bad[picture.path or ""] = str(error)
        if len(batch) == batch_size:
            yield from _rows(trained, batch, topk, device)
            batch = []
    yield from _rows(trained, batch, topk, device)


@torch.no_grad()
def _rows(
    trained: TrainedModel, batch: list[tuple[str | None, Tensor]], topk: int, device: torch.device
) -> list[dict[str, Any]]:
    if not batch:
        return []
    images = stacked([pixels for _, pixels in batch], trained.preprocessing).to(device)
    x = images if images.is_floating_point() else normalise(images, trained.mean, trained.std)
    probabilities = trained.model(x).float().softmax(1).cpu()
    top = probabilities.topk(min(topk, probabilities.shape[1]))
    rows = []
    for (path, _), values, outputs in zip(batch, top.values.tolist(), top.indices.tolist(), strict=True):
        guesses = zip(values, outputs, strict=True)
        rows.append({"path": path, "top": [_name(trained, n) | {"probability": round(value, 6)} for value, n in guesses]})
    return rows


def _name(trained: TrainedModel, output: int) -> dict[str, str]:
    """Return the class of an output in words, and its WordNet id where it has one."""
    name = trained.classes[output]
    words = describe(name)
    return {"class": words} if words == name else {"class": words, "wnid": name}
