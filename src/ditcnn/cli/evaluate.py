"""``ditcnn eval``."""

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from ditcnn.cli.flags import flag
from ditcnn.cli.parsing import parse
from ditcnn.system.documents import read_yaml
from ditcnn.system.errors import InputError
from ditcnn.system.network import ask_hub_early
from ditcnn.system.text import one_line

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
    views: Literal[1, 2, 6] = 1
    """Test-time views, whose accuracy is given beside that without: 2 for the mirrored image too, 6 for both moved by a
    pixel as well."""
    batch_size: int | None = None
    """Images at a time. Default: 500 small ones, 64 others."""
    workers: int = min(4, os.cpu_count() or 1)
    """Processes that read images, where they are not small ones in memory; 0 for none."""
    skip_bad_images: bool = False
    """Leave out images that cannot be decoded, and count them; else the first one ends the test."""


def evaluate_command(argv: list[str]) -> None:
    """Print accuracy and loss."""
    flags = parse(EvalFlags, argv, "ditcnn eval")
    ask_hub_early(flags.model)
    for name in ("batch_size", "image_size"):
        if getattr(flags, name) is not None and getattr(flags, name) < 1:
            raise InputError(f"--{name.replace('_', '-')} must be above 0; got {getattr(flags, name)}.")
        if getattr(flags, name) is not None and getattr(flags, name) > 2**31:
            raise InputError(f"--{name.replace('_', '-')} must be at most {2**31}; got {getattr(flags, name)}.")
    if flags.workers < 0:
        raise InputError(f"--workers must not be negative; got {flags.workers}.")
    if flags.crop_pct is not None and not 0 < flags.crop_pct <= 1:
        raise InputError(f"--crop-pct must be above 0 and at most 1; got {flags.crop_pct}.")
    from ditcnn.system.devices import choose_device  # loads torch, as the next do
    from ditcnn.train.saved import as_folder, check_name, is_elsewhere, read_config
    from ditcnn.use import evaluate
    from ditcnn.use.evaluating import is_for_memory

    choose_device(flags.device)
    folder = as_folder(flags.model)
    # What is plainly wrong is told before anything is downloaded or decoded.
    if folder is not None:
        read_config(folder)
    elif not is_elsewhere(flags.model):
        check_name(flags.model)
    data, path = _data_of(flags, folder)
    in_memory = _is_small(data) or (folder is not None and _is_in_memory_run(folder)) or None
    if in_memory or is_for_memory(str(data)):
        for name in ("image_size", "crop_pct", "skip_bad_images"):
            if getattr(flags, name) not in (None, False):
                raise InputError(f"{flag(name)} has no effect on small images in memory; leave it out.")
    names = (
        "device",
        "precision",
        "views",
        "batch_size",
        "workers",
        "image_size",
        "crop_pct",
        "skip_bad_images",
        "pretrained",
    )
    options: dict[str, Any] = {name: getattr(flags, name) for name in names}
    scores = evaluate(flags.model, data, in_memory=in_memory, **options)
    for message in scores.pop("left_out", ()):
        print(f"ditcnn: left out: {one_line(message)}", file=sys.stderr)
    if flags.json:
        run = {"run": str(folder)} if in_memory and folder is not None else {}
        print(json.dumps(run | {"model": flags.model, "data": path} | scores))
        return
    accuracies = ", ".join(f"top-{name[3:]} {value:.2f}%" for name, value in scores.items() if name.startswith("top"))
    if flags.views > 1:
        accuracies += f" ({scores['views_top1']:.2f}% with {flags.views} views)"
    left_out = f", {scores['bad_images']} bad ones left out" if scores["bad_images"] else ""
    print(
        f"{accuracies}, loss {scores['loss']:.4f} on {scores['images']} images of {scores['classes']} classes{left_out}, "
        f"{scores['images_per_second']:g} images a second"
    )


def _is_small(data: object) -> bool:
    return not isinstance(data, str)


def _data_of(flags: EvalFlags, folder: Path | None) -> tuple[Any, str]:
    """Return the data as asked, or as in the run's settings, and what they are called."""
    if flags.data is not None:
        return flags.data, flags.data
    if folder is None:
        raise InputError(f"name images to test {flags.model} on with --data PATH.")
    from ditcnn.data import open_data
    from ditcnn.recipes import RECIPES
    from ditcnn.train.settings import read_settings

    config = folder / "config.yaml"
    settings = read_settings(config) if config.is_file() else {}
    recipe, data = RECIPES.get(str(settings.get("recipe"))), settings.get("data")
    if recipe is None or (data is None and recipe.data == "photographs"):
        raise InputError(f"{folder} does not say what it was trained on; name images with --data PATH.")
    if data is not None and not str(data).startswith(("hfds/", "wds/")) and not Path(str(data)).exists():
        raise InputError(f"{folder} was trained on {data}, which is not here; name images with --data PATH.")
    if recipe.data == "photographs":
        return str(data), str(data)
    return open_data(None if data is None else Path(str(data)), recipe.data), str(data or recipe.data)


def _is_in_memory_run(folder: Path) -> bool:
    """Say whether a folder is a run of a recipe for images in memory, as CIFAR's are."""
    from ditcnn.recipes import RECIPES

    if not (config := folder / "config.yaml").is_file():
        return False
    try:
        settings = read_yaml(config)
    except InputError:
        return True
    recipe = RECIPES.get(str(settings.get("recipe"))) if isinstance(settings, dict) else None
    return recipe is None or not recipe.streamed
