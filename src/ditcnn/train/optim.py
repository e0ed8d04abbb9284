"""The optimiser and the learning rate, a function of progress alone."""

import math
from typing import Any

import torch
from timm.optim import create_optimizer_v2
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from ditcnn.groups import scaled_groups
from ditcnn.layers import QuadraticForm
from ditcnn.recipes import Recipe

__all__ = ["lr_factor", "make_optimizer", "set_lr"]


def make_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Return timm's optimiser ``recipe.opt``, terms and norms' biases at their own rates, without decay of vectors where
    asked.
    """
    groups = scaled_groups(model, recipe.term_lr_scale)
    if recipe.bias_lr_scale != 1:
        groups = _with_rate_of_biases(groups, model, recipe.bias_lr_scale, recipe.weight_decay)
    optimizer: torch.optim.Optimizer = create_optimizer_v2(
        groups if recipe.decay_vectors else _without_decay_of_vectors(groups, model),
        opt=recipe.opt,
        lr=recipe.lr,
        weight_decay=recipe.weight_decay,
        momentum=recipe.momentum,
    )
    return optimizer


def _with_rate_of_biases(
    groups: list[dict[str, Any]], model: nn.Module, scale: float, weight_decay: float
) -> list[dict[str, Any]]:
    """Return the groups with the norms' biases in one of their own, at ``scale`` times the rate.

    Their decay is divided by it: what a step decays them by is its product with the rate. Norms in front of a term go with
    the term.
    """
    of_terms = {id(p) for module in model.modules() if isinstance(module, QuadraticForm) for p in module.parameters()}
    norms = [module for module in model.modules() if isinstance(module, _NORMS)]
    biases = [m.bias for m in norms if m.bias is not None and m.bias.requires_grad and id(m.bias) not in of_terms]
    chosen = {id(bias) for bias in biases}
    rest = [group | {"params": [p for p in group["params"] if id(p) not in chosen]} for group in groups]
    own = {"params": biases, "lr_scale": scale, "weight_decay": weight_decay / scale if scale else 0.0}
    return [group for group in (*rest, own) if group["params"]]


_NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm)


def _without_decay_of_vectors(groups: list[dict[str, Any]], model: nn.Module) -> list[dict[str, Any]]:
    """Return the groups, each cut in two: what timm's ``param_groups_weight_decay`` decays and what it does not."""
    named: set[str] = getattr(model, "no_weight_decay", set)()
    spared = {id(p) for name, p in model.named_parameters() if p.ndim <= 1 or name in named}
    parts = []
    for group in groups:
        parts.append(group | {"params": [p for p in group["params"] if id(p) not in spared]})
        parts.append(group | {"params": [p for p in group["params"] if id(p) in spared], "weight_decay": 0.0})
    return [part for part in parts if part["params"]]


def lr_factor(recipe: Recipe, progress: float) -> float:
    """Return the learning rate as a fraction of the base rate after ``progress`` epochs.

    Multistep: gamma to the number of milestones reached. Cosine, linear: from 1 at the end of the warm-up to 0 at the last
    epoch's end. During the warm-up, ``warmup_factor``, or a line from it to 1. Triangular: a line from ``warmup_factor`` to
    1 at the share ``peak`` of the run, and one to ``end_factor`` at its end.

    Cosine by epoch is timm's ``CosineLRScheduler`` stepped by epochs, the rate constant within each. With e whole epochs
    done, of E in all and W of warm-up: warmup_lr + (lr - warmup_lr) e/W for e < W, then
    min_lr + (lr - min_lr) (1 + cos(pi e/E))/2. The cosine runs over the warm-up too, so it comes in below its peak.
    """
    if recipe.schedule == "cosine-by-epoch":
        return _cosine_by_epoch(recipe, math.floor(progress)) / recipe.lr
    if recipe.schedule == "triangular":
        return _triangular(recipe, progress / recipe.epochs)
    if progress < recipe.warmup_epochs:
        if recipe.warmup == "constant":
            return recipe.warmup_factor
        return recipe.warmup_factor + (1 - recipe.warmup_factor) * progress / recipe.warmup_epochs
    if recipe.schedule == "multistep":
        return recipe.gamma ** sum(progress >= m for m in recipe.milestones)
    done = (progress - recipe.warmup_epochs) / (recipe.epochs - recipe.warmup_epochs)
    return 1 - done if recipe.schedule == "linear" else (1 + math.cos(math.pi * done)) / 2


def _triangular(recipe: Recipe, share: float) -> float:
    if share < recipe.peak:
        return recipe.warmup_factor + (1 - recipe.warmup_factor) * share / recipe.peak
    return 1 + (recipe.end_factor - 1) * (share - recipe.peak) / (1 - recipe.peak)


def _cosine_by_epoch(recipe: Recipe, epoch: int) -> float:
    if epoch < recipe.warmup_epochs:
        return recipe.warmup_lr + (recipe.lr - recipe.warmup_lr) * epoch / recipe.warmup_epochs
    return recipe.min_lr + (recipe.lr - recipe.min_lr) * (1 + math.cos(math.pi * epoch / recipe.epochs)) / 2


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set each group's rate to its multiple of ``lr``."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]
