"""The pictures of comparisons of trained networks."""

from collections.abc import Mapping, Sequence
from typing import Any

from ditcnn.analysis.figures import COLOURS, line_style
from ditcnn.experiments.arms import ARMS
from ditcnn.experiments.engine.drawing import Figures, new_figure
from ditcnn.experiments.engine.experiment import Row, Summary

__all__ = ["accuracy_and_drop", "accuracy_by_parameters", "treatments"]


def accuracy_by_parameters(summary: Summary, rows: Sequence[Row]) -> Figures:
    """Return accuracy against parameters, a panel a data set and a line an arm over its depths."""
    sets = list(dict.fromkeys(arm["data"] for arm in summary["arms"]))
    figure, panels = new_figure(3.6 * len(sets) + 1, 3.0, 1, len(sets))
    for axes, data in zip(panels[0], sets, strict=True):
        for index, name in enumerate(dict.fromkeys(arm["arm"] for arm in summary["arms"])):
            own = [arm for arm in summary["arms"] if arm["data"] == data and arm["arm"] == name]
            whole = [arm for arm in own if not arm["failed"]]  # a mean with chance in it would need an axis of its own
            means, halves = [arm["top1"].mean for arm in whole], [arm["top1"].half for arm in whole]
            label = ARMS[name].title.replace("-{depth}", "") + ("" if len(whole) == len(own) else " (broken off)")
            places = [arm["parameters"] / 1e6 for arm in whole]
            axes.errorbar(places, means, halves, label=label, capsize=3, **line_style(index))
        axes.set(xlabel="parameters [millions]", ylabel="test top-1 accuracy [%]", title=data, xscale="log")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter("{x:.1g}")
    figure.legend(*panels[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return {"": figure}


def accuracy_and_drop(summary: Summary, rows: Sequence[Row]) -> Figures:
    """Return the arms' accuracies, and what taking the term out costs."""
    arms = summary["arms"]
    figure, panels = new_figure(7, 0.45 * len(arms) + 1.2, 1, 2, sharey=True)
    left, right = panels[0]
    for at, arm in enumerate(arms):
        for axes, value in ((left, arm["top1"]), (right, arm["drop"])):
            if value is not None:
                axes.errorbar(value.mean, at, xerr=value.half, marker="o", capsize=3, linestyle="", color=COLOURS[0])
    left.set(yticks=range(len(arms)), xlabel="test top-1 accuracy [%]")
    left.set_yticklabels([arm["title"] for arm in arms])
    left.invert_yaxis()
    right.set(xlabel="drop at A = 0 [points]")
    right.axvline(0, color="0.5", linewidth=0.8)
    return {"": figure}


def treatments(arms: Sequence[Mapping[str, Any]], names: Sequence[str], values: Sequence[Sequence[list[float]]]) -> Figures:
    """Return a panel an arm, with a line a run through its accuracies under each treatment.

    Args:
        arms: Of the summary.
        names: Of the treatments.
        values: For each arm, for each of its runs, the accuracies in the order of ``names``.
    """
    several = len({arm["data"] for arm in arms}) > 1
    columns = min(4, max(1, len(arms)))
    lines = max(1, -(-len(arms) // columns))
    figure, grid = new_figure(3.4 * columns, 2.8 * lines, lines, columns)
    panels = grid.ravel()
    for axes, arm, runs in zip(panels, arms, values, strict=False):
        for run in runs:
            axes.plot(range(len(names)), run, marker="o", linestyle="-", color=COLOURS[0], alpha=0.6)
        title = f"{arm['title']}, {arm['data']}" if several else arm["title"]
        axes.set(xticks=range(len(names)), ylabel="test top-1 accuracy [%]", title=title)
        axes.set_xticklabels(names)
    for axes in panels[len(arms) :]:
        axes.set_axis_off()
    return {"": figure}
