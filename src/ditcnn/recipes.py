"""What each published run is, as data."""

import ast
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import timm
import timm.optim
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from typing_extensions import Self

from ditcnn.data import DataName
from ditcnn.models.cifar_resnet import CIFAR_MEAN, CIFAR_STD
from ditcnn.system.errors import InputError, nearest

__all__ = ["IN_MEMORY_ONLY", "RECIPES", "STREAMED_ONLY", "NamedRecipe", "Recipe", "make_recipe", "parse_arguments"]


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
    """Images a step; of a streamed set, images a forward pass in each process."""
    global_batch: int | None = None
    """Images a step over all processes, by accumulation; a multiple of the batch size, which is the default."""
    opt: str = "momentum"
    """timm's name of the optimiser; momentum is SGD with momentum, not Nesterov's."""
    lr: float = 0.1
    """Base learning rate."""
    momentum: float = 0.9
    """Momentum of the optimiser."""
    weight_decay: float = 1e-4
    """Weight decay, on the parameters that decay_vectors leaves."""
    decay_vectors: bool = True
    """Apply it to all: biases, norms and other one-dimensional parameters too; timm's scripts do not."""
    term_lr_scale: float = 10.0
    """Learning rate of the quadratic terms and of the norms in front of them, as a multiple of the base rate."""
    schedule: Literal["multistep", "cosine", "cosine-by-epoch"] = "multistep"
    """multistep: the rate times gamma at each milestone. cosine: to zero at the end. cosine-by-epoch: timm's, by epoch."""
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
    warmup_lr: float = 1e-5
    """Rate of the first epoch of a warm-up by epochs, which grows linearly from there."""
    min_lr: float = 0.0
    """Rate at which a cosine by epochs ends."""
    clip_grad: float = 0.0
    """Largest norm of the gradient; 0 for no limit."""
    crop_padding: int = 4
    """Black pixels around an image before its random crop; 0 for no crop."""
    flip: bool = True
    """Random horizontal flip."""
    mean: tuple[float, ...] = ()
    """Mean per channel, in 0..1. Empty: computed from the training images; of a streamed set, that of --pretrained."""
    std: tuple[float, ...] = ()
    """Standard deviation per channel, as the mean."""
    img_size: int | None = None
    """Height and width of a streamed set's images; default: those of --pretrained, else the model's own."""
    scale: tuple[float, float] = (0.08, 1.0)
    """Least and greatest share of an image's area in a random resized crop."""
    crop_pct: float = 1.0
    """Share of the side of a resized image that is evaluated, from its centre."""
    interpolation: Literal["nearest", "bilinear", "bicubic", "box", "hamming", "lanczos"] | None = None
    """How images that are evaluated are resized; default: as those of --pretrained, else as the model's own."""
    auto_augment: str | None = None
    """timm's name of an augmentation, as rand-m9-mstd0.5."""
    mixup: float = 0.0
    """Alpha of mixup; 0 for none."""
    cutmix: float = 0.0
    """Alpha of cutmix; 0 for none. With mixup, each batch has one or the other."""
    label_smoothing: float = 0.0
    """Share of the target spread evenly over the classes."""
    reprob: float = 0.0
    """Probability of random erasing."""
    resplit: bool = False
    """Spare the first half of each batch from erasing: what timm's --resplit does without --aug-splits."""
    drop_path: float = 0.0
    """Stochastic depth: greatest probability that a block is passed over."""
    ema_decay: float = 0.0
    """Decay of the moving average of the weights; 0 for none."""
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
        for name, way in (("num_classes", "the data decide it"), ("pretrained", "give --pretrained WEIGHTS")):
            if name in self.model_arguments():
                raise InputError(f"--model-kwargs takes no {name}: {way}.")
        optimisers = [str(name) for name in timm.optim.list_optimizers()]
        if self.opt not in optimisers:
            raise InputError(f"there is no optimiser {self.opt!r}.{nearest(self.opt, optimisers)}")
        for name in ("epochs", "batch_size", "lr", "gamma", "warmup_factor"):
            if not 0 < getattr(self, name) < math.inf:
                raise InputError(f"--{name.replace('_', '-')} must be above 0; got {getattr(self, name)}.")
        least_0 = (
            "momentum",
            "weight_decay",
            "term_lr_scale",
            "warmup_epochs",
            "warmup_lr",
            "min_lr",
            "clip_grad",
            "crop_padding",
        )
        for name in (*least_0, "mixup", "cutmix", "seed"):
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
        for name in ("label_smoothing", "drop_path", "ema_decay"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"--{name.replace('_', '-')} must be from 0 to below 1; got {getattr(self, name)}.")
        if not 0 <= self.reprob <= 1:
            raise InputError(f"--reprob is a probability, from 0 to 1; got {self.reprob}.")
        if not 0 < self.crop_pct <= 1:
            raise InputError(f"--crop-pct must be above 0 and at most 1; got {self.crop_pct}.")
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise InputError(f"--scale takes two shares of the area, 0 < least <= greatest <= 1; got {self.scale}.")
        if self.img_size is not None and self.img_size < 1:
            raise InputError(f"--img-size must be above 0; got {self.img_size}.")
        if (self.mixup or self.cutmix) and self.batch_size % 2:
            raise InputError(f"--mixup and --cutmix pair images, so --batch-size must be even; got {self.batch_size}.")
        if self.schedule != "cosine-by-epoch" and (self.warmup_lr, self.min_lr) != (Recipe.warmup_lr, Recipe.min_lr):
            raise InputError("--warmup-lr and --min-lr belong to --schedule cosine-by-epoch.")
        if self.global_batch is not None and (self.global_batch < 1 or self.global_batch % self.batch_size):
            raise InputError(
                f"--global-batch must be a multiple of --batch-size; got {self.global_batch} and {self.batch_size}."
            )
        self.model_arguments()

    def refuse(self, off: Mapping[str, Any], data: str) -> None:
        """Raise unless fields that have no effect on a kind of data have the values in ``off``.

        Raises:
            InputError: One has another value.
        """
        for name, value in off.items():
            if getattr(self, name) != value:
                flag = f"--{name.replace('_', '-')}"
                raise InputError(f"{flag} has no effect on {data}: it must be {value}; got {getattr(self, name)}.")

    def model_arguments(self) -> dict[str, Any]:
        """Return ``model_kwargs`` as a dict, as `parse_arguments` does, and ``drop_path_rate`` where there is one."""
        return ({"drop_path_rate": self.drop_path} if self.drop_path else {}) | parse_arguments(self.model_kwargs)

    def at_epochs(self, epochs: int) -> Self:
        """Return the recipe for another number of epochs, milestones and warm-up moved in proportion."""
        scale = epochs / self.epochs
        milestones = tuple(round(m * scale, 4) for m in self.milestones)
        return replace(self, epochs=epochs, milestones=milestones, warmup_epochs=round(self.warmup_epochs * scale, 4))


