"""Parameters grouped by learning rate."""

from collections.abc import Collection
from typing import Any

from timm.optim import param_groups_layer_decay, param_groups_weight_decay
from torch import nn

from ditcnn.layers import QuadraticForm, SlowConv2d

__all__ = ["parameter_groups", "scaled_groups"]


def parameter_groups(
    model: nn.Module,
    lr: float,
    *,
    weight_decay: float | None = None,
    layer_decay: float | None = None,
    no_weight_decay: Collection[str] = (),
    names: bool = False,
    term_lr_scale: float = 1.0,
) -> list[dict[str, Any]]:
    """Return groups for an optimiser of torch or timm: the quadratic terms at their own rates, and the rest.

    A term's rate is ``lr`` times its ``rate`` times ``term_lr_scale``; the norm in front of a term goes with it, as in the
    published code. The slow parts of older quadratic layers have ``lr`` times their ``rate``. Membership comes from module
    types, not from names. Frozen parameters are left out.

    With ``weight_decay`` or ``layer_decay`` this is timm's ``param_groups_weight_decay`` or ``param_groups_layer_decay``
    with these rates kept. timm's ``create_optimizer_v2(model, ...)`` alone builds groups without them; give it
    ``param_group_fn=functools.partial(parameter_groups, lr=...)``.

    Schedulers that scale each group's rate keep the terms' multiple: most of torch's, and timm's. Those that set one rate
    for all do not, unless they are told each group's: ``OneCycleLR(optimizer, max_lr=[g["lr"] for g in
    optimizer.param_groups], ...)``, and so ``base_lr`` and ``max_lr`` of ``CyclicLR``. An optimiser's first step warns where
    a ``rate`` that a term was given is lost.

    Args:
        model: A model with or without terms.
        lr: Learning rate of the rest.
        weight_decay: Weight decay of each group, but 0 of vectors, biases and what the model's ``no_weight_decay()`` names.
            None leaves it to the optimiser, for all parameters alike.
        layer_decay: Factor of the rate from one layer to the one before, as the model's ``group_matcher()`` counts layers.
        no_weight_decay: More names or globs of parameters without weight decay.
        names: Give ``params`` as pairs of (name, parameter), which torch's optimisers keep as ``param_names``.
        term_lr_scale: A factor for all terms; the paper has 10 for CIFAR and 1 for ImageNet.

    Returns:
        Dicts of ``params`` and ``lr``, and ``weight_decay`` where it is given. The rest comes first.

    >>> from ditcnn import add_quadratic
    >>> model = add_quadratic(nn.Sequential(nn.Conv2d(3, 8, 3)), "0", rate=3)
    >>> [(group["lr"], group["weight_decay"]) for group in parameter_groups(model, 1.0, weight_decay=0.1)]
    [(1.0, 0.0), (1.0, 0.1), (3.0, 0.1)]
    """
    scales = _scales(model, term_lr_scale)
    name_of = {id(p): name for name, p in model.named_parameters()}
    groups: dict[tuple[bool, float, float | None], list[Any]] = {}
    for timms in _timms_groups(model, weight_decay, layer_decay, no_weight_decay):
        decay = None if weight_decay is None else timms["weight_decay"]
        for p in timms["params"]:
            key = (id(p) in scales, timms.get("lr_scale", 1.0) * scales.get(id(p), 1.0), decay)
            groups.setdefault(key, []).append((name_of[id(p)], p) if names else p)
    return [
        {"params": params, "lr": lr * scale} | ({} if decay is None else {"weight_decay": decay})
        for (_, scale, decay), params in sorted(groups.items(), key=lambda item: item[0][0])
    ]


def scaled_groups(model: nn.Module, term_lr_scale: float = 1.0) -> list[dict[str, Any]]:
    """Return groups by rate as dicts of ``params`` and ``lr_scale``, the multiple of the base rate; the rest comes first."""
    return [{"params": g["params"], "lr_scale": g["lr"]} for g in parameter_groups(model, 1.0, term_lr_scale=term_lr_scale)]


def _timms_groups(
    model: nn.Module, weight_decay: float | None, layer_decay: float | None, no_weight_decay: Collection[str]
) -> list[dict[str, Any]]:
    spared = {*getattr(model, "no_weight_decay", set)(), *no_weight_decay}
    groups: list[dict[str, Any]]
    if layer_decay is not None:
        groups = param_groups_layer_decay(
            model, weight_decay=weight_decay or 0.0, no_weight_decay_list=spared, layer_decay=layer_decay
        )
    else:
        groups = param_groups_weight_decay(model, weight_decay or 0.0, no_weight_decay_list=spared)
    return groups


def _scales(model: nn.Module, term_lr_scale: float) -> dict[int, float]:
    """Return the multiple of the rate for each parameter, by its id, that has one of its own."""
    scales: dict[int, float] = {}
    for module in model.modules():
        if isinstance(module, QuadraticForm):
            scales |= {id(p): module.rate * term_lr_scale for p in module.parameters()}
        elif isinstance(module, SlowConv2d):
            scales |= {id(p): module.rate for p in module.parameters()}
    return scales
