"""The networks of the trained tables, and the schedules that they are trained with: data, with its source beside it."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ditcnn.experiments.experiment import Cell
from ditcnn.recipes import RECIPES, Recipe, make_recipe

__all__ = ["NETS", "Net", "recipe_of"]


@dataclass(frozen=True)
class Net:
    """A network as one arm of a comparison.

    Args:
        title: What tables call it; ``{depth}`` is filled in.
        model: Its name in timm's registry; ``{depth}`` is filled in.
        model_kwargs: Arguments of the model.
        changes: What its authors train differently from the schedule: fields of the recipe.
    """

    title: str
    model: str
    model_kwargs: tuple[str, ...] = ()
    changes: Mapping[str, Any] = field(default_factory=dict)


# ConvNeXt at CIFAR size: Liu et al. (2022) train it with AdamW; the term has the base rate, as in the paper for ImageNet.
_ADAMW = dict(opt="adamw", lr=2e-3, weight_decay=0.05, term_lr_scale=1.0)


def _small(blocks: int) -> tuple[str, ...]:
    """Return the arguments of a small ConvNeXt with so many blocks in stage 1."""
    return "patch_size=2", f"depths=({blocks}, 2, 2, 2)", "dims=(32, 64, 128, 256)"


def _convnext(title: str, block: int, *extra: str) -> Net:
    place = f'quadratic_at=["stages.0.blocks.{block}.conv_dw"]'
    return Net(title, "dit_convnext_atto", (*_small(3), place, *extra), _ADAMW)


NETS: dict[str, Net] = {
    "plain": Net("ResNet-{depth}", "resnet{depth}"),
    "dit": Net("Dit-ResNet-{depth}, corrected", "dit_resnet{depth}"),
    "dit-published": Net("Dit-ResNet-{depth}, as published (swap)", "dit_resnet{depth}", ("spatial_transpose=True",)),
    # The widths of ditcnn.models.widths_of_equal_cost for depth 20, pinned by a test.
    "plain-parameters": Net("ResNet-{depth}, widened to equal parameters", "resnet{depth}", ("widths=(17, 34, 68)",)),
    "plain-macs": Net("ResNet-{depth}, widened to equal MACs", "resnet{depth}", ("widths=(18, 35, 70)",)),
    "fan": Net("Fan et al. (ReLinear), ResNet-{depth}", "fan_resnet{depth}"),  # the slow parts have their rate with them
    # Clipping and weight decay of the authors' script for CIFAR (github.com/zarekxu/QuadraLib, image_classification).
    "quadralib": Net("QuadraLib, ResNet-{depth}", "quadralib_resnet{depth}", (), dict(clip_grad=0.5, weight_decay=5e-4)),
    "qres": Net("QRes, ResNet-{depth}", "qres_resnet{depth}"),  # its authors have no convolutional network
    "dit-stage1": Net("Dit-ResNet-{depth}, term in stage 1", "dit_resnet{depth}", ("quadratic_stage=1",)),
    "dit-stage3": Net("Dit-ResNet-{depth}, term in stage 3", "dit_resnet{depth}", ("quadratic_stage=3",)),
    "convnext": Net("small ConvNeXt", "convnext_atto", _small(3), _ADAMW),
    # The depth that costs nearest to the network with the term in block 3, counted in full; pinned by a test.
    "convnext-deeper": Net("small ConvNeXt, deepened to equal cost", "convnext_atto", _small(6), _ADAMW),
    "convnext-block1": _convnext("small Dit-ConvNeXt, block 1", 0),
    "convnext-block2": _convnext("small Dit-ConvNeXt, block 2", 1),
    "convnext-block3": _convnext("small Dit-ConvNeXt, block 3 (published place)", 2),
    "convnext-pixelwise": _convnext("small ConvNeXt, pixel-wise term in block 3", 2, "quadratic_pixelwise=True"),
}


# docs/protocol.md registers "short": four epochs, one of them warm-up, in fp32.
_SHORT = replace(RECIPES["cifar10-warmup"].recipe, epochs=4, warmup_epochs=1.0, precision="fp32")


def recipe_of(cell: Cell) -> Recipe:
    """Return the recipe of a cell: its ``net``, ``depth``, ``schedule``, ``data`` and ``seed``."""
    net = NETS[cell["net"]]
    model = net.model.format(depth=cell["depth"])
    if cell["schedule"] == "paper":
        recipe = replace(make_recipe(cell["data"], model), protocol="paper")
    else:
        recipe = replace(_SHORT, model=model)
        if cell["schedule"] == "smoke":
            recipe = replace(recipe, epochs=1, warmup_epochs=0.0, batch_size=32, lr=0.01)
    changes = {**net.changes, "model_kwargs": net.model_kwargs, "seed": cell["seed"]}
    return replace(recipe, **changes)
