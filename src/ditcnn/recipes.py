"""What each published run is, as data."""

import ast
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal

import timm
import timm.optim
from typing_extensions import Self

from ditcnn.data import DataName
from ditcnn.errors import InputError, nearest
from ditcnn.models.cifar_resnet import CIFAR_MEAN, CIFAR_STD

__all__ = ["RECIPES", "NamedRecipe", "Recipe", "make_recipe", "parse_arguments"]


def parse_arguments(items: Iterable[str]) -> dict[str, Any]:
    """Return ``name=value`` items as a dict; values are Python literals, or text.

    Raises:
        InputError: An item has another form.
    """
    arguments = {}
    for item in items:
        name, equals, value = item.partition("=")
        if not equals or not name.isidentifier():
            raise InputError(f"--model-kwargs takes name=value; got {item!r}.")
        try:
            arguments[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            arguments[name] = value
    return arguments


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what a training run computes, except the data.

    The defaults are the paper's for CIFAR: Liu et al., NeurIPS 2024, and its published script.
    """

    model: str = "dit_resnet20"
    """Any name of timm's registry; ditcnn's are resnet20 to 110, dit_resnet20 to 110, dit_convnext_* and with_quadratic."""
    model_kwargs: tuple[str, ...] = ()
    """Arguments of the model as name=value, e.g. quadratic_norm=batch, or base=resnet50 where='["layer3.*.conv2"]'."""
    pretrained: str | None = None
    """Weights to start from: the folder of a run, or a name of timm's registry that has weights."""
    epochs: int = 160
    """Passes over the training images. Given alone, milestones and warm-up are rescaled in proportion."""
    batch_size: int = 128
    """Images a step."""
    opt: str = "momentum"
    """timm's name of the optimiser; momentum is SGD with momentum, not Nesterov's."""
    lr: float = 0.1
    """Base learning rate."""
    momentum: float = 0.9
    """Momentum of the optimiser."""
    weight_decay: float = 1e-4
    """Weight decay, on every parameter."""
    term_lr_scale: float = 10.0
    """Learning rate of the quadratic terms and of the norms in front of them, as a multiple of the base rate."""
    schedule: Literal["multistep", "cosine"] = "multistep"
    """multistep: the rate times gamma at each milestone. cosine: to zero at the end."""
    milestones: tuple[float, ...] = (80.0, 120.0)
    """Epochs, counted from 0, from which on the rate is lowered."""
    gamma: float = 0.1
    """Factor of the rate at a milestone."""
    warmup: Literal["linear", "constant"] = "linear"
    """linear: the rate grows from warmup_factor to 1, step by step. constant: it stays at warmup_factor."""
    warmup_epochs: float = 0.0
    """Length of the warm-up."""
    warmup_factor: float = 0.1
    """Factor of the rate at the start of the warm-up."""
    clip_grad: float = 0.0
    """Largest norm of the gradient; 0 for no limit."""
    crop_padding: int = 4
    """Black pixels around an image before its random crop; 0 for no crop."""
    flip: bool = True
    """Random horizontal flip."""
    mean: tuple[float, ...] = ()
    """Mean per channel, of values in 0..1. Empty: computed from the training images."""
    std: tuple[float, ...] = ()
    """Standard deviation per channel. Empty: computed from the training images."""
    protocol: Literal["holdout", "paper"] = "holdout"
    """holdout: select on held-out training images, test once. paper: train on all, test each epoch, report the best."""
    seed: int = 0
    """Seed of the initial weights, the order of the images and their augmentation."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Arithmetic of the forward and backward pass; weights stay fp32. bf16 is the fastest on most CPUs and GPUs."""
    channels_last: bool = True
    """Keep maps in memory with channels last: the same numbers to rounding, faster on CPU."""
    compile: bool = False
    """torch.compile the model: minutes of compiling, then faster steps."""

    def check(self) -> None:
        """Raise unless the recipe makes sense.

        Raises:
            InputError: An unknown model or optimiser, or a value that is out of its range.
        """
        if not timm.is_model(self.model):
            hint = nearest(self.model, timm.list_models())
            raise InputError(f"there is no model {self.model!r}.{hint} List them: timm.list_models().")
        optimisers = [str(name) for name in timm.optim.list_optimizers()]
        if self.opt not in optimisers:
            raise InputError(f"there is no optimiser {self.opt!r}.{nearest(self.opt, optimisers)}")
        for name in ("epochs", "batch_size", "lr", "gamma", "warmup_factor"):
            if not 0 < getattr(self, name) < math.inf:
                raise InputError(f"--{name.replace('_', '-')} must be above 0; got {getattr(self, name)}.")
        for name in ("momentum", "weight_decay", "term_lr_scale", "warmup_epochs", "clip_grad", "crop_padding", "seed"):
            if not 0 <= getattr(self, name) < 2**63:
                raise InputError(f"--{name.replace('_', '-')} must not be negative or huge; got {getattr(self, name)}.")
        if not all(0 <= milestone < math.inf for milestone in self.milestones):
            raise InputError(f"--milestones must be epochs from 0 on; got {self.milestones}.")
        if self.warmup_epochs >= self.epochs:
            raise InputError(f"--warmup-epochs must be below --epochs; got {self.warmup_epochs:g} of {self.epochs}.")
        if len(self.mean) != len(self.std):
            raise InputError(f"--mean and --std must have one value a channel each; got {self.mean} and {self.std}.")
        if not all(0 < value < math.inf for value in self.std):
            raise InputError(f"--std must be above 0; got {self.std}.")
        self.model_arguments()

    def model_arguments(self) -> dict[str, Any]:
        """Return ``model_kwargs`` as a dict, as `parse_arguments` does."""
        return parse_arguments(self.model_kwargs)

    def at_epochs(self, epochs: int) -> Self:
        """Return the recipe for another number of epochs, milestones and warm-up moved in proportion."""
        scale = epochs / self.epochs
        milestones = tuple(round(m * scale, 4) for m in self.milestones)
        return replace(self, epochs=epochs, milestones=milestones, warmup_epochs=round(self.warmup_epochs * scale, 4))


@dataclass(frozen=True)
class NamedRecipe:
    """A recipe, and the data that it is for."""

    data: DataName
    recipe: Recipe


# Liu et al., NeurIPS 2024, and its published script, which has one mean and deviation for both sets.
_CIFAR = Recipe(mean=CIFAR_MEAN, std=CIFAR_STD)

# Ten epochs in which the term trains from the first on; docs/cifar.md has the runs behind it.
_WARMUP = replace(
    _CIFAR, epochs=10, schedule="cosine", milestones=(), warmup_epochs=1.0, warmup_factor=0.01, precision="bf16"
)

# A Dit-ResNet in under a minute on two cores. On so few images the base rate served the term better than ten times.
_DIGITS = Recipe(
    epochs=60,
    batch_size=64,
    lr=0.05,
    term_lr_scale=1.0,
    schedule="cosine",
    milestones=(),
    warmup_epochs=4.0,
    crop_padding=1,
    flip=False,
)

RECIPES = {
    "digits": NamedRecipe("digits", _DIGITS),
    "cifar10": NamedRecipe("cifar10", _CIFAR),
    "cifar100": NamedRecipe("cifar100", _CIFAR),
    "cifar10-warmup": NamedRecipe("cifar10", _WARMUP),
    "cifar100-warmup": NamedRecipe("cifar100", _WARMUP),
}

_DEEP = {"resnet56", "resnet110", "dit_resnet56", "dit_resnet110"}


def make_recipe(name: str, model: str = "dit_resnet20") -> Recipe:
    """Return the recipe called ``name`` for a model.

    For depths 56 and 110 the paper's script wants the first epoch at a tenth of the rate.

    Raises:
        InputError: There is no such recipe.
    """
    if name not in RECIPES:
        raise InputError(f"there is no recipe {name!r}.{nearest(name, RECIPES)} Recipes: {', '.join(RECIPES)}.")
    recipe = replace(RECIPES[name].recipe, model=model)
    if RECIPES[name].recipe is _CIFAR and model in _DEEP:
        return replace(recipe, warmup="constant", warmup_epochs=1.0, warmup_factor=0.1)
    return recipe
