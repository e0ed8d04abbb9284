"""A warning where the rate that a term was given is lost: an optimiser or a scheduler that trains all at one rate."""

import functools
import warnings
from typing import Any

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils.weak import WeakIdKeyDictionary

__all__ = ["watch_rate"]

_RATES: Any = WeakIdKeyDictionary()  # of parameters whose rate is not the model's
_SEEN: Any = WeakIdKeyDictionary()  # optimisers


def watch_rate(module: nn.Module, rate: float) -> None:
    """See that the parameters of a module train at ``rate`` times the rate of others, if that is not 1, or warn."""
    if rate == 1:
        return
    for p in module.parameters():
        _RATES[p] = rate
    _look_at_optimizers()


@functools.cache
def _look_at_optimizers() -> None:
    register_optimizer_step_pre_hook(_look)


def _look(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    """Look at an optimiser once, at its first step, when its schedulers have set their first rates."""
    if optimizer in _SEEN:
        return
    _SEEN[optimizer] = True
    groups = optimizer.param_groups
    rest = {float(g["lr"]) for g in groups if "lr" in g and any(p not in _RATES for p in g["params"])}
    for group in groups:
        rates = {_RATES.get(p, 1.0) for p in group["params"]}
        at_the_rests = 1.0 not in rates and "lr_scale" not in group and rest == {float(group.get("lr", 0.0))} != {0.0}
        if len(rates) > 1 or (rates and at_the_rests):
            told = ", ".join(f"{rate:g}" for rate in sorted(rates - {1.0}))
            warnings.warn(
                f"quadratic terms with rate={told} are about to train at the rate of the rest; give the optimiser "
                "ditcnn.parameter_groups(model, lr), and a scheduler as OneCycleLR "
                'max_lr=[g["lr"] for g in optimizer.param_groups].',
                stacklevel=4,
            )
            return