# Fields that have no effect on images in memory, and on a streamed set, with the values that leave them off.
_STREAMED = (
    "global_batch", "img_size", "scale", "crop_pct", "interpolation", "auto_augment", "mixup", "cutmix", "label_smoothing",
    "reprob", "resplit", "ema_decay",
)  # fmt: skip
STREAMED_ONLY: dict[str, Any] = {name: getattr(Recipe(), name) for name in _STREAMED}
IN_MEMORY_ONLY: dict[str, Any] = {"protocol": "holdout", "crop_padding": 0}


@dataclass(frozen=True)
class NamedRecipe:
    """A recipe, and the data that it is for; imagenet's are streamed from disk, the others kept in memory."""

    data: DataName | Literal["imagenet"]
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

# The command of the published code, flag by flag: timm's train.py on 8 GPUs with -b 64 and --grad-accum-steps 8.
_IMAGENET = Recipe(
    model="dit_convnext_tiny",
    epochs=300,
    batch_size=64,
    global_batch=4096,
    opt="adamw",
    lr=0.006,
    weight_decay=0.08,
    decay_vectors=False,
    term_lr_scale=1.0,
    schedule="cosine-by-epoch",
    milestones=(),
    warmup_epochs=20.0,
    crop_padding=0,
    mean=IMAGENET_DEFAULT_MEAN,
    std=IMAGENET_DEFAULT_STD,
    crop_pct=0.95,
    auto_augment="rand-m9-mstd0.5",
    mixup=0.8,
    cutmix=1.0,
    label_smoothing=0.1,
    reprob=0.25,
    drop_path=0.1,
    ema_decay=0.9998,
    precision="fp16",
)

# Fine-tuning in the manner of Liu et al., "A ConvNet for the 2020s", 2022, appendix; not compared with its tables.
# Without layer-wise decay of the rate. Drop path 0.1 and the moving average stay as above.
_FINETUNE = replace(
    _IMAGENET,
    epochs=30,
    global_batch=512,
    lr=5e-5,
    weight_decay=1e-8,
    warmup_epochs=0.0,
    mixup=0.0,
    cutmix=0.0,
)

RECIPES = {
    "digits": NamedRecipe("digits", _DIGITS),
    "cifar10": NamedRecipe("cifar10", _CIFAR),
    "cifar100": NamedRecipe("cifar100", _CIFAR),
    "cifar10-warmup": NamedRecipe("cifar10", _WARMUP),
    "cifar100-warmup": NamedRecipe("cifar100", _WARMUP),
    "imagenet": NamedRecipe("imagenet", _IMAGENET),
    "imagenet-finetune": NamedRecipe("imagenet", _FINETUNE),
}

_DEEP = ("resnet56", "resnet110")  # of every family: rivals train as the paper's networks do

# Of ImageNet-1K from scratch. Tiny's 0.1 is in the published command; these are ConvNeXt's own (Liu et al., 2022, table 5).
_DROP_PATH = {"convnext_small": 0.4, "convnext_base": 0.5, "convnext_large": 0.5}


def make_recipe(name: str, model: str | None = None) -> Recipe:
    """Return the recipe called ``name`` for a model; default: the recipe's own.

    For depths 56 and 110 the paper's script wants the first epoch at a tenth of the rate. On ImageNet, small and larger
    ConvNeXts have the drop path of ConvNeXt's own paper, as the published command is for tiny.

    Raises:
        InputError: There is no such recipe.
    """
    if name not in RECIPES:
        raise InputError(f"there is no recipe {name!r}.{nearest(name, RECIPES)} Recipes: {', '.join(RECIPES)}.")
    recipe = RECIPES[name].recipe if model is None else replace(RECIPES[name].recipe, model=model)
    if RECIPES[name].recipe is _CIFAR and recipe.model.endswith(_DEEP):
        return replace(recipe, warmup="constant", warmup_epochs=1.0, warmup_factor=0.1)
    if RECIPES[name].recipe is _IMAGENET:
        return replace(recipe, drop_path=_DROP_PATH.get(recipe.model.removeprefix("dit_"), recipe.drop_path))
    return recipe
