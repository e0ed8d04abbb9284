"""``ditcnn list``."""

import textwrap
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from ditcnn.cli.parsing import parse
from ditcnn.system.text import visible

__all__ = ["list_command"]

WIDTH = 80
_FAMILIES = (
    ("dit_resnet*", "ResNets of CIFAR with the term, as in the paper"),
    ("dit_convnext*", "ConvNeXts with the term, as in the paper"),
    ("resnet20, 32, 44, 56, 110", "plain ResNets of CIFAR"),
    ("fan_*, quadralib_*, qres_*", "older quadratic networks"),
    ("with_quadratic", "any model of timm's, terms put in: base=NAME where=PLACES"),
)


@dataclass(frozen=True)
class ListFlags:
    """List what there is: models, recipes, experiments."""

    what: Annotated[Literal["models", "recipes", "experiments"] | None, tyro.conf.Positional] = None
    """What to list in full. Default: all three, in short."""


def list_command(argv: list[str]) -> None:
    """Print names, with a word on each."""
    flags = parse(ListFlags, argv, "ditcnn list")
    parts = {"models": _models, "recipes": _recipes, "experiments": _experiments}
    if flags.what == "experiments" and (overview := _overview()):
        for line in overview.splitlines():
            indent = " " * (len(line) - len(line.lstrip()))
            print(textwrap.fill(visible(line.strip()), WIDTH, initial_indent=indent, subsequent_indent=indent + "    "))
    elif flags.what is not None:
        _print(parts[flags.what](short=False))
    else:
        for number, (name, rows) in enumerate(parts.items()):
            print(("\n" if number else "") + f"{name} (ditcnn list {name})")
            _print(rows(short=True), indent="  ")


def _overview() -> str:
    """Return what the experiments say of themselves at length."""
    from ditcnn import experiments

    overview = getattr(experiments, "overview", None)
    return str(overview()) if overview else ""


def _print(rows: list[tuple[str, str]], indent: str = "") -> None:
    """Print names and words on them in two columns."""
    width = max((len(name) for name, _ in rows), default=0) + 2
    for name, words in rows:
        line = f"{indent}{visible(name):<{width}}"
        print(textwrap.fill(visible(words), WIDTH, initial_indent=line, subsequent_indent=" " * len(line)).rstrip())


def _models(short: bool) -> list[tuple[str, str]]:
    if short:
        return list(_FAMILIES)
    import timm

    names = [name for name in timm.list_models() if _module(name).startswith("ditcnn.")]
    return [(name, _word(name)) for name in names]


def _module(name: str) -> str:
    from timm.models import model_entrypoint

    return str(model_entrypoint(name).__module__)


def _word(name: str) -> str:
    """Return the first line of what a model's maker says of it."""
    from timm.models import model_entrypoint

    said = (model_entrypoint(name).__doc__ or "").strip().partition("\n")[0]
    return said.partition("; see")[0].rstrip(".").replace("``", "")


def _recipes(short: bool) -> list[tuple[str, str]]:
    from ditcnn.recipes import RECIPES

    return [
        (name, own.recipe.model if short else f"{own.data}, {own.recipe.epochs} epochs, {own.recipe.model}")
        for name, own in RECIPES.items()
    ]


def _experiments(short: bool) -> list[tuple[str, str]]:
    from ditcnn import experiments

    rows = [(experiment.name, experiment.shows) for experiment in experiments.EXPERIMENTS.values()]
    return [(name, textwrap.shorten(shows, WIDTH - 20, placeholder=" ...")) for name, shows in rows] if short else rows
