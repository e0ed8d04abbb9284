"""A model by its name."""

import os
from collections.abc import Mapping
from typing import Any

from torch import nn

from ditcnn.system.text import one_line
from ditcnn.train.saved import TrainedModel, model_of, open_model

__all__ = ["Model", "as_trained", "called", "load"]

Model = nn.Module | str | os.PathLike[str]


def load(
    where: str | os.PathLike[str], *, model: nn.Module | None = None, pretrained: bool = True, **kwargs: Any
) -> nn.Module:
    """Return a model in eval mode.

    Its ``pretrained_cfg`` says what its images must be like, for ``timm.data.resolve_model_data_config``.

    Args:
        where: The folder of a run or of a converted model; a name of timm's registry; ``local-dir:FOLDER``; ``hf-hub:NAME``.
        model: The module that a folder's weights are of, where it is one of your own; it is filled in place.
        pretrained: Load the weights that belong to a name; else, and for a name that has none, they are fresh, of seed 0.
        kwargs: Arguments of the model, as ``timm.create_model`` takes them.

    Raises:
        InputError: There is no such model, or it cannot be had.
    """
    return open_model(where, model=model, pretrained=pretrained, **kwargs).model


def as_trained(
    model: Model,
    *,
    pretrained: bool = True,
    image_size: int | None = None,
    crop_pct: float | None = None,
    data_config: Mapping[str, Any] | None = None,
) -> TrainedModel:
    """Return a model, or one that is named, with all that using it needs."""
    if not isinstance(model, nn.Module):
        return open_model(model, pretrained=pretrained, image_size=image_size, crop_pct=crop_pct)
    asked = dict(data_config or {})
    if crop_pct is not None:
        asked["crop_pct"] = crop_pct
    if image_size is not None:
        asked["input_size"] = (model_of(model, asked).image_shape[0], image_size, image_size)
    return model_of(model, asked)


def called(model: Model) -> str:
    """Return what messages call a model."""
    return f"the {type(model).__name__}" if isinstance(model, nn.Module) else one_line(os.fspath(model))
