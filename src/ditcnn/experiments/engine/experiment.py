"""What an experiment is: a list of independent cells, and what is made of their numbers."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar, get_args

from ditcnn.data import ImageData
from ditcnn.experiments.engine.drawing import Figures
from ditcnn.experiments.engine.runs import RunStore
from ditcnn.experiments.engine.sets import ImageSets
from ditcnn.experiments.engine.tables import Block

__all__ = [
    "BUDGETS", "Budget", "BudgetName", "Cell", "Context", "Experiment", "Numbers", "Plan", "Row", "Summary", "cell_key",
    "grouped",
]  # fmt: skip

BudgetName = Literal["smoke", "quick", "full"]
BUDGETS: tuple[BudgetName, ...] = get_args(BudgetName)

Cell = dict[str, Any]  # settings, values that JSON can hold: everything that decides the cell's numbers, but the data
Numbers = dict[str, Any]  # what a cell gave, values that JSON can hold; no NaN
Row = dict[str, Any]  # a cell and its numbers in one
Summary = dict[str, Any]  # means and intervals over rows

Settings = TypeVar("Settings")


@dataclass(frozen=True)
class Budget(Generic[Settings]):
    """How much of an experiment is run.

    Args:
        settings: A frozen dataclass of the experiment's own.
        seeds: Runs of each setting, unless the user names another number.
        about: What it is in one line; for a shortened one, what was shortened.
        measured: Time that it took on two cores, e.g. ``"14 min"``, or ``"19 core-min"`` where the machine had other work;
            None where it has not run whole.
    """

    settings: Settings
    seeds: int
    about: str
    measured: str | None = None


@dataclass(frozen=True)
class Plan(Generic[Settings]):
    """What is to be run: settings, number of seeds, and the data sets that are there."""

    settings: Settings
    seeds: int
    sets: tuple[str, ...]


@dataclass(frozen=True)
class Context:
    """What a cell may use while it runs: image sets, the store of runs, the bar.

    Args:
        sets: The data sets that are there.
        runs: Where networks are trained, or found trained.
        progress: Takes the done fraction of the cell, 0 to 1, and moves the bar.
    """

    sets: ImageSets
    runs: RunStore
    progress: Callable[[float], None] = lambda fraction: None

    def images(self, name: str) -> ImageData:
        """Return the data set of a name, read once."""
        return self.sets[name]


@dataclass(frozen=True)
class Experiment(Generic[Settings]):
    """One figure or table.

    Cells are independent and small: an interrupted experiment goes on with the cells that are not done. A cell's numbers
    are a function of the cell and the data alone; its seed is part of it.

    Args:
        name: Of the command and the files.
        shows: What a reader learns from it, in one line.
        budgets: ``smoke``, ``quick`` and ``full``.
        cells: Enumerates the cells of a plan, in the order in which they run.
        run: Gives a cell's numbers. `Context.progress` moves the bar; what `Context.runs` trains goes on after a stop.
        summarise: Means and intervals of the rows; a pure function.
        table: Paragraphs and tables of a summary; those that the terminal shows say so.
        draw: Figures of a summary and its rows, by suffix: ``""`` is ``NAME.png`` and ``NAME.svg``, ``"spectra"``
            ``NAME-spectra.png``. Matplotlib has the project's style meanwhile.
        needs: Data sets that it cannot do without, unless the budget is smoke.
        may_use: Data sets that it uses where they are there.
        make_data: Makes a small data set of a given name, for smoke.
        cost: Relative time of a cell, for the time left.
        revision: Raised when the same cell would give other numbers than before; older cells are then refused.
    """

    name: str
    shows: str
    budgets: Mapping[BudgetName, Budget[Settings]]
    cells: Callable[[Plan[Settings]], list[Cell]]
    run: Callable[[Cell, Context], Numbers]
    summarise: Callable[[Sequence[Row]], Summary]
    table: Callable[[Summary], Sequence[Block]]
    draw: Callable[[Summary, Sequence[Row]], Figures]
    needs: tuple[str, ...] = ()
    may_use: tuple[str, ...] = ()
    make_data: Callable[[str], ImageData] | None = None
    cost: Callable[[Cell], float] = lambda cell: 1.0
    revision: int = 1


def cell_key(cell: Cell) -> str:
    """Return a text that is the same for equal cells, whatever the order of their settings."""
    return json.dumps(cell, sort_keys=True, allow_nan=False)


def grouped(rows: Sequence[Row], *keys: str) -> dict[tuple[Any, ...], list[Row]]:
    """Return rows by their values of some keys, in the order in which these first come.

    >>> grouped([{"net": "a", "seed": 0}, {"net": "b", "seed": 0}, {"net": "a", "seed": 1}], "net")[("a",)]
    [{'net': 'a', 'seed': 0}, {'net': 'a', 'seed': 1}]
    """
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in keys), []).append(row)
    return groups
