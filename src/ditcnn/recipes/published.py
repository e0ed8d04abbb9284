"""What each published run is, as data with its source beside it."""

from dataclasses import dataclass, replace
from typing import Literal

from ditcnn.colours import CIFAR_MEAN, CIFAR_STD, IMAGENET_MEAN, IMAGENET_STD
from ditcnn.recipes.settings import Recipe
from ditcnn.system.errors import InputError, nearest

__all__ = ["RECIPES", "NamedRecipe", "make_recipe", "recipes"]


@dataclass(frozen=True)
class NamedRecipe:
    """A recipe, the data that it is for, and a word on it; small images are kept in memory, photographs streamed."""

    data: Literal["digits", "cifar10", "cifar100", "photographs"]
    recipe: Recipe
    about: str
    upright: bool = True
    """Turn images by their EXIF orientation; published ImageNet figures are of images as they are stored."""

    @property
    def streamed(self) -> bool:
        """Whether images are read as they are needed."""
        return self.data == "photographs"


# Liu et al., NeurIPS 2024, and its published script, which has one mean and deviation for both sets.
_CIFAR = Recipe(mean=CIFAR_MEAN, std=CIFAR_STD)

# Ten epochs in which the term trains from the first on; docs/cifar.md has the runs behind it.
_WARMUP = replace(
    _CIFAR, epochs=10, schedule="cosine", milestones=(), warmup_epochs=1.0, warmup_factor=0.01, precision="bf16"
)

# Keller Jordan's airbench94 (cifar10-airbench, 2024). It gives rates for sums over 1,024 images, decoupled from Nesterov's
# momentum m, whose steps are 1 + 1/(1 - m) times as long; here they are for means over a batch. Its decay is decoupled
# from the rate; here a step decays by rate times weight_decay. Its numbers were chosen on test images, and for three
# times the width and 10 epochs; chosen on held-out images here are none yet. 16 epochs and the batch are ours, and so is
# the term's rate, the base rate. Left out: Lookahead, and the end of the whitening's bias after 3 epochs.
_BATCH, _NESTEROV = 512, 0.85
_SUM = 1024 * (1 + 1 / (1 - _NESTEROV))
_FAST = Recipe(
    model="dit_cifarnet",
    epochs=16,
    batch_size=_BATCH,
    opt="sgd",  # timm's name of Nesterov's
    lr=round(11.5 * _BATCH / _SUM, 4),
    momentum=_NESTEROV,
    weight_decay=round(0.0153 / 11.5, 6),
    term_lr_scale=1.0,
    bias_lr_scale=64.0,
    schedule="triangular",
    milestones=(),
    warmup_factor=0.2,
    peak=0.23,
    end_factor=0.07,
    crop_padding=2,
    padding_mode="reflect",
    flip_mode="alternating",
    label_smoothing=0.2,
    views=6,
    precision="auto",
)

# The same author's airbench96, for 37 epochs of a wider network: lower rate, wider shifts, to zero at the end. 100 epochs
# are ours: about an hour or two on two cores. Left out: its cutout of 12 pixels.
_BEST = replace(
    _FAST,
    epochs=100,
    lr=round(9.0 * _BATCH / _SUM, 4),
    weight_decay=round(0.012 / 9.0, 6),
    peak=0.1,
    end_factor=0.0,
    crop_padding=4,
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
    scale=(0.08, 1.0),
    mean=IMAGENET_MEAN,
    std=IMAGENET_STD,
    crop_pct=0.95,
    auto_augment="rand-m9-mstd0.5",
    mixup=0.8,
    cutmix=1.0,
    label_smoothing=0.1,
    reprob=0.25,
    drop_path=0.1,
    protocol="last",
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

# A few hundred photographs: small batches, so that there are steps enough; whole crops, as objects are few.
_PHOTOS = Recipe(
    model="dit_convnext_atto",
    epochs=20,
    batch_size=16,
    opt="adamw",
    lr=1e-3,
    weight_decay=0.05,
    decay_vectors=False,
    term_lr_scale=1.0,
    schedule="cosine",
    milestones=(),
    warmup_epochs=1.0,
    warmup_factor=0.01,
    crop_padding=0,
    scale=(0.35, 1.0),
    mean=IMAGENET_MEAN,
    std=IMAGENET_STD,
    crop_pct=0.95,
    label_smoothing=0.1,
    protocol="last",
)

_NOT_CHOSEN = "settings of the speed records, not yet chosen on held-out images"

RECIPES = {
    "digits": NamedRecipe("digits", _DIGITS, "scikit-learn's digits: a Dit-ResNet-20 in under a minute"),
    "cifar10": NamedRecipe("cifar10", _CIFAR, "the paper's, 160 epochs"),
    "cifar100": NamedRecipe("cifar100", _CIFAR, "the paper's, 160 epochs"),
    "cifar10-warmup": NamedRecipe("cifar10", _WARMUP, "10 epochs, with a warm-up"),
    "cifar100-warmup": NamedRecipe("cifar100", _WARMUP, "10 epochs, with a warm-up"),
    "cifar10-fast": NamedRecipe("cifar10", _FAST, f"16 epochs of a small fast net, in minutes; {_NOT_CHOSEN}"),
    "cifar100-fast": NamedRecipe("cifar100", _FAST, f"16 epochs of a small fast net, in minutes; {_NOT_CHOSEN}"),
    "cifar10-best": NamedRecipe("cifar10", _BEST, f"100 epochs of it; {_NOT_CHOSEN}"),
    "cifar100-best": NamedRecipe("cifar100", _BEST, f"100 epochs of it; {_NOT_CHOSEN}"),
    "photos": NamedRecipe("photographs", _PHOTOS, "a few hundred photographs; with --pretrained, fine-tuning"),
    "imagenet": NamedRecipe("photographs", _IMAGENET, "the paper's, 300 epochs; alone or under torchrun", upright=False),
    "imagenet-finetune": NamedRecipe("photographs", _FINETUNE, "from --pretrained weights, 30 epochs", upright=False),
}

_DEEP = ("resnet56", "resnet110")  # of every family: rivals train as the paper's networks do

# Of ImageNet-1K from scratch. Tiny's 0.1 is in the published command; these are ConvNeXt's own (Liu et al., 2022, table 5).
_DROP_PATH = {"convnext_small": 0.4, "convnext_base": 0.5, "convnext_large": 0.5}


def recipes() -> dict[str, Recipe]:
    """Return the recipes by name."""
    return {name: named.recipe for name, named in RECIPES.items()}


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
