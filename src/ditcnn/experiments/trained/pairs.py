"""Differences of arms, paired by seed: their intervals and tests, the table of them, and the picture beside the arms."""

from collections.abc import Mapping, Sequence
from typing import Any

from ditcnn.analysis.figures import COLOURS
from ditcnn.analysis.intervals import Interval, paired_interval
from ditcnn.analysis.power import detectable_difference, holm, paired_p_value, spread_bounds
from ditcnn.experiments.engine.drawing import Axes, Figures, new_figure
from ditcnn.experiments.engine.experiment import Row
from ditcnn.experiments.engine.tables import Table, interval_text
from ditcnn.experiments.trained.columns import reported_top1

__all__ = ["Pair", "compare_pairs", "draw_pairs", "pairs_table", "top1_of"]

Pair = tuple[str, str]  # two arms, by the names that they have in the comparison


def top1_of(rows: Sequence[Row], net: str) -> list[float]:
    """Return an arm's reported accuracies, in the order of the seeds."""
    own = sorted((row for row in rows if row["net"] == net), key=lambda row: row["seed"])
    return [reported_top1(row) for row in own]


def compare_pairs(
    top1: Mapping[str, Sequence[float]], pairs: Sequence[Pair], corrected: Sequence[Pair] = ()
) -> dict[str, dict[str, Any]]:
    """Return each difference with its interval, t-test and power; ``corrected`` pairs have Holm's correction among them."""
    p_values = {f"{x} - {y}": paired_p_value(top1[x], top1[y]) for x, y in (*pairs, *corrected)}
    adjusted = holm({f"{x} - {y}": p for x, y in corrected if (p := p_values[f"{x} - {y}"]) is not None})
    tested = {}
    for first, second in (*pairs, *corrected):
        name = f"{first} - {second}"
        differences = [x - y for x, y in zip(top1[first], top1[second], strict=True)]
        spread = spread_bounds(differences)[0] if len(differences) > 1 else None
        tested[name] = {
            "interval": paired_interval(top1[first], top1[second]),
            "ahead": sum(difference > 0 for difference in differences),
            "p": p_values[name],
            "p_holm": adjusted.get(name),
            "spread": spread,
            "detectable": detectable_difference(spread, len(differences)) if spread else None,
        }
    return tested


def pairs_table(tested: Mapping[str, Mapping[str, Any]]) -> Table:
    """Return the table of what `compare_pairs` gave."""
    rows = [
        [name, interval_text(own["interval"], 2), own["interval"].n, own["ahead"]]
        + ["-" if own[key] is None else f"{own[key]:.3f}" for key in ("p", "p_holm")]
        + ["-" if own[key] is None else f"{own[key]:.2f}" for key in ("spread", "detectable")]
        for name, own in tested.items()
    ]
    head = ["difference", "points [95% interval]", "n", "ahead", "p", "p, Holm", "spread", "detectable at 80%"]
    return Table(head, rows, brief=(0, 1, 2, 4, 5))


def draw_pairs(
    top1: Mapping[str, Sequence[float]], means: Mapping[str, Interval], tested: Mapping[str, Mapping[str, Any]], title: str
) -> Figures:
    """Return the arms' accuracies beside their differences: a point a seed, and means with their intervals."""
    figure, panels = new_figure(7, 2.8, 1, 2)
    left, right = panels[0]
    for at, (arm, values) in enumerate(top1.items()):
        _values(left, at, values, means[arm], COLOURS[at])
        left.text(-0.02, at, arm, transform=left.get_yaxis_transform(), ha="right", va="center")
    left.set(yticks=[], xlabel="test top-1 accuracy [%]", title=title)
    for at, (name, own) in enumerate(tested.items()):
        first, second = (top1[arm] for arm in name.split(" - "))
        _values(right, at, [x - y for x, y in zip(first, second, strict=True)], own["interval"], COLOURS[6])
    right.axvline(0, color="0.5", linewidth=0.8)
    right.set(yticks=range(len(tested)), xlabel="paired difference [points], 95% interval", title="differences")
    right.set_yticklabels(list(tested))
    for axes in (left, right):
        axes.invert_yaxis()
        axes.margins(y=0.15)
    return {"": figure}


def _values(axes: Axes, at: int, values: Sequence[float], interval: Interval, colour: str) -> None:
    axes.plot(values, [at] * len(values), linestyle="", marker="o", alpha=0.5, color=colour)
    ends = [interval.mean] * 2 if interval.low is None or interval.high is None else [interval.low, interval.high]
    axes.plot(ends, [at + 0.2] * 2, color=colour, linestyle="-", marker="")
    axes.plot([interval.mean], [at + 0.2], color=colour, marker="|", markersize=9)
