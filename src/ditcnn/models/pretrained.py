"""Weights of plain and of published networks in models with the term, through timm's own loading."""

from collections.abc import Callable
from typing import Any

from timm.models import build_model_with_cfg, list_pretrained
from timm.models._builder import resolve_pretrained_cfg
from torch import Tensor, nn

from ditcnn.convert import with_fresh_terms, with_our_keys

__all__ = ["build"]

State = dict[str, Tensor]


def build(
    model_cls: type[nn.Module],
    variant: str,
    pretrained: bool,
    *,
    family_filter: Callable[[State, nn.Module], State] | None = None,
    **kwargs: Any,
) -> nn.Module:
    """Return timm's ``build_model_with_cfg``; a checkpoint of the plain network loads with the term at its start.

    So do checkpoints of the published code. The load stays strict.

    Args:
        model_cls, variant, pretrained, kwargs: As timm's function has them.
        family_filter: timm's own filter for the family's checkpoints.

    Raises:
        RuntimeError: ``pretrained`` is asked of a name that has no weights.
    """

    def filter_fn(state: State, model: nn.Module) -> State:
        state = with_our_keys(state)[0]
        if family_filter is not None:
            state = family_filter(state, model)
        return with_fresh_terms(state, model)

    if pretrained:
        overlay = kwargs.get("pretrained_cfg_overlay")
        cfg = resolve_pretrained_cfg(variant, pretrained_cfg=kwargs.get("pretrained_cfg"), pretrained_cfg_overlay=overlay)
        if not (cfg.has_weights or cfg.state_dict):
            raise RuntimeError(_no_weights(variant))
    model: nn.Module = build_model_with_cfg(model_cls, variant, pretrained, pretrained_filter_fn=filter_fn, **kwargs)
    return model


def _no_weights(variant: str) -> str:
    tagged = [name for name in list_pretrained(f"{variant}.*") if name.startswith(f"{variant}.")]
    start = f" Plain weights to start from, the term at zero: {', '.join(tagged)}." if tagged else ""
    return (
        f"no pretrained weights exist for {variant} yet; use pretrained=False, or give a checkpoint with "
        f"pretrained_cfg_overlay=dict(file=...).{start}"
    )
