"""A training run's settings: from a recipe, a file and a command line, on top of each other."""

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from timm.optim import get_optimizer_info

from ditcnn.cli.parsing import flag, given, parse, read_config
from ditcnn.recipes import RECIPES, Recipe, make_recipe
from ditcnn.system.errors import InputError
from ditcnn.train import RunFolder
from ditcnn.train.build import arguments_of, images_of

__all__ = ["TrainFlags", "as_settings", "recipe_of", "settings_for", "stored_settings"]

PROG = "ditcnn train"


@dataclass(frozen=True)
class TrainFlags(Recipe):
    """Train a network by a recipe; each flag overrides one of its fields.

    Recipes: digits (default), cifar10 and cifar100 as in the paper, cifar10-warmup and cifar100-warmup; imagenet as in the
    paper and imagenet-finetune, which read class folders of any set and run under torchrun too.
    The defaults below are the paper's for CIFAR; a recipe has its own.
    """

    recipe: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="RECIPE")] = None
    """Name of the recipe."""
    data: str | None = None
    """Images: CIFAR's folder, class folders, a tar of them, or IDX files; for imagenet, class folders train/ and val/, tars,
    hfds/NAME or wds/NAME. Default: the recipe's own data, except for imagenet."""
    out: Path | None = None
    """Folder of the run. Default: a new one below runs/."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute; auto takes a GPU where there is one."""
    workers: int = 4
    """Processes that read a streamed set's images, beside each training process; 0 for none."""
    skip_bad_images: bool = False
    """Go on without a streamed set's images that cannot be decoded, and count them; may be given with --resume."""
    checkpoint_minutes: float = 5.0
    """Time between checkpoints within an epoch; there is one after each epoch."""
    config: Path | None = None
    """Settings of an earlier run (its config.yaml); flags given here go on top."""
    resume: bool = False
    """Go on with the run in --out (default: the newest of this recipe and model), or begin it if there is none."""

    def check(self) -> None:
        """Raise `InputError` unless the settings make sense."""
        super().check()
        if not self.checkpoint_minutes >= 0:
            raise InputError(f"--checkpoint-minutes must not be negative; got {self.checkpoint_minutes}.")
        if self.workers < 0:
            raise InputError(f"--workers must not be negative; got {self.workers}.")
        if self.skip_bad_images and not self.streamed:
            raise InputError("--skip-bad-images has no effect on images in memory; leave it out.")
        if self.streamed and self.data is None:
            raise InputError(f"recipe {self.recipe} needs --data DIR: class folders train/<class>/* and val/<class>/*.")
        if self.recipe == "imagenet-finetune" and self.pretrained is None:
            raise InputError("recipe imagenet-finetune needs --pretrained: a model of timm's registry, or a run's folder.")

    @property
    def name(self) -> str:
        """The recipe's name."""
        return self.recipe or "digits"

    @property
    def streamed(self) -> bool:
        """Whether images are read as they are needed, not kept in memory."""
        return RECIPES[self.name].data == "imagenet"


_RECIPE_FIELDS = [field.name for field in dataclasses.fields(Recipe)]
# What config.yaml holds.
_SETTINGS = ["recipe", "data", "device", "workers", "skip_bad_images", "checkpoint_minutes", *_RECIPE_FIELDS]


def stored_settings(config: Path) -> TrainFlags:
    """Return the settings of a ``config.yaml``.

    Raises:
        InputError: The file cannot be read, or has a key or value that does not fit.
    """
    return parse(TrainFlags, _read_config(config), PROG, file=config)


def settings_for(argv: list[str]) -> tuple[TrainFlags, RunFolder]:
    """Return the settings that a command line asks for, and the run's folder.

    A config file counts as an earlier command line; so do the settings of a run that is resumed.

    Raises:
        InputError: They make no sense, or the folder holds a run that is not to be touched.
    """
    asked = parse(TrainFlags, argv, PROG)
    config = _read_config(asked.config) if asked.config else []
    in_config = stored_settings(asked.config) if asked.config else asked
    if asked.recipe and in_config.recipe and asked.recipe != in_config.recipe:
        raise InputError(f"{asked.config} is a run of recipe {in_config.recipe}, not {asked.recipe}.")
    name = asked.recipe or in_config.name
    model = asked.model if given("model", argv) else in_config.model if asked.config else None
    recipe = make_recipe(name, model)
    recipe.check()
    base = TrainFlags(**vars(recipe), recipe=name)
    folder = RunFolder(asked.out or _default_folder(name, recipe.model, asked.resume))
    if folder.holds_run() and not folder.config.exists():
        raise InputError(f"{folder.path} holds files of a run, but no config.yaml. Name another folder with --out.")
    if not asked.resume:
        folder.refuse_run()
    if asked.resume and folder.config.exists():
        stored = _on_top(base, _read_config(folder.config), folder.config)
        wanted = _on_top(_on_top(stored, config, asked.config), argv)
        _refuse_changes(stored, wanted, folder)
    else:
        wanted = _as_weights(_on_top(_on_top(base, config, asked.config), argv), [*config, *argv])
        wanted = _with_arguments_of_weights(wanted)
    wanted.check()
    _refuse_idle(wanted, argv)
    return wanted, folder


