"""A model for images of a given shape, fresh or from another model's weights."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from timm.models import PretrainedCfg, resolve_model_input_args
from torch import nn

from ditcnn.system.errors import InputError, nearest

__all__ = ["arguments_of", "build_model", "images_of"]

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
    start, own = _weights(pretrained, name) if pretrained else ({}, {})
    model_kwargs = own | model_kwargs
    try:
        arguments = resolve_model_input_args(name, {"input_size": tuple(image_shape)}, **model_kwargs)
        model: nn.Module = timm.create_model(**(arguments | start), num_classes=num_classes)
        model.eval()
        with torch.no_grad():
            model(torch.zeros(1, *image_shape))
        model.train()
    except (TypeError, ValueError, RuntimeError, AssertionError, SafetensorError) as error:
        size = "x".join(map(str, image_shape[1:]))
        weights = f" and the weights of {pretrained}" if pretrained else ""
        reason = " ".join(str(error).split())
        raise InputError(f"model {name} with {model_kwargs or 'its defaults'}{weights} on {size} images: {reason}") from None
    return model


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
    if not (folder := Path(pretrained)).is_dir():
        return _as_images(vars(_named(pretrained)))
    with _config_of(folder) as config:
        return _as_images(config["pretrained_cfg"])


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
    if not timm.is_model(source):
        hint = nearest(source, timm.list_pretrained())
        raise InputError(f"`pretrained` {source}: no such folder, and no model of timm's registry.{hint}")
    cfg = timm.get_pretrained_cfg(source)
    if cfg is None or not cfg.has_weights:
        raise InputError(f"`pretrained` {source}: there are no weights of that name. List them: timm.list_pretrained().")
    return cfg


@contextmanager
def _config_of(folder: Path) -> Iterator[dict[str, Any]]:
    """Give a folder's config.json; tell what it lacks."""
    try:
        yield json.loads((folder / "config.json").read_bytes())
    except FileNotFoundError:
        raise InputError(f"`pretrained` {folder}: it holds no trained model (config.json and model.safetensors).") from None
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise InputError(f"`pretrained` {folder}: its config.json is damaged: {error}") from None


def _weights_of_folder(folder: Path, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    with _config_of(folder) as config:
        cfg = config["pretrained_cfg"] | {"num_classes": config["num_classes"], "source": "local-dir", "file": str(folder)}
        if config["architecture"].split(".")[0] == name:
            known = {key: value for key, value in cfg.items() if key in PretrainedCfg.__dataclass_fields__}
            own = {key: value for key, value in config.get("model_args", {}).items() if key not in _OF_THE_DATA}
            return {"pretrained": True, "pretrained_cfg": known}, own
        given = {key: cfg[key] for key in ("source", "file", "num_classes", "input_size")}
        return {"pretrained": True, "pretrained_cfg_overlay": given}, {}
