"""The term in any model of timm's registry, as a model of the registry itself: so it is built, saved and loaded by timm."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import timm
from timm.models import PretrainedCfg, generate_default_cfgs, load_pretrained, register_model
from torch import nn

from ditcnn.convert import add_quadratic, with_fresh_terms
from ditcnn.layers import Norm

__all__ = ["with_quadratic"]

default_cfgs = generate_default_cfgs({"with_quadratic": dict(url="", input_size=(3, 224, 224))})


@register_model
def with_quadratic(
    pretrained: bool = False,
    *,
    base: str = "",
    where: str | Sequence[str] = (),
    rank: int | None = None,
    norm: Norm | None = None,
    rate: float = 1.0,
    pretrained_cfg: Any = None,
    pretrained_cfg_overlay: dict[str, Any] | None = None,
    **kwargs: Any,
) -> nn.Module:
    """``add_quadratic(timm.create_model(base), where, ...)`` under a name that timm can save and load.

    Args:
        pretrained: Load weights: the base's, with the term at its start, or those of a saved model of this kind.
        base: Name of the plain model, as ``resnet50.a1_in1k``.
        where, rank, norm, rate: As in `ditcnn.add_quadratic`.
        kwargs: As the base takes them.

    Raises:
        ValueError: No base or no place is named, or ``features_only`` is asked for, which renames the places.

    >>> model = timm.create_model("with_quadratic", base="test_resnet", where=["layer1.*.conv1"])
    >>> model.layer1[0].conv1.quadratic.weight.ndim
    3
    """
    if not base or base.split(".")[0] == "with_quadratic":
        raise ValueError(f"base must name the plain model, as base='resnet50'; got {base!r}.")
    if kwargs.get("features_only"):
        raise ValueError(
            "features_only renames modules; call ditcnn.add_quadratic(timm.create_model(base, features_only=True), ...)."
        )
    saved = _saved(pretrained_cfg)
    model: Any = timm.create_model(
        base,
        pretrained=pretrained and saved is None,
        pretrained_cfg_overlay=None if saved else pretrained_cfg_overlay,
        **kwargs,
    )
    add_quadratic(model, where, rank=rank, norm=norm, rate=rate)
    cfg = dict(model.pretrained_cfg if saved is None else saved, architecture="with_quadratic")
    model.pretrained_cfg = model.default_cfg = cfg
    if pretrained and saved is not None:
        load_pretrained(
            model,
            pretrained_cfg=cfg | (pretrained_cfg_overlay or {}),
            num_classes=model.num_classes,
            in_chans=kwargs.get("in_chans", 3),
            filter_fn=with_fresh_terms,
            cache_dir=kwargs.get("cache_dir"),
        )
    built: nn.Module = model
    return built


def _saved(cfg: Any) -> dict[str, Any] | None:
    """Return the config of a saved model of this kind (a local folder's or the hub's), or None for a registry name's."""
    cfg = dataclasses.asdict(cfg) if isinstance(cfg, PretrainedCfg) else cfg
    return cfg if isinstance(cfg, dict) and cfg.get("source") in ("hf-hub", "local-dir") else None
