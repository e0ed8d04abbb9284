"""A model's loss and accuracy on images with labels."""

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from ditcnn.data import ImageData, open_data
from ditcnn.data.class_names import match_classes
from ditcnn.data.kinds import look_at
from ditcnn.data.stream import Split, eval_batches_of, open_source
from ditcnn.system.devices import choose_device
from ditcnn.system.errors import InputError
from ditcnn.train import TrainedModel
from ditcnn.train.evaluate import evaluate_batches, mean_scores
from ditcnn.train.inputs import named_data
from ditcnn.train.settings import read_settings
from ditcnn.use.loading import Model, as_trained, called
from ditcnn.use.pixels import pixels_of, stacked

__all__ = ["evaluate", "is_for_memory"]

SMALL, LARGE = 500, 64  # images at a time


@dataclass
class _Images:
    """Batches of images and of the outputs that their labels stand for, and what is known of them."""

    where: str
    images: int | None
    classes: int
    batches: Iterator[tuple[Tensor, Tensor]]
    bad: dict[str, str] = field(default_factory=dict)


def evaluate(
    model: Model,
    data: Any,
    *,
    device: str = "auto",
    precision: str = "fp32",
    views: int = 1,
    batch_size: int | None = None,
    workers: int = 0,
    image_size: int | None = None,
    crop_pct: float | None = None,
    skip_bad_images: bool = False,
    pretrained: bool = True,
    data_config: Mapping[str, Any] | None = None,
    in_memory: bool | None = None,
) -> dict[str, Any]:
    """Return a model's mean cross-entropy in nats, ``loss``, accuracies in percent, ``top1`` and so on, and counts.

    Images of a path are met with the model's classes by name, those of a Dataset or a pair by number.

    Args:
        model: A model, or what `ditcnn.load` takes.
        data: A path as for ``ditcnn train``, of which the test or validation part is taken; what `ditcnn.data.open_data`
            returns; a torch Dataset of (image, label); or a pair of images ``[N, C, H, W]`` and labels ``[N]``. Bytes are
            pixels; floats are normalised already.
        device: Where to compute; ``auto`` is a GPU where there is one.
        precision: Arithmetic of the forward pass: fp32, bf16 or fp16.
        views: Test-time views, 1, 2 (mirrored) or 6 (and moved by a pixel): ``views_top1`` and so on stand beside the rest.
        batch_size: Images at a time.
        workers: Processes that read images which are not kept in memory.
        image_size, crop_pct: Instead of the model's own.
        skip_bad_images: Leave out images that cannot be decoded; ``bad_images`` counts them, ``left_out`` has the messages.
        pretrained: Load the weights that belong to a name of timm's.
        data_config: What is done to images, as timm has it, for a module that does not say so itself.
        in_memory: Read a path's images into memory at once, as training on CIFAR's does. Default: as the data are.

    Raises:
        InputError: There is no such model or data, or they do not fit.
    """
    for name, value, least in (("batch_size", batch_size, 1), ("image_size", image_size, 1), ("workers", workers, 0)):
        if value is not None and value < least:
            raise InputError(f"{name} must be {'above 0' if least else 'not negative'}; got {value}.")
    if views not in (1, 2, 6):
        raise InputError(f"views must be 1, 2 or 6; got {views}.")
    where = choose_device(device)
    trained = as_trained(model, pretrained=pretrained, image_size=image_size, crop_pct=crop_pct, data_config=data_config)
    if isinstance(data, str | os.PathLike):
        path = os.fspath(data)
        if is_for_memory(path) or trained.image_shape[0] != 3 if in_memory is None else in_memory:
            # The name decides where both CIFARs lie at a path.
            data = open_data(Path(path), "cifar100" if len(trained.classes) == 100 else "cifar10")
    if isinstance(data, ImageData):
        images = _of_memory(called(model), trained, data, batch_size or SMALL)
    elif isinstance(data, str | os.PathLike):
        images = _of_stream(trained, os.fspath(data), _split_of(model, data), batch_size or LARGE, workers, skip_bad_images)
    else:
        images = _of_objects(trained, data, batch_size or LARGE)
    started = time.monotonic()
    sums = evaluate_batches(
        {"": trained.model.to(where)},
        images.batches,
        mean=trained.mean,
        std=trained.std,
        device=where,
        precision=precision,
        topk=(1, 5) if len(trained.classes) > 5 else (1,),
        views=views,
    )[""]
    seconds = time.monotonic() - started
    if not sums["images"]:
        raise InputError(f"{images.where}: no image of {images.images} can be decoded.")
    preprocessing = trained.preprocessing
    return {
        "images": int(sums["images"]),
        "classes": images.classes,
        "image_size": list(preprocessing.input_size[1:]),
        "crop_pct": preprocessing.crop_pct,
        **mean_scores(sums),
        "images_per_second": round(sums["images"] / seconds, 1),
        "bad_images": len(images.bad),
        **({"left_out": list(images.bad.values())} if images.bad else {}),
    }


