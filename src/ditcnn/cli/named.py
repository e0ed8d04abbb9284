"""A trained model named on a command line, with all that using it needs."""

import logging
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
import yaml
from timm.data import resolve_data_config
from torch import nn

from ditcnn.cli.models import check_name
from ditcnn.data.class_names import imagenet_classes
from ditcnn.data.stream import EvalTransform
from ditcnn.recipes import RECIPES
from ditcnn.system.errors import InputError
from ditcnn.train import RunFolder, load_model

__all__ = ["NamedModel", "as_folder", "check_model", "is_in_memory_run", "open_named"]

SOURCES = ("hf-hub:", "hf_hub:", "local-dir:")  # timm's, before a name


@dataclass(frozen=True)
class NamedModel:
    """A model in eval mode, names of its outputs where they have any, and what its images must be like."""

    model: nn.Module
    outputs: int
    classes: tuple[str, ...]
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    transform: EvalTransform


def open_named(
    name: str, *, pretrained: bool = True, image_size: int | None = None, crop_pct: float | None = None
) -> NamedModel:
    """Return the model that ``name`` stands for.

    Args:
        name: The folder of a run or of any model saved by timm; a name of timm's registry; ``hf-hub:NAME`` or
            ``local-dir:FOLDER``.
        pretrained: Load the weights that belong to a name. A name without any gives fresh ones, with a note.
        image_size: Height and width of the images. Default: those of the run, or those that timm validates the name at.
        crop_pct: As in `EvalTransform`. Default: as for the size.

    Raises:
        InputError: There is no such model, its weights cannot be had, or it takes no images of this size.
    """
    folder = as_folder(name)
    if folder is not None:
        trained = load_model(folder)
        model, classes, shape = trained.model, trained.classes, trained.image_shape
        if not trained.named:
            classes = imagenet_classes(len(classes))
        outputs = len(trained.classes)
    else:
        model = _from_timm(name, pretrained)
        outputs = int(getattr(model, "num_classes", 0))
        classes = tuple((_cfg(model).get("label_names") or ())[:outputs]) or imagenet_classes(outputs)
        shape = None
    asked: dict[str, Any] = {"crop_pct": crop_pct}
    if image_size is not None:
        asked["input_size"] = (_channels(model), image_size, image_size)
    config = resolve_data_config(asked, pretrained_cfg=_cfg(model), use_test_size=shape is None)
    channels, height, width = config["input_size"]
    transform = EvalTransform(
        (height, width),
        crop_pct=config["crop_pct"],
        interpolation=config["interpolation"],
        # Images in memory have one size; others are brought to it whole.
        crop_mode="squash" if folder is not None and is_in_memory_run(folder) else config["crop_mode"],
        mean=tuple(config["mean"]),
    )
    _try(name, model, (channels, height, width))
    return NamedModel(model, outputs, classes, channels, tuple(config["mean"]), tuple(config["std"]), transform)


def check_model(name: str) -> None:
    """Raise `InputError` where it is plain at once that there is no such model."""
    if as_folder(name) is None and not name.startswith(SOURCES):
        check_name(name)


def as_folder(name: str) -> Path | None:
    """Return the folder that a name stands for, or None for a name of timm's."""
    path = Path(name.removeprefix("local-dir:"))
    return path if path.is_dir() or name.startswith("local-dir:") else None


def is_in_memory_run(folder: Path) -> bool:
    """Say whether a folder is a run of a recipe for images in memory, as CIFAR's are."""
    config = RunFolder(folder).config
    if not config.is_file():
        return False
    try:
        settings = yaml.safe_load(config.read_text())
    except (yaml.YAMLError, UnicodeDecodeError):
        return True
    recipe = RECIPES.get(str(settings.get("recipe"))) if isinstance(settings, dict) else None
    return recipe is None or not recipe.streamed


def _from_timm(name: str, pretrained: bool) -> nn.Module:
    check_model(name)
    if not name.startswith(SOURCES):
        cfg = timm.get_pretrained_cfg(name)
        if pretrained and (cfg is None or not cfg.has_weights):
            print(f"ditcnn: {name} has no trained weights: what follows is of fresh ones, seed 0.", file=sys.stderr)
            pretrained = False
    torch.manual_seed(0)
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # else it tells each of its attempts
    try:
        return timm.create_model(name, pretrained=pretrained).eval()  # type: ignore[no-any-return]
    except Exception as error:  # what a download raises has no common class
        text = " ".join(str(error).split())
        raise InputError(
            f"{name}: the model cannot be had: {text[:300]} Without a network, name a folder that timm has saved, "
            "or pass --no-pretrained for fresh weights."
        ) from None


def _cfg(model: nn.Module) -> dict[str, Any]:
    cfg: Any = getattr(model, "pretrained_cfg", None) or {}
    return dict(cfg)


def _channels(model: nn.Module) -> int:
    return int(_cfg(model).get("input_size", (3,))[0])


def _try(name: str, model: nn.Module, shape: tuple[int, int, int]) -> None:
    """Raise `InputError` unless the model takes images of a shape."""
    try:
        with torch.no_grad():
            model(torch.zeros(1, *shape))
    except (RuntimeError, ValueError, AssertionError) as error:
        raise InputError(f"{name} takes no images of (C, H, W) = {shape}: {' '.join(str(error).split())}") from None
