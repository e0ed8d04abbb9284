"""The chosen model as timm reads it, and its way back."""

import copy
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.models import save_for_hf
from torch import nn

from ditcnn.system.errors import InputError
from ditcnn.system.files import write_atomically
from ditcnn.train.folder import RunFolder

__all__ = ["TrainedModel", "load_model", "save_model"]


def save_model(
    model: nn.Module,
    folder: Path,
    *,
    classes: Sequence[str] = (),
    data_config: dict[str, Any] | None = None,
    own_module: str | None = None,
) -> None:
    """Write ``config.json`` and ``model.safetensors`` for ``timm.create_model("local-dir:DIR", pretrained=True)``.

    Args:
        model: A model that ``timm.create_model`` made.
        folder: DIR; it exists.
        classes: Names of the classes, where they are known.
        data_config: Size and normalisation of the images, as timm has them; default: those of the model's name.

    Raises:
        OSError: The disk is full or read-only.
    """
    plain = copy.deepcopy(model).cpu().to(memory_format=torch.contiguous_format)
    with tempfile.TemporaryDirectory(prefix=".export-", dir=folder) as temporary:
        try:
            config = {"label_names": list(classes)} if classes else {}
            save_for_hf(plain, temporary, model_config=config, data_config=data_config, safe_serialization=True)
        except SafetensorError as error:  # what safetensors makes of a full disk
            raise OSError(str(error)) from None
        for name in ("model.safetensors", "config.json"):
            write_atomically(folder / name, Path(temporary, name).read_bytes())


@dataclass(frozen=True)
class TrainedModel:
    """A model with what it needs to be used: class names, image shape (C, H, W), normalisation.

    Without ``named`` the model's classes have no names, as a converted one's, and are called by their numbers.
    """

    model: nn.Module
    classes: tuple[str, ...]
    image_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    named: bool = True


def load_model(path: Path) -> TrainedModel:
    """Read the chosen model of a run.

    Raises:
        InputError: The folder holds none, or a damaged one.
    """
    folder = RunFolder(path)
    config_file = path / "config.json"
    if not path.is_dir():
        raise InputError(f"{path}: no such folder; name the folder of a run.")
    if not config_file.is_file() or not folder.weights.is_file():
        unfinished = "; its run is not that far yet, go on with --resume" if folder.config.exists() else ""
        raise InputError(f"{path} holds no trained model (config.json and model.safetensors){unfinished}.")
    try:
        load_file(folder.weights)  # timm passes over some damage with a warning
        config = json.loads(config_file.read_bytes())
        model = timm.create_model(f"local-dir:{path}", pretrained=True)
        cfg = config["pretrained_cfg"]
        names = config.get("label_names") or cfg.get("label_names")
        classes = tuple(names or map(str, range(config["num_classes"])))
        shape, mean, std = (tuple(cfg[name]) for name in ("input_size", "mean", "std"))
        return TrainedModel(model.eval(), classes, shape, mean, std, named=bool(names))
    except (SafetensorError, LookupError, TypeError, ValueError, AttributeError, AssertionError, RuntimeError) as error:
        raise InputError(f"{path} holds a damaged model: {error}") from None