def _on_top(base: TrainFlags, argv: list[str], file: Path | None = None) -> TrainFlags:
    """Return ``base`` with a command line's flags; a number of epochs moves the base's milestones and warm-up."""
    if given("epochs", argv):
        base = base.at_epochs(parse(TrainFlags, argv, PROG, file=file).epochs)
    return parse(TrainFlags, argv, PROG, base, file)


def _as_weights(flags: TrainFlags, argv: list[str]) -> TrainFlags:
    """Return the settings with images as the weights to start from want them, where a command line leaves that open."""
    if flags.pretrained is None or not flags.streamed:
        return flags
    wanted = images_of(flags.pretrained)
    return dataclasses.replace(flags, **{name: value for name, value in wanted.items() if not given(name, argv)})


def _with_arguments_of_weights(flags: TrainFlags) -> TrainFlags:
    """Return the settings with the arguments of a folder's model, which a resumed run has no weights to take them from."""
    if flags.pretrained is None:
        return flags
    asked = flags.model_arguments()
    own = [f"{key}={value!r}" for key, value in arguments_of(flags.pretrained, flags.model).items() if key not in asked]
    return dataclasses.replace(flags, model_kwargs=(*own, *flags.model_kwargs))


def _refuse_idle(flags: TrainFlags, argv: list[str]) -> None:
    """Raise `InputError` for flags of a command line that would do nothing."""
    idle = {} if flags.schedule == "multistep" else dict.fromkeys(("milestones", "gamma"), "--schedule multistep")
    if flags.schedule == "cosine-by-epoch":
        idle |= dict.fromkeys(("warmup", "warmup_factor"), "another --schedule")
    else:
        idle |= dict.fromkeys(("warmup_lr", "min_lr"), "--schedule cosine-by-epoch")
    if not flags.streamed:
        idle["workers"] = "a recipe whose images are streamed"
    if not get_optimizer_info(flags.opt).has_momentum:
        idle["momentum"] = "an --opt with momentum"
    for name, needed in idle.items():
        if given(name, argv):
            raise InputError(f"{flag(name)} has no effect here: it needs {needed}.")


def _read_config(path: Path) -> list[str]:
    return read_config(path, _SETTINGS, positional="recipe")


def _refuse_changes(stored: TrainFlags, wanted: TrainFlags, folder: RunFolder) -> None:
    for name in ("recipe", *_RECIPE_FIELDS):
        if getattr(stored, name) != getattr(wanted, name):
            label = name if name == "recipe" else flag(name)
            raise InputError(
                f"{label} is {getattr(stored, name)} in {folder.config} and {getattr(wanted, name)} here; a resumed run "
                "keeps its settings. Use another --out for a new run."
            )


def _default_folder(recipe: str, model: str, resume: bool) -> Path:
    """Return runs/RECIPE-MODEL-N, N the next free number, or with ``resume`` the newest there is."""
    numbers = [0]
    for path in Path("runs").glob(f"{recipe}-{model}-*"):
        if (match := re.fullmatch(rf"{re.escape(recipe)}-{re.escape(model)}-(\d+)", path.name)) is not None:
            numbers.append(int(match[1]))
    number = max(numbers) if resume and max(numbers) else max(numbers) + 1
    return Path("runs", f"{recipe}-{model}-{number}")


def recipe_of(flags: TrainFlags) -> Recipe:
    """Return the part of the settings that decides what is computed."""
    return Recipe(**{name: getattr(flags, name) for name in _RECIPE_FIELDS})


def as_settings(flags: TrainFlags) -> dict[str, Any]:
    """Return what config.yaml holds; unset ones are left out, but for those that the recipe sets."""
    recipe = RECIPES[flags.name].recipe
    settings = {
        name: getattr(flags, name)
        for name in _SETTINGS
        if getattr(flags, name) is not None or getattr(recipe, name, None) is not None
    }
    return {
        name: list(value) if isinstance(value, tuple) else str(value) if isinstance(value, Path) else value
        for name, value in settings.items()
    }
