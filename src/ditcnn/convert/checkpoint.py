"""Checkpoints of plain networks and of the published code, under this package's keys."""

import argparse
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ditcnn.convert.insert import quadratic_terms
from ditcnn.system.errors import InputError

__all__ = ["differences", "read_checkpoint", "swaps_height_and_width", "with_fresh_terms", "with_our_keys"]

State = dict[str, Tensor]

_CONTAINERS = ("state_dict_ema", "model_ema", "state_dict", "model")  # the average first, as timm reads them
_WRAPPERS = ("module.", "_orig_mod.")

# Keys of the published code (Liu et al., NeurIPS 2024) and what they are called here.
_PUBLISHED = (
    (r"(.+)\.quadratic_layer\.quadratic", r"\1.quadratic.weight"),
    (r"(layer\d\.\d+)\.ln_in\.(weight|bias)", r"\1.quadratic.norm.\2"),
    (r"(layer\d\.\d+)\.shortcut\.(.+)", r"\1.downsample.\2"),
    (r"linear\.(weight|bias)", r"fc.\1"),
    (r"(stages\.\d+\.blocks\.\d+)\.quadratic\.quadratic", r"\1.conv_dw.quadratic.weight"),
)


def read_checkpoint(path: Path) -> State:
    """Return the tensors of a ``.safetensors`` file or of one that ``torch.save`` wrote, without running code from it.

    The tensors may lie bare or under ``state_dict_ema``, ``model_ema``, ``state_dict`` or ``model``, the first of these that
    is there, and their keys may begin with ``module.`` or ``_orig_mod.``.

    Raises:
        InputError: The file is not there, is damaged, or holds no tensors by name.
    """
    try:
        if path.suffix == ".safetensors":
            loaded: Any = load_file(path)
        else:
            with torch.serialization.safe_globals([argparse.Namespace]):  # timm's train.py keeps its arguments so
                loaded = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file.") from None
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} cannot be read: {error}.") from None
    except Exception as error:  # a damaged or foreign file can raise anything
        first = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(f"{path} is damaged or is no file of tensors: {first}") from None
    for container in _CONTAINERS:
        if isinstance(loaded, dict) and isinstance(loaded.get(container), dict):
            loaded = loaded[container]
            break
    if not isinstance(loaded, dict) or not any(isinstance(value, Tensor) for value in loaded.values()):
        raise InputError(f"{path} holds no tensors by name, neither bare nor under {', '.join(_CONTAINERS)}.")
    return {_unwrapped(key): value for key, value in loaded.items() if isinstance(value, Tensor)}


def with_our_keys(state: State) -> tuple[State, dict[str, str]]:
    """Return the tensors with published keys renamed to this package's, and {published key: key here}.

    The published matrices are ``[O, C C]`` and become ``[O, C, C]``.
    """
    renamed, moves = {}, {}
    for key, value in state.items():
        new = _our_key(key)
        if new != key:
            moves[key] = new
        if new.endswith("quadratic.weight") and value.ndim == 2:
            channels = round(value.shape[1] ** 0.5)
            if channels**2 == value.shape[1]:
                value = value.reshape(len(value), channels, channels)
        renamed[new] = value
    return renamed, moves


def swaps_height_and_width(state: State) -> bool:
    """Say whether a checkpoint is of the published CIFAR layer, whose output has height and width swapped."""
    return any(key.endswith(".quadratic_layer.quadratic") for key in state)


def with_fresh_terms(state: State, model: nn.Module) -> State:
    """Return the tensors with the model's own terms added where there are none at all: those of a plain network.

    A checkpoint with a part of the terms is left as it is, for a strict load to refuse.
    """
    own = model.state_dict()
    keys = [key for name, _ in quadratic_terms(model) for key in own if key.startswith(f"{name}.")]
    if any(key in state for key in keys):
        return state
    return state | {key: own[key] for key in keys}


def differences(state: State, model: nn.Module) -> list[str]:
    """Return what keeps a strict load from working, a line for each key: missing, not known, or of another shape."""
    own = model.state_dict()
    lines = [f"{key} is missing" for key in own if key not in state]
    lines += [f"{key} has no place in the model" for key in state if key not in own]
    lines += [
        f"{key} is {list(value.shape)}, the model's {list(own[key].shape)}"
        for key, value in state.items()
        if key in own and own[key].shape != value.shape
    ]
    return lines


def _unwrapped(key: str) -> str:
    while key.startswith(_WRAPPERS):
        key = key.partition(".")[2]
    return key


def _our_key(key: str) -> str:
    for published, ours in _PUBLISHED:
        if re.fullmatch(published, key):
            return re.sub(published, ours, key)
    return key
