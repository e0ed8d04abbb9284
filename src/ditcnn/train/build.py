"""A model for images of a given shape, fresh or from another model's weights."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import PretrainedCfg, resolve_model_input_args
from torch import nn

from ditcnn.system.errors import InputError
from ditcnn.system.text import one_line
from ditcnn.train.saved import as_folder, check_name, read_config, registered
from ditcnn.train.weights import read_weights

__all__ = ["arguments_of", "build_model", "fresh_model", "images_of", "input_shape"]

_OF_THE_DATA = ("num_classes", "in_chans", "img_size")  # arguments that the images decide


def build_model(
    name: str, image_shape: Sequence[int], num_classes: int, pretrained: str | None = None, **model_kwargs: Any
) -> nn.Module:
    """Return a model of timm's registry for images of shape (C, H, W).

    Args:
        name: The model's name.
        image_shape: (C, H, W).
        num_classes: Outputs of the head.
        pretrained: Weights to start from: the folder of a run, or a name of timm's registry that has weights. Those of a
            plain network leave the quadratic terms at their start; a head for another number of classes starts afresh.
            A folder of the same model gives the arguments that it was made with, too.
        model_kwargs: Arguments of the model.

    Raises:
        InputError: The model does not take these arguments, images or weights.
    """
    check_name(name)
    start, own = _weights(pretrained, name) if pretrained else ({}, {})
    model_kwargs = own | model_kwargs
    try:
        arguments = resolve_model_input_args(name, {"input_size": tuple(image_shape)}, **model_kwargs)
        model: nn.Module = timm.create_model(**(arguments | start), num_classes=num_classes)
        model.eval()
        with torch.no_grad():
            model(torch.zeros(1, *image_shape))
        model.train()
    except MemoryError:
        raise
    except Exception as error:  # what a model makes of arguments and weights can be anything
        size = "x".join(map(str, image_shape[1:]))
        weights = f" and the weights of {pretrained}" if pretrained else ""
        told = f"model {name} with {model_kwargs or 'its defaults'}{weights} on {size} images: {one_line(error)}"
        raise InputError(told) from None
    return model


def input_shape(name: str, arguments: Mapping[str, Any], image_size: int | None = None) -> tuple[int, int, int]:
    """Return (C, H, W) of the images that a model is for, or of the size that is asked for.

    Raises:
        InputError: There is no such model.
    """
    if (folder := as_folder(name)) is not None:
        channels, height, width = read_config(folder)["pretrained_cfg"]["input_size"]
    else:
        cfg = registered(name, arguments)
        channels, height, width = (3, 224, 224) if cfg is None else cfg.input_size
    channels = arguments.get("in_chans", channels)
    return (channels, height, width) if image_size is None else (channels, image_size, image_size)


def fresh_model(name: str, arguments: Mapping[str, Any], image_shape: tuple[int, int, int]) -> nn.Module:
    """Return the model with fresh weights, as many classes as its name or its folder says.

    Raises:
        InputError: There is no such model, or it does not take the arguments or images.
    """
    wanted = dict(arguments)
    if (folder := as_folder(name)) is not None:
        config = read_config(folder)
        if config["architecture"] is None:
            raise InputError(
                f"{folder} holds weights of {config.get('module', 'a module of your own')}, which only its code builds."
            )
        own = {
            key: value for key, value in (config.get("model_args") or {}).items() if key not in ("num_classes", "in_chans")
        }
        classes = wanted.pop("num_classes", config["num_classes"])
        return build_model(config["architecture"], image_shape, classes, **(own | wanted))
    cfg = registered(name, arguments)
    classes = wanted.pop("num_classes", 1000 if cfg is None else cfg.num_classes)
    return build_model(name, image_shape, classes, **wanted)


def arguments_of(pretrained: str, name: str) -> dict[str, Any]:
    """Return the arguments that the model in a folder was made with, if it is the model ``name``: weights alone do not tell.

    Raises:
        InputError: The folder's config.json is damaged.
    """
    return _weights_of_folder(Path(pretrained), name)[1] if Path(pretrained).is_dir() else {}


def images_of(pretrained: str) -> dict[str, Any]:
    """Return what images weights want: ``img_size``, ``interpolation`` and, of RGB images, ``mean`` and ``std``.

    Args:
        pretrained: As in `build_model`.

    Raises:
        InputError: There are no such weights, or their config.json is damaged.
    """
    folder = Path(pretrained)
    return _as_images(_config_of(folder)["pretrained_cfg"] if folder.is_dir() else vars(_named(pretrained)))


def _as_images(cfg: dict[str, Any]) -> dict[str, Any]:
    channels, _, size = cfg["input_size"]
    colours = {name: tuple(map(float, cfg[name])) for name in ("mean", "std")} if channels == 3 else {}
    resized = {"interpolation": cfg["interpolation"]} if cfg.get("interpolation") else {}
    return {"img_size": int(size)} | resized | colours


def _weights(source: str, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what makes ``timm.create_model`` load the weights of ``source`` into ``name``, and its arguments."""
    if Path(source).is_dir():
        return _weights_of_folder(Path(source), name)
    cfg = _named(source)
    given = {key: getattr(cfg, key) for key in ("url", "file", "hf_hub_id", "hf_hub_filename", "num_classes", "input_size")}
    return {"pretrained": True, "pretrained_cfg_overlay": given}, {}


def _named(source: str) -> PretrainedCfg:
    try:
        cfg = registered(source)
    except InputError as error:
        raise InputError(f"`pretrained` {error}") from None
    if cfg is None or not cfg.has_weights:
        raise InputError(f"`pretrained` {source}: there are no weights of that name. List them: timm.list_pretrained().")
    return cfg


def _config_of(folder: Path) -> dict[str, Any]:
    try:
        return read_config(folder)
    except InputError as error:
        raise InputError(f"`pretrained` {error}") from None


def _weights_of_folder(folder: Path, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    config = _config_of(folder)
    if config["architecture"] is None:
        raise InputError(f"`pretrained` {folder} holds weights of a module of your own: load them into it, and train that.")
    try:
        read_weights(folder / "model.safetensors")  # timm believes what it reads
    except ValueError as error:
        raise InputError(f"`pretrained` {folder} holds a damaged model: {error}.") from None
    cfg = config["pretrained_cfg"] | {"num_classes": config["num_classes"], "source": "local-dir", "file": str(folder)}
    if config["architecture"].split(".")[0] == name:
        known = {key: value for key, value in cfg.items() if key in PretrainedCfg.__dataclass_fields__}
        own = {key: value for key, value in (config.get("model_args") or {}).items() if key not in _OF_THE_DATA}
        return {"pretrained": True, "pretrained_cfg": known}, own
    given = {key: cfg[key] for key in ("source", "file", "num_classes", "input_size")}
    return {"pretrained": True, "pretrained_cfg_overlay": given}, {}
