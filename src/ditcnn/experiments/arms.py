"""The networks that comparisons train, and the schedules that they are trained with: data, with its source beside it."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from ditcnn.recipes import RECIPES, Recipe, make_recipe

__all__ = ["ARMS", "Arm", "Schedule", "recipe_of", "title_of"]

Schedule = Literal["paper", "short", "smoke"]


@dataclass(frozen=True)
class Arm:
    """A network as one arm of a comparison.

    Args:
        title: What tables call it; ``{depth}`` is filled in.
        model: Its name in timm's registry; ``{depth}`` is filled in.
        model_kwargs: Arguments of the model.
        changes: What its authors train differently from the schedule: fields of the recipe.
        twin: The plain arm that it is held against; None for a plain one.
        cost: Time of an epoch, as a multiple of a plain ResNet's of the same depth.
        has_term: It has a quadratic term that can be taken out.
    """

    title: str
    model: str
    model_kwargs: tuple[str, ...] = ()
    changes: Mapping[str, Any] = field(default_factory=dict)
    twin: str | None = None
    cost: float = 1.0
    has_term: bool = False


def _dit(title: str, *model_kwargs: str) -> Arm:
    return Arm(f"Dit-ResNet-{{depth}}, {title}", "dit_resnet{depth}", model_kwargs, twin="plain", cost=1.1, has_term=True)


# ConvNeXt at CIFAR size: Liu et al. (2022) train it with AdamW; the term has the base rate, as in the paper for ImageNet.
def _convnext(title: str, model: str, *model_kwargs: str, blocks: int = 3, **about: Any) -> Arm:
    small = ("patch_size=2", f"depths=({blocks}, 2, 2, 2)", "dims=(32, 64, 128, 256)", *model_kwargs)
    return Arm(title, model, small, dict(opt="adamw", lr=2e-3, weight_decay=0.05, term_lr_scale=1.0), cost=0.3, **about)


def _dit_convnext(title: str, block: int, *model_kwargs: str) -> Arm:
    place = f'quadratic_at=["stages.0.blocks.{block}.conv_dw"]'
    return _convnext(title, "dit_convnext_atto", place, *model_kwargs, twin="convnext", has_term=True)


ARMS: dict[str, Arm] = {
    "plain": Arm("ResNet-{depth}", "resnet{depth}"),
    "dit": _dit("corrected"),
    "dit-published": _dit("as published (swap)", "spatial_transpose=True"),
    # The widths of ditcnn.models.widths_of_equal_cost for depth 20, pinned by a test.
    "plain-parameters": Arm(
        "ResNet-{depth}, widened to equal parameters", "resnet{depth}", ("widths=(17, 34, 68)",), twin="plain", cost=1.9
    ),
    "plain-macs": Arm(
        "ResNet-{depth}, widened to equal MACs", "resnet{depth}", ("widths=(18, 35, 70)",), twin="plain", cost=1.9
    ),
    # Fan's slow parts have their rate with them.
    "fan": Arm("Fan et al. (ReLinear), ResNet-{depth}", "fan_resnet{depth}", twin="plain", cost=2.7),
    # Clipping and weight decay of the authors' script for CIFAR (github.com/zarekxu/QuadraLib, image_classification).
    "quadralib": Arm(
        "QuadraLib, ResNet-{depth}", "quadralib_resnet{depth}", (), dict(clip_grad=0.5, weight_decay=5e-4), "plain", 2.7
    ),
    "qres": Arm("QRes, ResNet-{depth}", "qres_resnet{depth}", twin="plain", cost=1.7),  # its authors have no such network
    "dit-stage1": _dit("term in stage 1", "quadratic_stage=1"),
    "dit-stage3": _dit("term in stage 3", "quadratic_stage=3"),
    "convnext": _convnext("small ConvNeXt", "convnext_atto"),
    # The depth that costs nearest to the network with the term in block 3, counted in full; pinned by a test.
    "convnext-deeper": _convnext("small ConvNeXt, deepened to equal cost", "convnext_atto", blocks=6, twin="convnext"),
    "convnext-block1": _dit_convnext("small Dit-ConvNeXt, block 1", 0),
    "convnext-block2": _dit_convnext("small Dit-ConvNeXt, block 2", 1),
    "convnext-block3": _dit_convnext("small Dit-ConvNeXt, block 3 (published place)", 2),
    "convnext-pixelwise": _dit_convnext("small ConvNeXt, pixel-wise term in block 3", 2, "quadratic_pixelwise=True"),
}

# docs/protocol.md registers "short": four epochs, one of them warm-up, in fp32.
_SHORT = replace(RECIPES["cifar10-warmup"].recipe, epochs=4, warmup_epochs=1.0, precision="fp32")
_SMOKE = replace(_SHORT, epochs=1, warmup_epochs=0.0, batch_size=32, lr=0.01)


def recipe_of(cell: Mapping[str, Any]) -> Recipe:
    """Return the recipe of a cell: its ``net`` (the arm), ``depth``, ``schedule``, ``data`` and ``seed``."""
    arm, schedule = ARMS[cell["net"]], cell["schedule"]
    model = arm.model.format(depth=cell["depth"])
    if schedule == "paper":
        recipe = replace(make_recipe(cell["data"], model), protocol="paper")
    else:
        recipe = replace({"short": _SHORT, "smoke": _SMOKE}[schedule], model=model)
    return replace(recipe, **(dict(arm.changes) | {"model_kwargs": arm.model_kwargs, "seed": cell["seed"]}))


def title_of(cell: Mapping[str, Any]) -> str:
    """Return what tables call the network of a cell."""
    return ARMS[cell["net"]].title.format(depth=cell["depth"])
