"""The columns of tables of trained networks: what each measures over an arm's runs, and how it is printed."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ditcnn.analysis.intervals import mean_interval, paired_interval
from ditcnn.experiments.arms import ARMS, recipe_of, title_of
from ditcnn.experiments.engine.experiment import Cell, Row
from ditcnn.experiments.engine.tables import interval_text

__all__ = [
    "ACCURACY",
    "BROKEN_OFF",
    "DATA",
    "DROP",
    "EPOCH_SECONDS",
    "EXTRA",
    "GAIN",
    "HELD_OUT",
    "MACS",
    "PAPER",
    "PARAMETERS",
    "TIME_RATIO",
    "TITLE",
    "Column",
    "Group",
    "N",
    "reported_top1",
    "selected_on",
]  # fmt: skip


def selected_on(cell: Cell) -> str:
    """Return the images on which a cell's epoch is chosen: ``test`` in the paper's protocol, else ``holdout``."""
    return "test" if recipe_of(cell).protocol == "paper" else "holdout"


def reported_top1(row: Row) -> float:
    """Return the accuracy that tables give: on test of the chosen epoch; in the paper's protocol of the best one on test."""
    value: float = row["test_top1"] if row["best_test_top1"] is None else row["best_test_top1"]
    return value


@dataclass(frozen=True)
class Group:
    """The runs of an arm on one data set at one depth, and those of its plain twin; a plain arm is its own."""

    rows: Sequence[Row]
    twin: Sequence[Row]

    @property
    def top1(self) -> list[float]:
        """The reported accuracies."""
        return [reported_top1(row) for row in self.rows]

    def pairs(self) -> list[tuple[Row, Row]]:
        """Runs of the seeds that both have; a plain arm has none."""
        others = {row["seed"]: row for row in self.twin}
        is_plain = ARMS[self.rows[0]["net"]].twin is None
        return [] if is_plain else [(row, others[row["seed"]]) for row in self.rows if row["seed"] in others]


@dataclass(frozen=True)
class Column:
    """A column: its name in the summary, its heading, what it measures, and the text of that, a dash for None.

    ``head`` may differ by the images on which the epoch is chosen, and is None where the column is then left out.
    """

    key: str
    head: str | Mapping[str, str | None]
    measure: Callable[[Group], Any]
    text: Callable[[Any], str] = str
    brief: bool = False  # a terminal shows it too

    def heading(self, selected: str) -> str | None:
        """Return the heading, by the images on which the epoch is chosen."""
        return self.head if isinstance(self.head, str) else self.head[selected]

    def cell(self, about: Mapping[str, Any]) -> str:
        """Return the text of an arm."""
        value = about[self.key]
        return "-" if value is None else self.text(value)


def _points(value: Any) -> str:
    return interval_text(value, 2)


def _seconds(rows: Sequence[Row]) -> float | None:
    known = [row["median_epoch_seconds"] for row in rows if row["median_epoch_seconds"]]
    return statistics.median(known) if known else None


def _time_ratio(group: Group) -> float | None:
    others = {row["seed"]: row["median_epoch_seconds"] for row in group.twin}
    pairs = [(row["median_epoch_seconds"], others.get(row["seed"])) for row in group.rows]
    ratios = [own / other for own, other in pairs if own and other]
    return statistics.median(ratios) if ratios else None


def _gain(group: Group) -> Any:
    pairs = group.pairs()
    return paired_interval([reported_top1(own) for own, _ in pairs], [reported_top1(o) for _, o in pairs]) if pairs else None


def _extra(group: Group) -> int | None:
    first = group.rows[0]
    known = ARMS[first["net"]].has_term and group.twin
    return first["parameters"] - group.twin[0]["parameters"] if known else None


def _drop(group: Group) -> Any:
    removed = [row for row in group.rows if row["removed_top1"] is not None]
    kept, left = ([row[name] for row in removed] for name in ("whole_top1", "removed_top1"))
    return paired_interval(kept, left) if removed else None


def _held_out(group: Group) -> float | None:
    known = [row["holdout_top1"] for row in group.rows if row["holdout_top1"] is not None]
    return statistics.fmean(known) if known else None


def _last_top1(group: Group) -> Any:
    return mean_interval([row["test_top1"] for row in group.rows]) if selected_on(group.rows[0]) == "test" else None


TITLE = Column("title", "network", lambda group: title_of(group.rows[0]), brief=True)
DATA = Column("data", "data", lambda group: group.rows[0]["data"])
PARAMETERS = Column("parameters", "parameters", lambda group: group.rows[0]["parameters"], "{:,}".format)
MACS = Column("macs", "MMACs", lambda group: group.rows[0]["macs"], lambda value: f"{value / 1e6:.1f}")
EPOCH_SECONDS = Column("epoch_seconds", "s an epoch", lambda group: _seconds(group.rows), "{:.1f}".format)
ACCURACY = (
    Column(
        "top1",
        {"holdout": "test top-1 [%]", "test": "best test epoch [%]"},
        lambda group: mean_interval(group.top1),
        _points,
        brief=True,
    ),
    Column("last_top1", {"holdout": None, "test": "last epoch [%]"}, _last_top1, _points),
)
HELD_OUT = Column("mean_holdout_top1", "held-out", _held_out, "{:.2f}".format)
N = Column("n", "n", lambda group: len(group.rows), brief=True)
BROKEN_OFF = Column("failed", "broken off", lambda group: sum(row["failed"] is not None for row in group.rows))
TIME_RATIO = Column("time_ratio", "time to a", _time_ratio, "{:.2f}".format)
EXTRA = Column("extra", "of the term", _extra, "{:,}".format)
GAIN = Column("gain", "over its plain twin", _gain, _points, brief=True)
DROP = Column("drop", "drop at A = 0", _drop, _points)
PAPER = Column("paper", "the paper", lambda group: "not available as text")
