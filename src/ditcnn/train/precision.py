"""Which arithmetic is fast here: measured once, as processors differ by a factor of ten and do not say so."""

import functools
import time
from collections.abc import Callable

import torch
from torch import nn

from ditcnn.recipes.settings import Precision
from ditcnn.system.devices import autocast

__all__ = ["choose_precision", "gain_over_fp32"]

WORTH = 1.1  # a gain that is worth the rounding
ROUNDS = 6


def choose_precision(
    precision: Precision, device: torch.device, say: Callable[[str], None], warn: Callable[[str], None]
) -> Precision:
    """Return the precision to train in; ``auto`` is bf16 where steps are faster in it, else fp32.

    A precision that is asked for and slower than fp32 on this processor is warned of.

    Args:
        precision: ``auto``, ``fp32``, ``bf16`` or ``fp16``.
        device: Where it is to run.
        say: Is told what ``auto`` chose.
        warn: Is told of a slow choice on a CPU.
    """
    if precision == "fp32" or (precision != "auto" and device.type != "cpu"):
        return precision
    other: Precision = "bf16" if precision == "auto" else precision
    gain = gain_over_fp32(device, other)
    speed = f"{gain:.1f} times as fast as fp32" if gain >= 1 else f"{1 / gain:.1f} times slower than fp32"
    measured = f"{other} is {speed} here ({device.type}, a small block of convolutions)"
    if precision == "auto":
        chosen: Precision = other if gain >= WORTH else "fp32"
        say(f"precision {chosen}: {measured}")
        return chosen
    if gain < 1:
        warn(f"{measured}; `precision` fp32 would be faster.")
    return precision


@functools.cache
def gain_over_fp32(device: torch.device, precision: Precision) -> float:
    """Return how many times as fast as in fp32 a step of two convolutions with norms is; measured once in a process.

    A product of matrices alone does not show what conversions cost. Both are measured in turn, and the least times count, as
    other programs may be at work.
    """
    with torch.random.fork_rng(devices=[]):
        conv = functools.partial(nn.Conv2d, 64, 64, 3, padding=1, bias=False)
        block = nn.Sequential(conv(), nn.BatchNorm2d(64), nn.ReLU(), conv(), nn.BatchNorm2d(64), nn.ReLU())
        images = torch.randn(16, 64, 16, 16)
    block.to(device).to(memory_format=torch.channels_last)
    images = images.to(device, memory_format=torch.channels_last)
    least = {"fp32": float("inf"), precision: float("inf")}
    for _ in range(ROUNDS):  # the first one compiles and allocates
        for each in least:
            started = time.perf_counter()
            with autocast(device, each):
                maps = block(images)
            loss = maps.float().sum()
            loss.backward()
            loss.item()  # waits for the device
            least[each] = min(least[each], time.perf_counter() - started)
    return least["fp32"] / least[precision]
