"""A run's settings: a recipe, a file, a stored run and what was asked for, on top of each other."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field
from timm.optim import get_optimizer_info

from ditcnn.recipes import RECIPES, Recipe, make_recipe
from ditcnn.recipes.settings import settings
from ditcnn.system.documents import read_yaml
from ditcnn.system.errors import InputError, nearest
from ditcnn.train.build import arguments_of, images_of
from ditcnn.train.checkpoint import of_first_edition

__all__ = [
    "DEFAULTS",
    "FIELDS",
    "Beside",
    "as_yaml",
    "base_of",
    "check_each",
    "read_settings",
    "refuse_changes",
    "refuse_idle",
    "resolve",
    "with_weights",
]

FIELDS = tuple(field.name for field in dataclasses.fields(Recipe))
EDITION = 2  # of config.yaml; the first had no number


@settings
class Beside:
    """How a run is carried out: nothing here decides what it computes, and a resumed run may change it."""

    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    workers: Annotated[int, Field(ge=0, le=1024)] = 4
    skip_bad_images: bool = False
    checkpoint_minutes: Annotated[float, Field(ge=0, le=1e6)] = 5.0


DEFAULTS = dataclasses.asdict(Beside())  # of the command line
KNOWN = ("recipe", "data", *DEFAULTS, *FIELDS, "edition")


def read_settings(path: Path) -> dict[str, Any]:
    """Return the settings of a run's ``config.yaml``, by name; values are as YAML has them, checked where they are used.

    Raises:
        InputError: The file cannot be read, or has a key that is unknown.
    """
    try:
        found = read_yaml(path)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file.") from None
    if not isinstance(found, dict):
        raise InputError(f"{path} must hold settings as 'name: value' lines.")
    for name in found:
        if name not in KNOWN:
            raise InputError(f"{path} has an unknown key {str(name)!r}.{nearest(str(name), KNOWN)}")
    for name in ("recipe", "data"):
        if not isinstance(found.get(name), str | None):
            raise InputError(f"{path}: {name} must be text; got {str(found[name])[:80]}.")
    edition = found.pop("edition", 1)
    named = RECIPES.get(str(found.get("recipe", "digits")))
    if edition == 1 and named is not None and ("scale" in found or named.streamed):
        found = of_first_edition(found, named.streamed)
    elif edition not in (1, EDITION):
        raise InputError(f"{path} is of edition {edition}, which this version of ditcnn does not know.")
    return dict(found)


def check_each(given: Mapping[str, Any]) -> None:
    """Raise unless each setting is one of a recipe and fits by itself, whatever the others are.

    Raises:
        InputError: A setting is unknown, out of its range, or names a model or an optimiser that is not there.
    """
    for name in given:
        if name not in FIELDS:
            raise InputError(f"there is no setting {name!r}.{nearest(name, FIELDS)}")
    for part in Recipe.__mro__[1:-1]:  # the components
        own = {field.name for field in dataclasses.fields(part)}
        part(**{name: value for name, value in given.items() if name in own})
    Recipe(**{name: given[name] for name in ("model", "opt") if name in given}).check()


def resolve(base: Recipe, layers: Sequence[Mapping[str, Any]], where: str = "") -> Recipe:
    """Return a recipe with layers of settings on top; a number of epochs moves milestones and warm-up of what lies below.

    Raises:
        InputError: A setting does not fit.
    """
    for layer in layers:
        try:
            if "epochs" in layer:
                base = base.at_epochs(replace(base, epochs=layer["epochs"], warmup_epochs=0.0).epochs)
            base = replace(base, **layer)
        except InputError as error:
            raise InputError(f"{where}{error}") from None
    return base


def with_weights(recipe: Recipe, given: set[str], streamed: bool) -> Recipe:
    """Return the recipe with what the weights that it starts from want, where ``given`` settings leave that open.

    Images are as they want them; a folder's model has the arguments that it was made with, which a resumed run has no
    weights to take them from.
    """
    weights = recipe.pretrained
    if weights is None:
        return recipe
    if streamed:
        wanted = {name: value for name, value in images_of(weights).items() if name not in given}
        recipe = replace(recipe, **wanted)
    asked = recipe.model_arguments()
    own = [f"{key}={value!r}" for key, value in arguments_of(weights, recipe.model).items() if key not in asked]
    return replace(recipe, model_kwargs=(*own, *recipe.model_kwargs))


def refuse_changes(stored: Recipe, wanted: Recipe, config: Path) -> None:
    """Raise `InputError` where a resumed run would get other settings."""
    for name in FIELDS:
        then, now = getattr(stored, name), getattr(wanted, name)
        if then != now:
            raise InputError(
                f"`{name}` is {then} in {config} and {now} here; a resumed run keeps its settings. Name another folder for "
                "a new run."
            )


def refuse_idle(recipe: Recipe, given: set[str]) -> None:
    """Raise `InputError` for settings that were asked for and would do nothing."""
    idle = {} if recipe.schedule == "multistep" else dict.fromkeys(("milestones", "gamma"), "`schedule` multistep")
    if recipe.schedule == "cosine-by-epoch":
        idle |= dict.fromkeys(("warmup", "warmup_factor"), "another `schedule`")
    else:
        idle |= dict.fromkeys(("warmup_lr", "min_lr"), "`schedule` cosine-by-epoch")
    if recipe.schedule == "triangular":
        idle |= dict.fromkeys(("warmup", "warmup_epochs"), "another `schedule`")
    else:
        idle |= dict.fromkeys(("peak", "end_factor"), "`schedule` triangular")
    if not recipe.crop_padding:
        idle["padding_mode"] = "`crop_padding`"
    if not recipe.flip:
        idle["flip_mode"] = "`flip`"
    if not get_optimizer_info(recipe.opt).has_momentum:
        idle["momentum"] = "an `opt` with momentum"
    for name, needed in idle.items():
        if name in given:
            raise InputError(f"`{name}` has no effect here: it needs {needed}.")


def as_yaml(recipe: Recipe, name: str | None, data: str | None, beside: Beside) -> dict[str, Any]:
    """Return what ``config.yaml`` holds; unset settings are left out, but for those that the recipe of that name sets."""
    own = dataclasses.asdict(RECIPES[name].recipe) if name else {}
    values = {"recipe": name, "data": data, **dataclasses.asdict(beside), **dataclasses.asdict(recipe)}
    kept = {key: value for key, value in values.items() if value is not None or own.get(key) is not None}
    return {"edition": EDITION} | {key: list(value) if isinstance(value, tuple) else value for key, value in kept.items()}


def base_of(name: str | None, model: str | None) -> Recipe:
    """Return the recipe of a name for a model, or the plain one without a name."""
    if name is not None:
        return make_recipe(name, model)
    return Recipe() if model is None else Recipe(model=model)
