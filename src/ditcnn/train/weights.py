"""Weights as a safetensors file with a digest of their own, which other readers pass over."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ditcnn.system.files import write_atomically
from ditcnn.system.text import one_line

__all__ = ["read_weights", "write_weights"]

_KEY = "sha256"  # among the file's metadata


def write_weights(path: Path, weights: Mapping[str, Tensor]) -> None:
    """Write tensors by name, whole or not at all.

    Raises:
        OSError: The disk is full or read-only.
    """
    plain = save(dict(weights), {"format": "pt"})
    data = 8 + int.from_bytes(plain[:8], "little")
    header = json.loads(plain[8:data])
    header["__metadata__"][_KEY] = _digest(weights)  # here: safetensors writes two entries in an order of chance
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    write_atomically(path, len(text).to_bytes(8, "little") + text + plain[data:])


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return tensors by name. A file without a digest, which others have written, is believed.

    Raises:
        ValueError: The file is cut, altered or no safetensors.
        OSError: It cannot be read.
    """
    if not path.is_file():
        raise ValueError(f"{path.name} is no file")
    try:
        with safe_open(path, framework="pt") as file:
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is no dict
            digest = (file.metadata() or {}).get(_KEY)
    except SafetensorError as error:
        raise ValueError(f"{path.name}: {one_line(error)}") from None
    if digest not in (None, _digest(weights)):
        raise ValueError(f"{path.name}: its digest does not match; it was altered, or written in part by another program")
    return weights


def _digest(weights: Mapping[str, Tensor]) -> str:
    """Return a digest of names, types, shapes and values."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode(errors="surrogatepass"))
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
