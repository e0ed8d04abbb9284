r"""Dit-ConvNeXt (Liu et al., NeurIPS 2024): timm's ConvNeXt with the term beside one depthwise convolution.

The third block of the first stage computes conv_dw(x) + Q(x) in place of conv_dw(x), before its norm. No norm stands before
Q and nothing is halved: a plain ConvNeXt's weights give the plain ConvNeXt's outputs. Sizes whose first stage has two
blocks have it in the last one. ConvNeXt V2 (Woo et al., 2023) likewise, which the paper does not have.
"""

from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import timm
from timm.models import DefaultCfg, PretrainedCfg, register_model
from timm.models.convnext import ConvNeXt, checkpoint_filter_fn
from torch import nn

from ditcnn.convert import add_quadratic
from ditcnn.layers import Norm
from ditcnn.models.pretrained import build

__all__ = ["DitConvNeXt"]

PUBLISHED_BLOCK = 2  # of the first stage, counted from 0


class DitConvNeXt(ConvNeXt):  # type: ignore[misc]
    """timm's ``ConvNeXt`` with `ditcnn.add_quadratic`.

    Args:
        args, kwargs: As in ``timm.models.ConvNeXt``.
        quadratic_at: Names of the convolutions that get a term. Default: the published place.
        quadratic_rank, quadratic_norm, quadratic_pixelwise: As ``rank``, ``norm`` and ``pixelwise`` in
            `ditcnn.add_quadratic`; published: None, None and, but for a comparison, False.

    Shapes:
        ``[N, in_chans, H, W]`` -> ``[N, num_classes]``.
    """

    def __init__(
        self,
        *args: Any,
        quadratic_at: str | Sequence[str] | None = None,
        quadratic_rank: int | None = None,
        quadratic_norm: Norm | None = None,
        quadratic_pixelwise: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        first: Any = self.stages[0]
        block = min(PUBLISHED_BLOCK, len(first.blocks) - 1)
        places = [f"stages.0.blocks.{block}.conv_dw"] if quadratic_at is None else quadratic_at
        add_quadratic(self, places, rank=quadratic_rank, norm=quadratic_norm, pixelwise=quadratic_pixelwise)


_SMALL = dict(conv_mlp=True)
_SIZES: dict[str, dict[str, Any]] = {
    "atto": dict(depths=(2, 2, 6, 2), dims=(40, 80, 160, 320), **_SMALL),
    "femto": dict(depths=(2, 2, 6, 2), dims=(48, 96, 192, 384), **_SMALL),
    "pico": dict(depths=(2, 2, 6, 2), dims=(64, 128, 256, 512), **_SMALL),
    "nano": dict(depths=(2, 2, 8, 2), dims=(80, 160, 320, 640), **_SMALL),
    "tiny": dict(depths=(3, 3, 9, 3), dims=(96, 192, 384, 768)),
    "small": dict(depths=(3, 3, 27, 3), dims=(96, 192, 384, 768)),
    "base": dict(depths=(3, 3, 27, 3), dims=(128, 256, 512, 1024)),
    "large": dict(depths=(3, 3, 27, 3), dims=(192, 384, 768, 1536)),
}
_V2 = dict(use_grn=True, ls_init_value=None)
_VARIANTS = {f"dit_convnext_{size}": args for size, args in _SIZES.items()}
_VARIANTS |= {f"dit_convnextv2_{size}": args | _V2 for size, args in _SIZES.items()}


# As published: ImageNet-1K, evaluated at crop 0.95. Mean and deviation are the dataclass's own, ImageNet's.
_PUBLISHED_CFG = PretrainedCfg(url="", pool_size=(7, 7), crop_pct=0.95, first_conv="stem.0", classifier="head.fc")


def _cfgs(variant: str) -> dict[str, PretrainedCfg]:
    """Return the variant's configs by tag: its own, which has no weights yet, and those of plain networks' weights."""
    plain = variant.removeprefix("dit_")
    family = plain.rpartition("_")[0]
    cfgs = {"": _PUBLISHED_CFG}
    for name in timm.list_pretrained(f"{plain}.*"):
        if (cfg := timm.get_pretrained_cfg(name)) is not None:
            cfgs[f"{family}_{name.partition('.')[2]}"] = replace(cfg, tag=None)
    return cfgs


def _default_cfgs(variant: str) -> DefaultCfg:
    cfgs = _cfgs(variant)
    # Not generate_default_cfgs: it would make a plain network's weights the default.
    return DefaultCfg(tags=deque(cfgs), cfgs=defaultdict(PretrainedCfg, cfgs))


default_cfgs = {variant: _default_cfgs(variant) for variant in _VARIANTS}


def _register(variant: str, model_args: dict[str, Any]) -> None:
    def entry(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        if kwargs.get("pretrained_cfg") == "convnextv2_fcmae":  # weights without a head and its norm, as timm has it
            kwargs.setdefault("pretrained_strict", False)
        return build(
            DitConvNeXt,
            variant,
            pretrained,
            family_filter=checkpoint_filter_fn,
            feature_cfg=dict(out_indices=(0, 1, 2, 3), flatten_sequential=True),
            **dict(model_args, **kwargs),
        )

    entry.__name__ = entry.__qualname__ = variant
    entry.__doc__ = f"timm's {variant.removeprefix('dit_')} with the quadratic term."
    globals()[variant] = register_model(entry)


for _variant, _model_args in _VARIANTS.items():
    _register(_variant, _model_args)
