"""What a run is asked to be: the recipe's settings, a config's, a stored run's and the caller's, on top of each other."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from ditcnn.recipes import OWN, RECIPES, Recipe
from ditcnn.system.display import Display
from ditcnn.system.errors import InputError
from ditcnn.train.folder import RUNS, RunFolder, newest_run
from ditcnn.train.inputs import Data
from ditcnn.train.matching import match_recipe
from ditcnn.train.settings import (
    DEFAULTS,
    FIELDS,
    Beside,
    base_of,
    check_each,
    read_settings,
    refuse_changes,
    refuse_idle,
    resolve,
    with_weights,
)

__all__ = ["Resolved", "resolve_run"]


@dataclass(frozen=True)
class Resolved:
    """A run's settings, and whether it is a new one."""

    name: str | None
    recipe: Recipe
    beside: Beside
    data: str | None  # as a stored run or a config names it
    folder: Path | None
    new: bool
    given: set[str]  # names of settings that were asked for


def resolve_run(
    model: str | nn.Module | None,
    train: Data,
    recipe: str | Recipe | None,
    out: str | Path | None,
    resume: bool,
    config: str | Path | None,
    asked: dict[str, Any],
    settings: dict[str, Any],
    display: Display,
) -> Resolved:
    """Return a run's settings: the recipe's, a config's, a stored run's and those asked for, on top of each other."""
    if out is not None and not str(out):
        raise InputError("`out` is empty; name a folder.")
    own = {} if model is None else {"model": _own_name(model) if isinstance(model, nn.Module) else model}
    asked = {key: value for key, value in asked.items() if value is not None}
    Beside(**asked)
    check_each(settings | own)  # each by itself, before images are looked at
    in_config = read_settings(Path(config).expanduser()) if config is not None else {}
    newest = newest_run(recipe if isinstance(recipe, str) else None, model if isinstance(model, str) else None)
    folder = Path(out).expanduser() if out is not None else newest if resume else None
    stored = _stored(folder, resume, display) if folder is not None else None
    if stored is not None and out is None:
        display.say(f"going on with the newest run, {folder}")
    below = {**in_config, **(stored or {})}
    name = _name(recipe, in_config.get("recipe"), (stored or {}).get("recipe"))
    if name is None and not isinstance(recipe, Recipe):
        images = train if train is not None else below.get("data")
        if images is None and resume and not in_config:
            raise InputError(f"there is no run below {RUNS}/ to go on with; name a recipe or images to begin one.")
        name = "digits" if images is None and in_config else match_recipe(images, display.say)
    layers = [_of_recipe(stored or {}), _of_recipe(in_config), settings | own]
    named = next((layer["model"] for layer in reversed(layers) if "model" in layer), None)
    base = recipe if isinstance(recipe, Recipe) else base_of(name, None if str(named).startswith(OWN) else named)
    before = resolve(base, layers[:1], f"{folder}/config.yaml: ")
    wanted = resolve(resolve(before, layers[1:2], f"{config}: "), layers[2:])
    wanted.check()
    given = {key for layer in layers for key in layer}
    beside = Beside(**(DEFAULTS | {key: value for key, value in below.items() if key in DEFAULTS} | asked))
    if stored is not None:
        assert folder is not None
        if wanted.precision == "auto":
            wanted = replace(wanted, precision=before.precision)  # what was measured when the run began
        refuse_changes(before, wanted, RunFolder(folder).config)
    else:
        wanted = _complete(wanted, name, given, set(settings), train is not None or "data" in in_config, display)
    return Resolved(name, wanted, beside, below.get("data"), folder, stored is None, given)


def _stored(folder: Path, resume: bool, display: Display) -> dict[str, Any] | None:
    """Return the settings of the run in a folder that is to go on; None where a new one begins there."""
    run = RunFolder(folder)
    if any("\udc80" <= char <= "\udcff" for char in str(folder)):
        raise InputError(f"`out` {folder} is not UTF-8, which TensorBoard's events need; name another folder.")
    if folder.exists() and not folder.is_dir():
        raise InputError(f"`out` {folder} is a file, not a folder.")
    if run.holds_run() and not run.config.exists():
        raise InputError(f"{folder} holds files of a run, but no config.yaml. Name another folder.")
    if not resume:
        run.refuse_run()
        return None
    if not run.config.exists():
        display.say(f"{folder} holds no run: beginning one")
        return None
    if run.lost_checkpoints():
        raise InputError(f"{run.path} holds a run that lost its last.pt; put it back, or delete the folder.")
    return read_settings(run.config)


def _name(recipe: str | Recipe | None, in_config: Any, in_run: Any) -> str | None:
    """Return the name of a run's recipe, on which what was asked for, a config and the run must agree."""
    named = (recipe if isinstance(recipe, str) else None, in_config, in_run)
    known = dict.fromkeys(str(name) for name in named if name is not None)
    if len(known) > 1:
        raise InputError(f"a run has one recipe; named are {' and '.join(known)}.")
    return next(iter(known), None)


def _of_recipe(stored: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in stored.items() if key in FIELDS}


def _complete(
    recipe: Recipe, name: str | None, given: set[str], asked: set[str], has_data: bool, display: Display
) -> Recipe:
    """Return a new run's settings with what its weights want; say what they are."""
    streamed = name is not None and RECIPES[name].streamed
    if name == "imagenet-finetune" and recipe.pretrained is None:
        raise InputError("recipe imagenet-finetune needs `pretrained`: a model of timm's registry, or a run's folder.")
    if streamed and not has_data:
        raise InputError(f"recipe {name} needs `data`: class folders train/<class>/* and val/<class>/*.")
    recipe = with_weights(recipe, given, streamed)
    refuse_idle(recipe, asked)
    display.say(_schedule(recipe, name))
    if streamed and recipe.pretrained:
        display.say(
            f"images of {recipe.img_size} pixels ({recipe.interpolation}), mean {recipe.mean}, deviation {recipe.std}; from "
            f"{recipe.pretrained}"
        )
    return recipe


def _own_name(model: nn.Module) -> str:
    return f"{OWN}{type(model).__module__}.{type(model).__qualname__}"


def _schedule(recipe: Recipe, name: str | None) -> str:
    """Return the schedule in words; a number of epochs has moved milestones and warm-up."""
    own = RECIPES[name].recipe.epochs if name else recipe.epochs
    rescaled = f" (the recipe's {own} rescaled)" if recipe.epochs != own else ""
    drops = recipe.milestones if recipe.schedule == "multistep" else ()
    milestones = f", milestones at {', '.join(f'{m:g}' for m in drops)}" if drops else ""
    rise = f"peak at {recipe.peak:.0%}" if recipe.schedule == "triangular" else f"warm-up of {recipe.warmup_epochs:g} epochs"
    return f"schedule: {recipe.epochs} epochs{rescaled}{milestones}, {rise}"
