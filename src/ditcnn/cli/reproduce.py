"""``ditcnn reproduce``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from ditcnn.cli.parsing import parse
from ditcnn.experiments import EXPERIMENTS, BudgetName, find_experiment, reproduce
from ditcnn.system.errors import InputError

__all__ = ["reproduce_command"]


@dataclass(frozen=True)
class ReproduceFlags:
    """Run an experiment: its numbers, figures and table go into a folder.

    full is the paper's own setting; quick is shortened for two cores: to about 20 minutes, for networks trained on CIFAR to
    hours; smoke takes at most minutes, on data that it makes. --list says what is shortened, and how long it took.
    Interrupted, the same command goes on where it stopped.
    """

    name: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")] = None
    """Name of the experiment; see --list."""
    list: bool = False
    """Print the experiments: what each shows, and the measured time of each budget."""
    budget: BudgetName = "quick"
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
    if flags.list:
        if flags.name is not None:
            raise InputError("--list prints all experiments; leave out the name.")
        print(_list())
        return
    if flags.name is None:
        raise InputError("which experiment? ditcnn reproduce NAME; --list prints their names.")
    experiment = find_experiment(flags.name)
    out = Path("results", experiment.name) if flags.out is None else flags.out
    reproduce(experiment, flags.budget, out, seeds=flags.seeds, data=flags.data)
    print((out / f"{experiment.name}.md").read_text())
    print(f"written to {out}")


def _list() -> str:
    lines = ["--budget takes smoke, quick (default) or full. Times are measured; core-min, core-s: work for one core."]
    for experiment in EXPERIMENTS.values():
        lines += ["", f"{experiment.name}  {experiment.shows}"]
        if experiment.needs:
            lines.append(f"    data: {', '.join(experiment.needs)}{_optional(experiment.may_use)}")
        for name, budget in experiment.budgets.items():
            lines.append(f"    {name:<6} {budget.measured or 'not run whole':<14} {budget.about}")
    return "\n".join(lines)


def _optional(names: tuple[str, ...]) -> str:
    return f"; where it is there also {', '.join(names)}" if names else ""
