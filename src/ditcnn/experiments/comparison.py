"""The registered comparison: Dit-ResNet-20 against plain networks of equal cost. docs/protocol.md is its protocol."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ditcnn.analysis.figures import COLOURS
from ditcnn.analysis.intervals import Interval, paired_interval
from ditcnn.analysis.power import detectable_difference, holm, paired_p_value, spread_bounds
from ditcnn.experiments.context import Context
from ditcnn.experiments.experiment import Budget, Cell, Experiment, Numbers, Plan, Row, Summary
from ditcnn.experiments.nets import NETS
from ditcnn.experiments.record import interval_text, markdown_table
from ditcnn.experiments.reported import (
    ACCURACY_OF,
    accuracies,
    accuracy_heads,
    accuracy_texts,
    broken_off_text,
    reported_top1,
    selected_on,
)
from ditcnn.experiments.training import cost_of_cell, made_images, train_cell

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["ARMS", "COMPARISON"]

ARMS = {"a": "plain", "b": "dit", "c": "plain-parameters", "d": "plain-macs", "e": "dit-published"}
DEPTH = 20  # of which the widths of the arms are
CLAIM = (("b", "c"), ("b", "d"))  # both intervals above zero, or the claim does not stand
REGISTERED, FEWEST = "short", 5  # schedule and seeds, docs/protocol.md
SECONDARY = (("b", "a"), ("e", "a"), ("b", "e"))  # with Holm's correction


@dataclass(frozen=True)
class Settings:
    """How the arms are trained."""

    schedule: str


def _cells(plan: Plan[Settings]) -> list[Cell]:
    # All arms of a seed before the next seed, so that a slow hour hits all arms.
    return [
        {"data": "cifar10", "net": net, "depth": DEPTH, "schedule": plan.settings.schedule, "seed": seed}
        for seed in range(plan.seeds)
        for net in ARMS.values()
    ]


def _run(cell: Cell, context: Context) -> Numbers:
    return train_cell(cell, context, take_over=False)  # the registered runs are its own


def _summarise(rows: Sequence[Row]) -> Summary:
    by_arm = {arm: sorted((row for row in rows if row["net"] == net), key=lambda r: r["seed"]) for arm, net in ARMS.items()}
    top1 = {arm: [reported_top1(row) for row in own] for arm, own in by_arm.items()}
    p_values = {f"{x} - {y}": paired_p_value(top1[x], top1[y]) for x, y in (*CLAIM, *SECONDARY)}
    secondary = {name: p_values[name] for name in (f"{x} - {y}" for x, y in SECONDARY)}
    adjusted = holm({name: p for name, p in secondary.items() if p is not None})
    comparisons: dict[str, dict[str, Any]] = {}
    for first, second in (*CLAIM, *SECONDARY):
        name = f"{first} - {second}"
        differences = [x - y for x, y in zip(top1[first], top1[second], strict=True)]
        spread = spread_bounds(differences)[0] if len(differences) > 1 else None
        comparisons[name] = {
            "interval": paired_interval(top1[first], top1[second]),
            "differences": differences,
            "ahead": sum(difference > 0 for difference in differences),
            "p": p_values[name],
            "p_holm": adjusted.get(name),
            "spread": spread,
            "detectable": detectable_difference(spread, len(differences)) if spread else None,
        }
    return {
        "arms": {arm: _arm(own, by_arm["a"]) for arm, own in by_arm.items()},
        "comparisons": comparisons,
        "selected_on": selected_on(rows[0]),
        "verdict": verdict({name: own["interval"] for name, own in comparisons.items()}),
        "registered": rows[0]["schedule"] == REGISTERED and all(len(own) == FEWEST for own in by_arm.values()),
    }


def verdict(intervals: Mapping[str, Interval]) -> list[str]:
    """Return what docs/protocol.md has to say of the differences: of each rival, of the claim, and of its failures."""
    if min(interval.n for interval in intervals.values()) < FEWEST:
        return ["Fewer than five seeds: no verdict."]
    sentences = []
    for name in (f"{first} - {second}" for first, second in CLAIM):
        if _above(intervals[name]):
            outcome = "lies above zero: better at this schedule."
        elif _below(intervals[name]):
            outcome = "lies below zero: at equal cost, width is the better use of it."
        else:
            largest = intervals[name].high
            outcome = f"includes zero: not shown at this schedule, differences above {largest:.2f} points are excluded."
        sentences.append(f"{name} {outcome}")
    supported = all(_above(intervals[f"{first} - {second}"]) for first, second in CLAIM)
    sentences.append("The claim is supported." if supported else "The claim, which needs both above zero, is not supported.")
    if not _above(intervals["b - a"]):
        sentences.append("b - a does not lie above zero: the term is not shown to help even beside a cheaper plain network.")
    if _below(intervals["b - e"]):
        sentences.append("b - e lies below zero: the published swap helps.")
    return sentences


def _above(interval: Interval) -> bool:
    return interval.low is not None and interval.low > 0


def _below(interval: Interval) -> bool:
    return interval.high is not None and interval.high < 0


def _arm(rows: Sequence[Row], plain: Sequence[Row]) -> dict[str, object]:
    seconds = [row["median_epoch_seconds"] for row in rows]
    held = [row["holdout_top1"] for row in rows if row["holdout_top1"] is not None]
    ratios = [
        s / row["median_epoch_seconds"] for s, row in zip(seconds, plain, strict=True) if s and row["median_epoch_seconds"]
    ]
    return {
        "title": NETS[rows[0]["net"]].title.format(depth=rows[0]["depth"]),
        "parameters": rows[0]["parameters"],
        "macs": rows[0]["macs"],
        **accuracies(rows),
        "values": [reported_top1(row) for row in rows],
        "holdout_top1": [row["holdout_top1"] for row in rows],
        "mean_holdout_top1": statistics.fmean(held) if held else None,
        "epoch_seconds": statistics.median([s for s in seconds if s]) if any(seconds) else None,
        "time_ratio": statistics.median(ratios) if ratios else None,
        "failed": sum(row["failed"] is not None for row in rows),
    }


def _table(summary: Summary) -> str:
    arms = [
        [
            f"{arm}: {own['title']}", f"{own['parameters']:,}", f"{own['macs'] / 1e6:.1f}",
            *accuracy_texts(own, summary["selected_on"]), _points(own["mean_holdout_top1"]),
            _seconds(own["epoch_seconds"]), _points(own["time_ratio"]), own["failed"],
        ]
        for arm, own in summary["arms"].items()
    ]  # fmt: skip
    head = ["arm", "parameters", "MMACs", *accuracy_heads(summary["selected_on"])]
    head += ["held-out", "s an epoch", "time to a", "broken off"]
    pairs = [
        [
            name, interval_text(own["interval"], 2), own["interval"].n, own["ahead"], _p(own["p"]), _p(own["p_holm"]),
            _points(own["spread"]), _points(own["detectable"]),
        ]
        for name, own in summary["comparisons"].items()
    ]  # fmt: skip
    pair_head = ["difference", "points [95% interval]", "n", "ahead", "p", "p, Holm", "spread", "detectable at 80%"]
    note = f"{ACCURACY_OF[summary['selected_on']]} Differences are paired by seed, with 95% intervals. "
    note += broken_off_text(summary["arms"].values())
    registered = "" if summary["registered"] else " This is not the registered comparison, which is quick with five seeds."
    sentences = " ".join(summary["verdict"]) + registered
    return "\n\n".join([markdown_table(head, arms), markdown_table(pair_head, pairs), note.strip(), sentences])


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _points(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _p(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _draw(summary: Summary) -> "dict[str, Figure]":
    from matplotlib.figure import Figure  # slow to import

    figure = Figure(figsize=(7, 2.8))
    left, right = figure.subplots(1, 2)
    for at, (arm, own) in enumerate(summary["arms"].items()):
        left.plot(own["values"], [at] * len(own["values"]), linestyle="", marker="o", alpha=0.5, color=COLOURS[at])
        _bar(left, at, own["top1"], COLOURS[at])
        left.text(-0.02, at, arm, transform=left.get_yaxis_transform(), ha="right", va="center")
    left.set(yticks=[], xlabel="test top-1 accuracy [%]", title="five arms, a point a seed")
    names = list(summary["comparisons"])
    for at, name in enumerate(names):
        own = summary["comparisons"][name]
        right.plot(own["differences"], [at] * len(own["differences"]), linestyle="", marker="o", alpha=0.5, color=COLOURS[6])
        _bar(right, at, own["interval"], COLOURS[6])
    right.axvline(0, color="0.5", linewidth=0.8)
    right.set(yticks=range(len(names)), xlabel="paired difference [points], 95% interval", title="differences")
    right.set_yticklabels(names)
    for axes in (left, right):
        axes.invert_yaxis()
        axes.margins(y=0.15)
    return {"": figure}


def _bar(axes: "Axes", at: int, interval: Interval, colour: str) -> None:
    ends = [interval.mean] * 2 if interval.low is None or interval.high is None else [interval.low, interval.high]
    axes.plot(ends, [at + 0.2] * 2, color=colour, linestyle="-", marker="")
    axes.plot([interval.mean], [at + 0.2], color=colour, marker="|", markersize=9)


COMPARISON = Experiment(
    name="comparison",
    shows="whether the term helps at equal cost: Dit-ResNet-20 against widened plain networks",
    budgets={
        "smoke": Budget(Settings("smoke"), 2, "one epoch on made images: says nothing about accuracy.", "20 s"),
        "quick": Budget(
            Settings("short"), 5, "shortened to 4 epochs of CIFAR-10, as registered in docs/protocol.md.", "5.0 h"
        ),
        "full": Budget(Settings("paper"), 5, "160 epochs of CIFAR-10, selected on test, as the paper."),
    },
    cells=_cells,
    run=_run,
    summarise=_summarise,
    table=_table,
    draw=_draw,
    needs=("cifar10",),
    make_data=made_images,
    cost=cost_of_cell,
)
