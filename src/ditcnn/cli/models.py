"""A model named on the command line: a name of timm's registry, or the folder of a run or of a converted model."""

import json
from pathlib import Path
from typing import Any

import timm
from torch import nn

from ditcnn.recipes import parse_arguments
from ditcnn.system.errors import InputError, nearest
from ditcnn.train import build_model, load_model

__all__ = ["check_name", "fresh_model", "input_shape", "load_weights"]


def input_shape(name: str, model_kwargs: tuple[str, ...] = (), image_size: int | None = None) -> tuple[int, int, int]:
    """Return (C, H, W) of the images that a model is for, or of the size that is asked for.

    Raises:
        InputError: There is no such model.
    """
    arguments = parse_arguments(model_kwargs)
    if Path(name).is_dir():
        channels, height, width = _config(Path(name))["pretrained_cfg"].get("input_size", (3, 224, 224))
    else:
        check_name(name)
        cfg = _registry_cfg(name, arguments)
        channels, height, width = (3, 224, 224) if cfg is None else cfg.input_size
    channels = arguments.get("in_chans", channels)
    return (channels, height, width) if image_size is None else (channels, image_size, image_size)


def _registry_cfg(name: str, arguments: dict[str, Any]) -> Any:
    """Return timm's config of a name; that of the base for a model with terms put in."""
    return timm.get_pretrained_cfg(arguments.get("base", name) if name == "with_quadratic" else name)


def fresh_model(name: str, model_kwargs: tuple[str, ...], image_shape: tuple[int, int, int]) -> nn.Module:
    """Return the model with fresh weights, as many classes as its name or its folder says.

    Raises:
        InputError: There is no such model, or it does not take the arguments or images.
    """
    arguments = parse_arguments(model_kwargs)
    if Path(name).is_dir():
        config = _config(Path(name))
        own = {key: value for key, value in config.get("model_args", {}).items() if key not in ("num_classes", "in_chans")}
        classes = arguments.pop("num_classes", config["num_classes"])
        return build_model(config["architecture"], image_shape, classes, **(own | arguments))
    check_name(name)
    cfg = _registry_cfg(name, arguments)
    classes = arguments.pop("num_classes", 1000 if cfg is None else cfg.num_classes)
    return build_model(name, image_shape, classes, **arguments)


def load_weights(name: str, model_kwargs: tuple[str, ...]) -> tuple[nn.Module, tuple[int, int, int], bool]:
    """Return a model with its weights in eval mode, (C, H, W) of its images, and whether the weights are trained ones.

    A folder has weights, and so has a name with a tag; other names give fresh ones.

    Raises:
        InputError: There is no such model, or its weights cannot be had.
    """
    if Path(name).is_dir():
        if model_kwargs:
            raise InputError(f"{name} keeps the arguments it was made with; leave out --model-kwargs.")
        trained = load_model(Path(name))
        return trained.model, trained.image_shape, True
    shape = input_shape(name, model_kwargs)
    cfg = timm.get_pretrained_cfg(name)
    if "." not in name or cfg is None or not cfg.has_weights:
        return fresh_model(name, model_kwargs, shape).eval(), shape, False
    arguments = parse_arguments(model_kwargs)
    try:
        model: nn.Module = timm.create_model(name, pretrained=True, **arguments)
    except (OSError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(f"{name}: {' '.join(str(error).split())}") from None
    return model.eval(), shape, True


def check_name(name: str) -> None:
    """Raise `InputError` unless timm's registry has a name."""
    if not timm.is_model(name):
        hint = nearest(name, timm.list_models())
        raise InputError(f"{name}: no such folder, and no model of timm's registry.{hint}")


def _config(folder: Path) -> dict[str, Any]:
    try:
        config: dict[str, Any] = json.loads((folder / "config.json").read_bytes())
        if not (isinstance(config, dict) and {"architecture", "num_classes", "pretrained_cfg"} <= config.keys()):
            raise ValueError("it lacks a model's entries")
        return config
    except FileNotFoundError:
        raise InputError(f"{folder} holds no trained model (config.json and model.safetensors).") from None
    except ValueError as error:
        raise InputError(f"{folder}/config.json is damaged: {error}.") from None
