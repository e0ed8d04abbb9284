"""What comparisons of trained networks share: their cells, an arm's run, the summary of arms and pairs, the table."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from ditcnn.analysis.intervals import Interval, paired_interval
from ditcnn.cost import cost_of
from ditcnn.data import ImageData, ImageSet
from ditcnn.experiments.arms import ARMS, Schedule, recipe_of
from ditcnn.experiments.engine.experiment import Cell, Context, Experiment, Numbers, Plan, Row, Summary, grouped
from ditcnn.experiments.engine.tables import Table
from ditcnn.experiments.engine.training import Run, build
from ditcnn.experiments.trained.columns import Column, Group, reported_top1, selected_on
from ditcnn.system.environment import short_commit

__all__ = [
    "Training", "arms_table", "figures_of", "made_images", "notes", "paired", "run_arm", "run_of", "summarise_arms",
    "taken_over_text", "trained_experiment",
]  # fmt: skip

_ACCURACY_OF = {  # by the images on which the epoch is chosen
    "holdout": "Accuracy is of the epoch chosen on held-out images, tested once.",
    "test": "Accuracy is of the best epoch on test, as the paper's; that of the last epoch stands beside it.",
}


@dataclass(frozen=True)
class Training:
    """Which arms are trained, and how; an arm named in ``most_seeds`` has no more seeds than that."""

    schedule: Schedule
    arms: tuple[str, ...]
    depths: tuple[int, ...] = (20,)
    sets: tuple[str, ...] = ("cifar10",)
    most_seeds: Mapping[str, int] = field(default_factory=dict)

    def cells(self, plan: Plan["Training"]) -> list[Cell]:
        """Enumerate the runs, all arms of a seed before the next seed, so that a slow hour hits all arms."""
        return [
            {"data": data, "net": arm, "depth": depth, "schedule": self.schedule, "seed": seed}
            for seed in range(plan.seeds)
            for data in self.sets
            if data in plan.sets
            for depth in self.depths
            for arm in self.arms
            if seed < self.most_seeds.get(arm, plan.seeds)
        ]


def trained_experiment(measure: str | None = None, **parts: Any) -> Experiment[Training]:
    """Return an experiment whose cells train an arm each; ``measure`` marks cells that measure something else of a run."""
    mark = {} if measure is None else {"measure": measure}
    defaults: dict[str, Any] = {"run": run_arm, "needs": ("cifar10",), "make_data": made_images, "cost": _cost}
    return Experiment(cells=lambda plan: [cell | mark for cell in plan.settings.cells(plan)], **(defaults | parts))


def _cost(cell: Cell) -> float:
    return float(recipe_of(cell).epochs * cell["depth"]) * ARMS[cell["net"]].cost


def made_images(name: str) -> ImageData:
    """Return 66 training and 30 test images of 32x32 in three classes that differ in brightness, with noise; for smoke."""
    draw = torch.Generator().manual_seed(0)

    def part(count: int) -> ImageSet:
        labels = torch.arange(count) % 3
        noise = torch.randint(0, 90, (count, 3, 32, 32), generator=draw)
        return ImageSet((70 * labels[:, None, None, None] + noise).to(torch.uint8), labels)

    return ImageData(part(66), part(30), ("dark", "grey", "bright"))


def run_of(cell: Cell, context: Context) -> Run:
    """Return the run of a cell's arm: trained now, or by whichever experiment needed it first."""
    return context.runs.train(recipe_of(cell), context.images(cell["data"]), context.progress)


def run_arm(cell: Cell, context: Context) -> Numbers:
    """Train a cell's arm; return its figures."""
    return figures_of(run_of(cell, context), cell, context)


