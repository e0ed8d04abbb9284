"""The optimiser and the learning rate, a function of progress alone."""

import math

import torch
from timm.optim import create_optimizer_v2
from torch import nn

from ditcnn.groups import parameter_groups
from ditcnn.recipes import Recipe

__all__ = ["lr_factor", "make_optimizer", "set_lr"]


def make_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Return timm's optimiser ``recipe.opt`` over `ditcnn.parameter_groups`."""
    optimizer: torch.optim.Optimizer = create_optimizer_v2(
        parameter_groups(model, recipe.lr, term_lr_scale=recipe.term_lr_scale),
        opt=recipe.opt,
        lr=recipe.lr,
        weight_decay=recipe.weight_decay,
        momentum=recipe.momentum,
    )
    return optimizer


def lr_factor(recipe: Recipe, progress: float) -> float:
    """Return the learning rate as a fraction of the base rate after ``progress`` epochs.

    Multistep: gamma to the number of milestones reached. Cosine: from 1 at the end of the warm-up to 0 at the last
    epoch's end. During the warm-up, ``warmup_factor``, or a line from it to 1.
    """
    if progress < recipe.warmup_epochs:
        if recipe.warmup == "constant":
            return recipe.warmup_factor
        return recipe.warmup_factor + (1 - recipe.warmup_factor) * progress / recipe.warmup_epochs
    if recipe.schedule == "multistep":
        return recipe.gamma ** sum(progress >= m for m in recipe.milestones)
    done = (progress - recipe.warmup_epochs) / (recipe.epochs - recipe.warmup_epochs)
    return (1 + math.cos(math.pi * done)) / 2


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set each group's rate to its multiple of ``lr``."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]
