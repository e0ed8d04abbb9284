"""``ditcnn reproduce``."""

import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from ditcnn.cli.parsing import parse
from ditcnn.system.errors import InputError

__all__ = ["reproduce_command"]


@dataclass(frozen=True)
class ReproduceFlags:
    """Run an experiment: its numbers, figures and table go into a folder; networks that it trains lie in runs/ beside it.

    full is the paper's own setting; quick is shortened for two cores: to about 20 minutes, for networks trained on CIFAR to
    hours; smoke takes at most minutes, on data that it makes. --list says what is shortened, and how long it took.
    Interrupted, the same command goes on where it stopped.
    """

    name: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")] = None
    """Name of the experiment; see --list."""
    list: bool = False
    """Print the experiments: what each shows, and the measured time of each budget."""
    budget: Literal["smoke", "quick", "full"] = "quick"
    """How much of it to run."""
    seeds: int | None = None
    """Runs of each setting. Default: the budget's."""
    data: Path | None = None
    """Folder with the data sets under their names (mnist, arabic_digits, cifar10, cifar100): folders, .tar or .tar.gz."""
    out: Path | None = None
    """Folder of the results. Default: results/NAME."""


def reproduce_command(argv: list[str]) -> None:
    """Run an experiment, or list them."""
    flags = parse(ReproduceFlags, argv, "ditcnn reproduce")
    from ditcnn.experiments import find_experiment, overview, reproduce  # slow to import, and not needed for --help

    if flags.list:
        if flags.name is not None:
            raise InputError("--list prints all experiments; leave out the name.")
        print(overview())
        return
    if flags.name is None:
        raise InputError("which experiment? ditcnn reproduce NAME; --list prints their names.")
    experiment = find_experiment(flags.name)
    out = Path("results", experiment.name) if flags.out is None else flags.out
    done = reproduce(experiment, flags.budget, out, seeds=flags.seeds, data=flags.data)
    seeds = done.record["seeds"]
    about = f"{experiment.name}, {flags.budget}, {seeds} seed{'s' * (seeds != 1)}: {experiment.shows}"
    print(textwrap.fill(about, 80))
    print(f"\n{done.brief}\n\nThe whole table: {out / f'{experiment.name}.md'}")
