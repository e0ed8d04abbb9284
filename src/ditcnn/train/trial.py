"""One step in advance, on a copy: what a model, its batches or its optimiser cannot do is told before a folder is made."""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ditcnn.recipes import Recipe
from ditcnn.system.batch_norm import refuse_other_norms
from ditcnn.system.devices import autocast
from ditcnn.system.errors import InputError
from ditcnn.train.optim import make_optimizer
from ditcnn.train.sources import Cut, Source

__all__ = ["check_step"]


def check_step(model: nn.Module, recipe: Recipe, train: Source, cut: Cut, device: torch.device) -> None:
    """Raise unless a model can do a step of a recipe: on black images, as few as the smallest batch has.

    Raises:
        InputError: There is no step in an epoch, a batch whose images are mixed in pairs is odd, the smallest one has one
            image and the model normalises over it, processes cannot share its batch norms, or the optimiser is not there,
            or not for such models or devices.
    """
    if not train.steps(cut):
        raise InputError(
            f"{len(train)} training images make no step of {cut.global_batch} in {cut.micro_batches} parts; lower "
            "`global_batch` or `batch_size`."
        )
    sizes = train.sizes(cut)
    if (recipe.mixup or recipe.cutmix) and (odd := next((size for size in sorted(sizes) if size % 2), None)):
        raise InputError(
            f"`mixup` and `cutmix` pair images; {len(train)} training images in batches of {recipe.batch_size} leave a "
            f"batch of {odd}. Choose another `batch_size`."
        )
    if cut.shared:
        refuse_other_norms(model)
    smallest = min(sizes) * (cut.size if cut.shared else 1)  # shared batches are normalised as a whole
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        copied = copy.deepcopy(model).to(device).train()
        x = torch.zeros(min(smallest, 2), *train.image_shape, device=device)
        try:
            with autocast(device, recipe.precision):
                logits: Tensor = copied(x)
        except ValueError as error:
            if smallest > 1:
                raise
            raise InputError(
                f"{len(train)} training images in batches of {cut.batch_size} leave a batch of one, which this model "
                f"cannot train on ({error}). Choose another `batch_size`."
            ) from None
        F.cross_entropy(logits.float(), torch.zeros(len(x), dtype=torch.int64, device=device)).backward()
        try:
            make_optimizer(copied, recipe).step()
        except Exception as error:  # each optimiser has its own
            why = " ".join(str(error).split()) or type(error).__name__
            name = recipe.own_module or recipe.model
            raise InputError(f"`opt` {recipe.opt} cannot train {name} on this machine: {why[:300]}") from None
