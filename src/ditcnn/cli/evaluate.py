"""``ditcnn eval``."""

import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro
from torch import Tensor

from ditcnn.cli.named import as_folder, check_model, is_in_memory_run, open_named
from ditcnn.cli.parsing import flag, parse
from ditcnn.data import DataName, open_data
from ditcnn.data.cifar import cifar_in
from ditcnn.data.class_names import match_classes
from ditcnn.data.files import open_files
from ditcnn.data.idx import has_idx
from ditcnn.data.stream import eval_batches_of, open_source
from ditcnn.recipes import RECIPES
from ditcnn.system.devices import choose_device
from ditcnn.system.errors import InputError
from ditcnn.train import RunFolder, evaluate, load_model
from ditcnn.train.evaluate import evaluate_batches, mean_scores
from ditcnn.train.settings import read_settings

__all__ = ["evaluate_command"]


@dataclass(frozen=True)
class EvalFlags:
    """Test a model on images with labels.

    A run on CIFAR's or other small images is tested on the test part of a set of their form. Any other model, a name of
    timm's included, is tested on the images of class folders as timm validates it: size, crop and normalisation are the
    model's own. Folders called by WordNet ids meet ImageNet's classes by them, a part of the classes too; so do
    classes called by their numbers, as shards have them, or by ImageNet's words.
    """

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL_OR_RUN")]
    """Folder of a run, or of a model that timm has saved; a name of timm's registry; hf-hub:NAME."""
    data: str | None = None
    """Images, as for ditcnn train: class folders val/<class>/*, tars of them, hfds/NAME, wds/DIR, or small images' forms.
    Default: the data that the run was trained on."""
    json: bool = False
    """Print JSON."""
    pretrained: bool = True
    """Load the weights that belong to a name of timm's."""
    image_size: int | None = None
    """Height and width of the images, where they are not small ones in memory. Default: the model's own for testing."""
    crop_pct: float | None = None
    """Share of a resized image's shorter side that is kept. Default: the model's own."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Arithmetic of the forward pass."""
    batch_size: int | None = None
    """Images at a time. Default: 500 small ones, 64 others."""
    workers: int = min(4, os.cpu_count() or 1)
    """Processes that read images, where they are not small ones in memory; 0 for none."""
    skip_bad_images: bool = False
    """Leave out images that cannot be decoded, and count them; else the first one ends the test."""


def evaluate_command(argv: list[str]) -> None:
    """Print accuracy and loss."""
    flags = parse(EvalFlags, argv, "ditcnn eval")
    for name in ("batch_size", "image_size"):
        if getattr(flags, name) is not None and getattr(flags, name) < 1:
            raise InputError(f"--{name.replace('_', '-')} must be above 0; got {getattr(flags, name)}.")
    if flags.workers < 0:
        raise InputError(f"--workers must not be negative; got {flags.workers}.")
    if flags.crop_pct is not None and not 0 < flags.crop_pct <= 1:
        raise InputError(f"--crop-pct must be above 0 and at most 1; got {flags.crop_pct}.")
    folder = as_folder(flags.model)
    if folder is not None and (is_in_memory_run(folder) or _holds_small_images(flags.data)):
        _evaluate_in_memory(flags, folder)
    else:
        _evaluate_streamed(flags, folder)


def _holds_small_images(data: str | None) -> bool:
    """Say whether there are CIFAR's batches or IDX files: then a model without settings, as a converted one, is for them."""
    if data is None or not (path := Path(data)).exists() or path.suffix == ".tar":
        return False
    files = open_files(path)
    return bool(cifar_in(files)) or has_idx(files)


