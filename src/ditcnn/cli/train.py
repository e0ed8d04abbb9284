"""``ditcnn train``."""

import contextlib
import dataclasses
import io
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import tyro

from ditcnn.cli.flags import with_flags
from ditcnn.cli.parsing import given, names_of, parse
from ditcnn.recipes.published import RECIPES
from ditcnn.recipes.settings import Augmentation, Execution, Images, Model, Optimiser, Schedule, Selection
from ditcnn.system.errors import InputError, ToldElsewhere, nearest
from ditcnn.system.launch import rank

if TYPE_CHECKING:
    from ditcnn.train.fit import Plan, Result

__all__ = ["TrainFlags", "train_command"]

PROG = "ditcnn train"
Made = TypeVar("Made")


@dataclass(frozen=True)
class Run:
    """Where, and how it is carried out."""

    data: str | None = None
    """Images: CIFAR's folder, class folders, a tar of them, IDX files, hfds/NAME, wds/DIR. Default: the recipe's own."""
    out: str | None = None
    """Folder of the run. Default: a new one below runs/."""
    resume: bool = False
    """Go on with the run in --out (default: the newest), or begin it if there is none."""
    config: Path | None = None
    """Settings of an earlier run (its config.yaml); flags given here go on top."""
    dry_run: bool = False
    """Print the settings, the data's counts and the model's cost, and stop."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute; auto takes a GPU where there is one."""
    workers: int = 4
    """Processes that read streamed images, beside each training process; 0 for none."""
    skip_bad_images: bool = False
    """Go on without streamed images that cannot be decoded, and count them."""
    checkpoint_minutes: float = 5.0
    """Time between checkpoints within an epoch; there is one after each epoch."""


@dataclass(frozen=True)
class TrainFlags:
    """Train a network by a recipe; each flag overrides one of its settings.

    `ditcnn list recipes` prints the recipes. The defaults below are the paper's for CIFAR; a recipe has its own.
    """

    recipe: Annotated[
        str | None,
        tyro.conf.Positional,
        tyro.conf.arg(metavar="RECIPE", help=f"{', '.join(RECIPES)}. Default: the one that suits the data, or digits."),
    ] = None
    run: Run = field(default_factory=Run)
    model: Model = field(default_factory=Model)
    data: Images = field(default_factory=Images)
    optimiser: Optimiser = field(default_factory=Optimiser)
    schedule: Schedule = field(default_factory=Schedule)
    augmentation: Augmentation = field(default_factory=Augmentation)
    selection: Selection = field(default_factory=Selection)
    execution: Execution = field(default_factory=Execution)


_BESIDE = ("device", "workers", "skip_bad_images", "checkpoint_minutes")


def train_command(argv: list[str]) -> None:
    """Train, alone or with the other processes of torchrun; print the result and where it lies."""
    flags = _told_once(lambda: _flags(argv))
    from ditcnn.system.display import Display
    from ditcnn.train.fit import fit, plan

    groups = [getattr(flags, each.name) for each in dataclasses.fields(flags) if each.name not in ("recipe", "run")]
    asked = {name: getattr(group, name) for group in groups for name in names_of(group) if given(name, argv)}
    run = flags.run
    resumed = run.resume and not given("data", argv)
    asked |= {name: getattr(run, name) if given(name, argv) else None for name in _BESIDE}
    recipe = flags.recipe
    if recipe is None and run.data is None and run.config is None and not resumed:
        recipe = "digits"
    options: dict[str, Any] = {"recipe": recipe, "out": run.out, "resume": run.resume, "config": run.config} | asked
    options["display"] = Display(quiet=rank() != 0, words=with_flags)
    if run.dry_run:
        _print_plan(plan(options.pop("model", None), run.data, **options))
        return
    result = fit(options.pop("model", None), run.data, **options)
    if rank() == 0:
        _print_result(result, recipe)


def _flags(argv: list[str]) -> TrainFlags:
    flags = parse(TrainFlags, argv, PROG)
    if flags.recipe is not None and flags.recipe not in RECIPES:
        raise InputError(f"there is no recipe {flags.recipe!r}.{nearest(flags.recipe, RECIPES)} See ditcnn list recipes.")
    return flags


def _told_once(work: Callable[[], Made]) -> Made:
    """Do what comes out alike in all processes of torchrun; the first one alone prints, and tells an error."""
    if rank() == 0:
        return work()
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            return work()
    except InputError as error:
        raise ToldElsewhere(error) from None


def _print_plan(planned: "Plan") -> None:
    """Print what a run would be."""
    import yaml

    from ditcnn.cost import cost_of
    from ditcnn.train.settings import as_yaml

    print(yaml.safe_dump(as_yaml(planned.recipe, planned.name, planned.data, planned.beside), sort_keys=False), end="")
    cost = cost_of(planned.model, planned.inputs.train.image_shape, planned.recipe.batch_size)
    print(f"# {planned.inputs.summary}")
    print(
        f"# {cost.parameters:,} parameters, {cost.macs / 1e6:,.1f} MMACs an image, {cost.step_mib:,.0f} MiB in a step of "
        f"{planned.recipe.batch_size}; nothing was written"
    )


_WEIGHTS = {"raw": "the weights themselves", "ema": "the moving average"}


def _print_result(result: "Result", recipe: str | None) -> None:
    line = result.summary
    if "watched" in line:
        name = line["watched"]
        print(f"{name} accuracy    {line[f'{name}_top1']:.2f}% after the last epoch, of the weights")
        if f"{name}_ema_top1" in line:
            print(f"                {line[f'{name}_ema_top1']:.2f}% of their moving average")
        print(
            f"                {line[f'best_{name}_top1']:.2f}% in the best epoch, {line[f'best_{name}_epoch']}, of "
            f"{_WEIGHTS[line[f'best_{name}_of']]}: selected on {name}, so no measure of the model"
        )
        print(f"model           that of the last epoch, {_WEIGHTS[line['model']]}")
        if "test_top1" in line:
            print(f"test accuracy   {line['test_top1']:.2f}%")
    elif line["selected_on"] == "test":
        print(f"test accuracy   {line['test_top1']:.2f}% after the last epoch, which is the saved model")
        print(
            f"                {line['best_test_top1']:.2f}% in the best epoch, {line['best_test_epoch']}: selected on "
            "test, as the paper reports it"
        )
    else:
        part = line["selected_on"]
        images = "held-out training images" if part == "holdout" else f"{part} images"
        chosen = f"model of epoch {line['selected_epoch']}, selected on {images} at {line[f'{part}_top1']:.2f}%"
        if "test_top1" in line:
            print(f"test accuracy   {line['test_top1']:.2f}% ({chosen})")
        else:
            print(chosen)
    for part in [key.removesuffix("_views_top1") for key in line if key.endswith("_views_top1")]:
        print(f"with {line['views']} views    {line[f'{part}_views_top1']:.2f}% on {part}")
    print(f"run folder      {result.folder}")
    if recipe == "digits":
        from ditcnn.train.folder import program

        print(f"next, CIFAR-10  {program()} train cifar10-warmup    10 epochs; downloads to ./data, or --data PATH")
        print(f"                {program()} train cifar10           the paper's 160 epochs")
