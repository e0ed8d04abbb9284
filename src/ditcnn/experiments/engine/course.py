"""How far an experiment is: one bar on a terminal; elsewhere, as in a log, a line now and then."""

import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any

from ditcnn.system.display import Display

__all__ = ["Course", "duration"]

EVERY = 30.0  # seconds between two lines


class Course:
    """The bar of all cells, in use while they run.

    Args:
        name: Of the experiment.
        display: Where to report.
        costs: Relative times of the cells that are to run.
        cells: How many there are, with those that were done before.
    """

    def __init__(self, name: str, display: Display, costs: Sequence[float], cells: int) -> None:
        self.name, self.display, self.costs, self.cells = name, display, costs, cells
        self.bar = display.bar(sum(costs), 0.0, name)
        self.begun = self.told = time.monotonic()

    def __enter__(self) -> "Course":
        self.bar.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.bar.__exit__(kind, error, traceback)

    def at(self, number: int, cell: dict[str, Any], fraction: float) -> None:
        """Say that of the cells to run this one, counted from 0, is done to a fraction, and all before it are done."""
        done = sum(self.costs[:number]) + fraction * self.costs[number]
        place = f"{self.name} {number + 1 + self.cells - len(self.costs)}/{self.cells}"
        self.display.at(done, place)
        now = time.monotonic()
        if self.display.console.is_terminal or now - self.told < EVERY:
            return
        self.told = now
        settings = " ".join(f"{key}={value}" for key, value in cell.items())
        left = f"{duration((now - self.begun) * (sum(self.costs) - done) / done)} left" if done else "just begun"
        self.display.say(f"{place}, {left}: {settings}")


def duration(seconds: float) -> str:
    """Return a time for people: ``40 s``, ``12 min``, ``3.5 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"
