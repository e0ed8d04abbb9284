"""Parameters grouped by learning rate."""

from typing import Any

from torch import nn

from ditcnn.layers import QuadraticForm, SlowConv2d

__all__ = ["parameter_groups", "scaled_groups"]


def parameter_groups(model: nn.Module, lr: float, *, term_lr_scale: float = 1.0) -> list[dict[str, Any]]:
    """Return groups for an optimiser of torch or timm: the quadratic terms at their own rates, and the rest.

    A term's rate is ``lr`` times its ``rate`` times ``term_lr_scale``; the norm in front of a term goes with it, as in the
    published code. The slow parts of older quadratic layers have ``lr`` times their ``rate``. Membership comes from module
    types, not from names.

    Args:
        model: A model with or without terms.
        lr: Learning rate of the rest.
        term_lr_scale: A factor for all terms; the paper has 10 for CIFAR and 1 for ImageNet.

    Returns:
        Dicts of ``params`` and ``lr``, which schedulers of torch and of timm scale alike. The rest comes first.
    """
    groups = scaled_groups(model, term_lr_scale)
    return [{"params": group["params"], "lr": lr * group["lr_scale"]} for group in groups]


def scaled_groups(model: nn.Module, term_lr_scale: float = 1.0) -> list[dict[str, Any]]:
    """Return the same groups as dicts of ``params`` and ``lr_scale``, the multiple of the base rate."""
    scales: dict[int, float] = {}
    for module in model.modules():
        if isinstance(module, QuadraticForm):
            scales |= {id(p): module.rate * term_lr_scale for p in module.parameters()}
        elif isinstance(module, SlowConv2d):
            scales |= {id(p): module.rate for p in module.parameters()}
    groups: dict[float | None, list[nn.Parameter]] = {None: []}
    for p in model.parameters():
        groups.setdefault(scales.get(id(p)), []).append(p)
    return [{"params": params, "lr_scale": 1.0 if scale is None else scale} for scale, params in groups.items()]
