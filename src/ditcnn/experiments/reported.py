"""The accuracy that tables report of a trained network: of which epoch, chosen on what, and under which heading."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ditcnn.analysis.intervals import Interval, mean_interval
from ditcnn.experiments.experiment import Cell, Row
from ditcnn.experiments.nets import recipe_of
from ditcnn.experiments.record import interval_text

__all__ = [
    "ACCURACY_OF",
    "accuracies",
    "accuracy_heads",
    "accuracy_texts",
    "broken_off_text",
    "reported_top1",
    "selected_on",
]

ACCURACY_OF = {  # by the images on which the epoch is chosen
    "holdout": "Accuracy is of the epoch chosen on held-out images, tested once.",
    "test": "Accuracy is of the best epoch on test, as the paper's; that of the last epoch stands beside it.",
}


def selected_on(cell: Cell) -> str:
    """Return the images on which a cell's epoch is chosen: ``test`` in the paper's protocol, else ``holdout``."""
    return "test" if recipe_of(cell).protocol == "paper" else "holdout"


def reported_top1(row: Row) -> float:
    """Return the accuracy that tables give: on test of the chosen epoch; in the paper's protocol of the best one on test."""
    value: float = row["test_top1"] if row["best_test_top1"] is None else row["best_test_top1"]
    return value


def accuracies(rows: Sequence[Row]) -> dict[str, Interval | None]:
    """Return the reported accuracy of runs that differ by their seed, and in the paper's protocol that of the last epoch."""
    last = mean_interval([row["test_top1"] for row in rows]) if selected_on(rows[0]) == "test" else None
    return {"top1": mean_interval([reported_top1(row) for row in rows]), "last_top1": last}


def accuracy_heads(selected: str) -> list[str]:
    """Return the headings of `accuracy_texts`."""
    return ["best test epoch [%]", "last epoch [%]"] if selected == "test" else ["test top-1 [%]"]


def accuracy_texts(own: Mapping[str, Any], selected: str) -> list[str]:
    """Return the cells of a table for what `accuracies` returned."""
    names = ("top1", "last_top1") if selected == "test" else ("top1",)
    return [interval_text(own[name], 2) for name in names]


def broken_off_text(nets: Iterable[Mapping[str, Any]]) -> str:
    """Return a sentence on runs of networks that broke off, ``failed`` of each, or an empty text.

    >>> broken_off_text([{"failed": 1}, {"failed": 2}])
    'Runs broken off, as their loss was not finite (3), count with the accuracy of chance. '
    """
    count = sum(own["failed"] for own in nets)
    return f"Runs broken off, as their loss was not finite ({count}), count with the accuracy of chance. " if count else ""