def _evaluate_streamed(flags: EvalFlags, folder: Path | None) -> None:
    device = choose_device(flags.device)
    check_model(flags.model)
    if folder is None and flags.data is None:  # before anything is downloaded
        raise InputError(f"name images to test {flags.model} on with --data PATH.")
    named = open_named(flags.model, pretrained=flags.pretrained, image_size=flags.image_size, crop_pct=flags.crop_pct)
    data = _streamed_data_of(folder) if flags.data is None else flags.data
    source = open_source(data, "val" if flags.data is None else "all")
    if named.channels != 3:
        raise InputError(f"{flags.model} takes images of {named.channels} channels; class folders are read as RGB.")
    outputs = torch.tensor(match_classes(source.classes, named.classes, named.outputs))
    bad: dict[str, str] = {}
    batches = eval_batches_of(
        source,
        named.transform,
        batch_size=flags.batch_size or 64,
        workers=flags.workers,
        skip_bad_images=flags.skip_bad_images,
        bad_images=bad,
    )

    def with_outputs() -> Iterator[tuple[Tensor, Tensor]]:
        for images, labels in batches:
            yield images, outputs[labels]

    started = time.monotonic()
    sums = evaluate_batches(
        {"": named.model.to(device)},
        with_outputs(),
        mean=named.mean,
        std=named.std,
        device=device,
        precision=flags.precision,
        topk=(1, 5),
    )[""]
    seconds = time.monotonic() - started
    for message in bad.values():
        print(f"ditcnn: left out: {message}", file=sys.stderr)
    if not sums["images"]:
        raise InputError(f"{source.where}: no image of {len(source)} can be decoded.")
    scores: dict[str, Any] = {"images": int(sums["images"]), **mean_scores(sums)}
    scores |= {"images_per_second": round(sums["images"] / seconds, 1), "bad_images": len(bad)}
    if flags.json:
        height, width = named.transform.size  # type: ignore[misc]
        about = {"model": flags.model, "data": data, "classes": len(source.classes), "image_size": [height, width]}
        print(json.dumps(about | {"crop_pct": named.transform.crop_pct} | scores))
    else:
        left_out = f", {len(bad)} bad ones left out" if bad else ""
        print(
            f"top-1 {scores['top1']:.2f}%, top-5 {scores['top5']:.2f}%, loss {scores['loss']:.4f} on {scores['images']} "
            f"images of {len(source.classes)} classes{left_out}, {scores['images_per_second']:g} images a second"
        )


def _streamed_data_of(folder: Path | None) -> str:
    config = None if folder is None else RunFolder(folder).config
    settings = read_settings(config) if config is not None and config.is_file() else None
    if settings is None or settings.get("data") is None:
        raise InputError(f"{folder} does not say what it was trained on; name images with --data PATH.")
    return str(settings["data"])


def _evaluate_in_memory(flags: EvalFlags, folder: Path) -> None:
    for name in ("image_size", "crop_pct", "skip_bad_images"):
        if getattr(flags, name) not in (None, False):
            raise InputError(f"{flag(name)} has no effect on small images in memory; leave it out.")
    device = choose_device(flags.device)
    trained = load_model(folder)
    path, name = _data_of(flags, folder, len(trained.classes))
    data = open_data(path, name)
    if data.classes != trained.classes and (trained.named or len(data.classes) != len(trained.classes)):
        raise InputError(
            f"{folder} knows {len(trained.classes)} classes ({', '.join(trained.classes[:3])}, ...), the data has "
            f"{len(data.classes)} ({', '.join(data.classes[:3])}, ...); they must be the same."
        )
    if data.image_shape != trained.image_shape:
        raise InputError(f"{folder} takes images of (C, H, W) = {trained.image_shape}; the data has {data.image_shape}.")
    scores: dict[str, Any] = evaluate(
        trained.model.to(device),
        data.test,
        mean=trained.mean,
        std=trained.std,
        device=device,
        precision=flags.precision,
        batch_size=flags.batch_size or 500,
        topk=(1, 5) if len(data.classes) > 5 else (1,),
    )
    if flags.json:
        print(json.dumps({"run": str(folder), "data": str(path or name), "images": len(data.test)} | scores))
    else:
        accuracies = ", ".join(f"top-{k[3:]} {v:.2f}%" for k, v in scores.items() if k.startswith("top"))
        print(f"{accuracies}, loss {scores['loss']:.4f} on {len(data.test)} test images")


def _data_of(flags: EvalFlags, folder: Path, classes: int) -> tuple[Path | None, DataName]:
    """Return path and name of the data: as asked, or as in the run's settings."""
    if flags.data is not None:
        return Path(flags.data), "cifar100" if classes == 100 else "cifar10"  # where both lie at the path
    config = RunFolder(folder).config
    settings = read_settings(config) if config.is_file() else None
    name = RECIPES[settings["recipe"]].data if settings is not None and settings.get("recipe") in RECIPES else "photographs"
    if settings is None or name == "photographs":
        raise InputError(f"{folder} does not say what it was trained on; name images with --data PATH.")
    return None if settings.get("data") is None else Path(str(settings.get("data"))), name