def figures_of(run: Run, cell: Cell, context: Context) -> Numbers:
    """Return the figures of a cell's run.

    Accuracies in percent: ``test_top1`` and ``holdout_top1`` (in the paper's protocol ``best_test_top1``) of epoch
    ``selected_epoch``, ``epoch_top1`` after each epoch on the images watched; ``epoch_train_loss`` in nats; MACs of one
    image. ``failed`` says why a run broke off; its accuracies are then chance, but for ``epoch_top1``, which is of the
    epochs it finished. ``run`` is what `RunStore.record` says.
    """
    data, result, watched = context.images(cell["data"]), run.result, selected_on(cell)
    if run.failed is not None:
        chosen_by = "best_test_top1" if watched == "test" else "holdout_top1"
        result = dict.fromkeys(("test_top1", chosen_by), 100 / len(data.classes)) | {"selected_epoch": 0}
    cost = cost_of(build(recipe_of(cell), data), data.image_shape, 2)
    seconds = [line["seconds"] for line in run.epochs]
    return {
        "test_top1": result["test_top1"],
        "best_test_top1": result.get("best_test_top1"),
        "holdout_top1": result.get("holdout_top1"),
        "selected_epoch": result["selected_epoch"],
        "epoch_top1": [line[f"{watched}_top1"] for line in run.epochs],
        "epoch_train_loss": [line["train_loss"] for line in run.epochs],
        "epoch_seconds": seconds,
        "median_epoch_seconds": statistics.median(seconds) if seconds else None,
        "parameters": cost.parameters,
        "macs": cost.macs,
        "macs_executed": cost.macs_executed,
        "failed": run.failed,
        "run": context.runs.record(run),
    }


def summarise_arms(rows: Sequence[Row], columns: Sequence[Column], of: Sequence[Row] | None = None) -> Summary:
    """Return what the columns measure of each arm (of its rows in ``of``), in their order, and where the runs are from."""
    measured = rows if of is None else of
    groups = grouped(sorted(measured, key=lambda row: row["seed"]), "data", "depth", "net")
    arms = []
    for data, depth, net in grouped(measured, "data", "depth", "net"):
        own = groups[data, depth, net]
        group = Group(own, groups.get((data, depth, ARMS[net].twin or net), []))
        about = {"arm": net, "data": data, "depth": depth}
        arms.append(about | {column.key: column.measure(group) for column in columns})
    return {"selected_on": selected_on(rows[0]), "taken_over": _taken_over(rows), "arms": arms}


def arms_table(summary: Summary, columns: Sequence[Column]) -> Table:
    """Return the table of the arms."""
    shown = [column for column in columns if column.heading(summary["selected_on"]) is not None]
    head = [str(column.heading(summary["selected_on"])) for column in shown]
    rows = [[column.cell(arm) for column in shown] for arm in summary["arms"]]
    return Table(head, rows, [number for number, column in enumerate(shown) if column.brief])


def paired(rows: Sequence[Row], first: str, second: str) -> Interval | None:
    """Return the difference of two arms' accuracies, paired over the seeds that both have; None where there are none."""
    own, other = ({row["seed"]: reported_top1(row) for row in rows if row["net"] == net} for net in (first, second))
    seeds = sorted(own.keys() & other.keys())
    return paired_interval([own[seed] for seed in seeds], [other[seed] for seed in seeds]) if seeds else None


def notes(summary: Summary, about: str, more: str = "") -> str:
    """Return what stands below a table: of which epoch accuracies are, what they are, runs broken off or taken over."""
    count = sum(arm["failed"] for arm in summary["arms"])
    broken = f"Runs broken off, as their loss was not finite ({count}), count with the accuracy of chance." if count else ""
    return " ".join(filter(None, [_ACCURACY_OF[summary["selected_on"]], about, broken, more, taken_over_text(summary)]))


def _taken_over(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return how many runs of the rows each other experiment trained, and by which commits."""
    found: dict[str, dict[str, list[Any]]] = {}
    for run in (row["run"] for row in rows if "run" in row):
        if run["taken_over"]:
            found.setdefault(run["trained_by"], {})[run["folder"]] = [launch["commit"] for launch in run["launches"]]
    return [
        {
            "experiment": name,
            "runs": len(runs),
            "commits": sorted({str(c or "unknown") for own in runs.values() for c in own}),
        }
        for name, runs in found.items()
    ]


def taken_over_text(summary: Summary) -> str:
    """Return a sentence on runs that other experiments trained, or an empty text.

    >>> taken_over_text({"taken_over": [{"experiment": "comparison", "runs": 15, "commits": ["0123456789abcdef"]}]})
    '15 runs taken over from comparison (commit 0123456789ab).'
    """
    return " ".join(
        f"{own['runs']} run{'s' * (own['runs'] != 1)} taken over from {own['experiment']} "
        f"(commit {', '.join(short_commit(commit) for commit in own['commits'])})."
        for own in summary["taken_over"]
    )
