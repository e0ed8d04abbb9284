"""``ditcnn train``."""

import dataclasses
import re
import shutil
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from ditcnn.cli.parsing import flag, given, parse, read_config
from ditcnn.data import channel_statistics, open_data
from ditcnn.errors import InputError, reason
from ditcnn.recipes import RECIPES, Recipe, make_recipe
from ditcnn.train import Display, RunFolder, Trainer, choose_device
from ditcnn.train.environment import record_launch

__all__ = ["stored_settings", "train_command"]

PROG = "ditcnn train"


@dataclass(frozen=True)
class TrainFlags(Recipe):
    """Train a network by a recipe; each flag overrides one of its fields.

    Recipes: digits (default), cifar10 and cifar100 as in the paper, cifar10-warmup and cifar100-warmup.
    The defaults below are the paper's; a recipe has its own.
    """

    recipe: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="RECIPE")] = None
    """Name of the recipe."""
    data: Path | None = None
    """Images: CIFAR's folder, class folders, a tar of them, or IDX files. Default: the recipe's own data."""
    out: Path | None = None
    """Folder of the run. Default: a new one below runs/."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute; auto takes a GPU where there is one."""
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


_RECIPE_FIELDS = [field.name for field in dataclasses.fields(Recipe)]
_SETTINGS = ["recipe", "data", "device", "checkpoint_minutes", *_RECIPE_FIELDS]  # what config.yaml holds


def train_command(argv: list[str]) -> None:
    """Train; print the result and where it lies."""
    flags, folder = _settings(argv)
    display = Display()
    new = not folder.config.exists()
    if new:
        if flags.resume:
            display.say(f"{folder.path} holds no run: beginning one")
        display.say(_schedule(flags))
    device = choose_device(flags.device)
    data = open_data(flags.data, RECIPES[_name(flags)].data)
    if len(flags.mean) != data.image_shape[0]:
        if flags.mean and given("mean", argv):
            raise InputError(f"--mean has {len(flags.mean)} values, the images {data.image_shape[0]} channels.")
        mean, std = channel_statistics(data.train)
        flags = replace(flags, mean=mean, std=std)
        display.say(f"normalising with the training images' mean {mean} and deviation {std}")
    trainer = Trainer(_recipe(flags), data, folder, device, display, flags.checkpoint_minutes)
    with folder.locked():
        if new:
            folder.create(_as_settings(flags))
        trainer.restore()
        for difference in record_launch(folder.environment, device):
            display.warn(f"resumed with other {difference}; bits may differ from an uninterrupted run.")
        display.say(
            f"{flags.model} on {device} in {flags.precision}: {len(trainer.train)} training images, "
            f"{len(trainer.watched)} {trainer.watched_name}, {len(data.classes)} classes; {folder.path}"
        )
        try:
            result = trainer.run()
        except OSError as error:
            raise InputError(
                f"{reason(error)}. The newest checkpoint stands; go on with --resume when there is room."
            ) from None
    _print_result(result, flags, folder)


def stored_settings(config: Path) -> TrainFlags:
    """Return the settings of a ``config.yaml``.

    Raises:
        InputError: The file cannot be read, or has a key or value that does not fit.
    """
    return parse(TrainFlags, _read_config(config), PROG, file=config)


def _settings(argv: list[str]) -> tuple[TrainFlags, RunFolder]:
    """Return the settings that a command line asks for, and the run's folder.

    A config file counts as an earlier command line; so do the settings of a run that is resumed.
    """
    asked = parse(TrainFlags, argv, PROG)
    config = _read_config(asked.config) if asked.config else []
    in_config = stored_settings(asked.config) if asked.config else asked
    if asked.recipe and in_config.recipe and asked.recipe != in_config.recipe:
        raise InputError(f"{asked.config} is a run of recipe {in_config.recipe}, not {asked.recipe}.")
    name = asked.recipe or _name(in_config)
    model = asked.model if given("model", argv) else in_config.model
    base = TrainFlags(**vars(make_recipe(name, model)), recipe=name)
    base.check()
    folder = RunFolder(asked.out or _default_folder(name, model, asked.resume))
    if folder.holds_run() and not folder.config.exists():
        raise InputError(f"{folder.path} holds files of a run, but no config.yaml. Name another folder with --out.")
    if not asked.resume:
        folder.refuse_run()
    if asked.resume and folder.config.exists():
        stored = _on_top(base, _read_config(folder.config), folder.config)
        wanted = _on_top(_on_top(stored, config, asked.config), argv)
        _refuse_changes(stored, wanted, folder)
    else:
        wanted = _on_top(_on_top(base, config, asked.config), argv)
    wanted.check()
    return wanted, folder


def _name(flags: TrainFlags) -> str:
    return flags.recipe or "digits"


def _on_top(base: TrainFlags, argv: list[str], file: Path | None = None) -> TrainFlags:
    """Return ``base`` with a command line's flags; a number of epochs moves the base's milestones and warm-up."""
    if given("epochs", argv):
        base = base.at_epochs(parse(TrainFlags, argv, PROG, file=file).epochs)
    return parse(TrainFlags, argv, PROG, base, file)


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


def _recipe(flags: TrainFlags) -> Recipe:
    return Recipe(**{name: getattr(flags, name) for name in _RECIPE_FIELDS})


def _as_settings(flags: TrainFlags) -> dict[str, Any]:
    """Return what config.yaml holds; unset ones are left out."""
    settings = {name: getattr(flags, name) for name in _SETTINGS if getattr(flags, name) is not None}
    return {
        name: list(value) if isinstance(value, tuple) else str(value) if isinstance(value, Path) else value
        for name, value in settings.items()
    }


def _schedule(flags: TrainFlags) -> str:
    """Return the schedule in words; a number of epochs has moved milestones and warm-up."""
    own = RECIPES[_name(flags)].recipe.epochs
    rescaled = f" (the recipe's {own} rescaled)" if flags.epochs != own else ""
    milestones = f", milestones at {', '.join(f'{m:g}' for m in flags.milestones)}" if flags.milestones else ""
    return f"schedule: {flags.epochs} epochs{rescaled}{milestones}, warm-up of {flags.warmup_epochs:g} epochs"


def _print_result(result: dict[str, Any], flags: TrainFlags, folder: RunFolder) -> None:
    if result["selected_on"] == "holdout":
        print(
            f"test accuracy   {result['test_top1']:.2f}% (model of epoch {result['selected_epoch']}, selected on held-out "
            f"training images at {result['holdout_top1']:.2f}%)"
        )
    else:
        print(f"test accuracy   {result['test_top1']:.2f}% after the last epoch, which is the saved model")
        print(
            f"                {result['best_test_top1']:.2f}% in the best epoch, {result['best_test_epoch']}: selected on "
            "test, as the paper reports it"
        )
    print(f"run folder      {folder.path}")
    if flags.recipe == "digits":
        program = _program()
        print(f"next, CIFAR-10  {program} train cifar10-warmup    10 epochs; downloads to ./data, or --data PATH")
        print(f"                {program} train cifar10           the paper's 160 epochs")


def _program() -> str:
    """Return how this program was called, for a person to repeat."""
    called = sys.argv[0]
    if called.endswith("__main__.py"):
        return "python -m ditcnn"
    return "ditcnn" if shutil.which("ditcnn") == called else called