def is_for_memory(data: str) -> bool:
    """Say whether data are read into memory at once: CIFAR's batches, IDX files, and archives that are compressed."""
    try:
        found = look_at(data)
    except InputError:  # is told where they are opened
        return False
    return found.compressed or found.kind in ("cifar", "idx")


def _of_memory(name: str, trained: TrainedModel, data: ImageData, batch_size: int) -> _Images:
    outputs = _outputs_of(trained, data.classes)
    if data.image_shape != trained.image_shape:
        raise InputError(f"{name} takes images of (C, H, W) = {trained.image_shape}; the data has {data.image_shape}.")
    batches = zip(data.test.images.split(batch_size), outputs[data.test.labels].split(batch_size), strict=True)
    return _Images("the test part", len(data.test), len(data.classes), batches)


def _outputs_of(trained: TrainedModel, classes: Sequence[str]) -> Tensor:
    """Return the model's output for each class of the data."""
    known = trained.classes if trained.named else ()
    return torch.tensor(match_classes(classes, known, len(trained.classes)))


def _split_of(model: Model, data: str | os.PathLike[str]) -> Split:
    """Return which part tests a model: of class folders alone all, unless it was trained on nine tenths of them."""
    config = None if isinstance(model, nn.Module) else Path(model) / "config.yaml"
    ran = config is not None and config.is_file() and read_settings(config).get("data") == named_data(os.fspath(data))
    return "val" if ran else "all"


def _of_stream(
    trained: TrainedModel, data: str, split: Split, batch_size: int, workers: int, skip_bad_images: bool
) -> _Images:
    source = open_source(data, split, upright=trained.preprocessing.exif_orientation)
    outputs = _outputs_of(trained, source.classes)
    bad: dict[str, str] = {}

    read = eval_batches_of(
        source,
        trained.preprocessing,  # type: ignore[arg-type]  # called as an EvalTransform is
        batch_size=batch_size,
        workers=workers,
        skip_bad_images=skip_bad_images,
        bad_images=bad,
    )
    batches = ((images, outputs[labels]) for images, labels in read)
    return _Images(source.where, len(source), len(source.classes), batches, bad)


def _of_objects(trained: TrainedModel, data: Any, batch_size: int) -> _Images:
    """Return the images of a Dataset, or of a pair of images and labels."""
    kind = type(data).__name__
    if isinstance(data, tuple | list) and len(data) == 2:
        if len(data[0]) != len(data[1]):
            raise InputError(f"there are {len(data[0])} images and {len(data[1])} labels.")
        data = list(zip(*data, strict=True))
    if not isinstance(data, IterableDataset) and not (hasattr(data, "__getitem__") and hasattr(data, "__len__")):
        raise InputError(f"data must be a path, a Dataset of (image, label), or a pair of images and labels; got {kind}.")
    classes = len(trained.classes)

    def collate(samples: list[tuple[Any, Any]]) -> tuple[Tensor, Tensor]:
        labels = torch.tensor([int(label) for _, label in samples])
        if ((labels < 0) | (labels >= classes)).any():
            raise InputError(f"labels must be from 0 to {classes - 1}, the model's classes; got {labels.tolist()[:5]}.")
        return stacked([pixels_of(image, trained.preprocessing) for image, _ in samples], trained.preprocessing), labels

    # A generator of its own, else the loader draws from the global one.
    loader = DataLoader(data, batch_size, collate_fn=collate, generator=torch.Generator())
    return _Images(f"a {kind}", len(data) if hasattr(data, "__len__") else None, classes, iter(loader))
