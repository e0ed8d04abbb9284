"""Where and in which arithmetic a network runs."""

from contextlib import AbstractContextManager

import torch

from ditcnn.system.errors import InputError

__all__ = ["DTYPES", "autocast", "choose_device"]

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def choose_device(name: str) -> torch.device:
    """Return the device called ``name``; ``auto`` is a GPU where there is one.

    Raises:
        InputError: The device is not there.
    """
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(device for device, there in present.items() if there)
    if not present.get(name, False):
        raise InputError(f"`device` {name}: this machine or this build of torch has none. Use `device` auto.")
    return torch.device(name)


def autocast(device: torch.device, precision: str) -> AbstractContextManager[None]:
    """Return the context in which a forward pass has ``precision``: fp32, bf16 or fp16."""
    return torch.autocast(device.type, DTYPES[precision], enabled=precision != "fp32")
