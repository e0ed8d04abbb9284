"""The pictures of figure 6: eigenvectors as images, and spectra."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ditcnn.analysis.figures import line_style
from ditcnn.experiments.engine.drawing import Axes, Figure, Figures, new_figure, plain_picture
from ditcnn.experiments.engine.experiment import Row, Summary
from ditcnn.experiments.fig2.experiment import SETS

__all__ = ["LABELS", "draw", "set_title"]

LABELS = {"true": "true labels", "permuted": "permuted labels"}
_TITLES = SETS | {"cifar10": "CIFAR-10", "digits": "scikit-learn's digits"}


def set_title(part: Mapping[str, Any]) -> str:
    """Return what a part's images are called."""
    name: str = part["set"]
    return _TITLES.get(name, name)


def draw(summary: Summary, rows: Sequence[Row]) -> Figures:
    """Return the pictures of eigenvectors, and the spectra."""
    shown = [row for row in rows if row.get("pictures")]
    figures = {"" if not number else row["set"]: _pictures(row) for number, row in enumerate(shown)}
    return figures | {"spectra": _spectra(summary)}


def _pictures(row: Row) -> Figure:
    figure, panels = new_figure(7, 1.9, 2, len(row["pictures"]))
    for column, pair in enumerate(row["pictures"]):
        cosine = abs(sum(a * b for a, b in zip(*pair, strict=True)))
        for axes, vector in zip(panels[:, column], pair, strict=True):
            largest = max(map(abs, vector))
            plain_picture(axes, np.reshape(vector, (row["height"], -1)), cmap="gray", vmin=-largest, vmax=largest)
        panels[0][column].set_title(f"class {column}", fontsize=8)
        panels[1][column].set_xlabel(f"{cosine:.2f}", fontsize=8)
    panels[0][0].set_ylabel("of $S_j$", fontsize=8)
    panels[1][0].set_ylabel("of $A_j$", fontsize=8)
    figure.supxlabel("cosine; grey is zero, black negative, white positive", fontsize=8)
    return figure


def _spectra(summary: Summary) -> Figure:
    name, title = summary["pixels"][0]["set"], set_title(summary["pixels"][0])
    pixels = {p["labels"]: p for p in summary["pixels"] if p["set"] == name}
    figure, panels = new_figure(7, 5.2, 2, 2)
    true = pixels["true"]
    curves = {"own class's A": true["by_rank"], "other classes' A": true["by_rank_other"]}
    if "permuted" in pixels:
        curves["A from permuted labels"] = pixels["permuted"]["by_rank"]
    _ranks(panels[0][0], curves, true, "eigenvector of $S_j$, by variance")
    panels[0][0].set(title=f"{title}: pixels", ylabel="best |cosine| with A")
    forms = panels[0][1]
    for index, labels in enumerate(pixels):
        spectrum = pixels[labels]["form_spectrum"]
        style = line_style((0, 2)[index]) | {"marker": ""}
        forms.plot(range(1, len(spectrum) + 1), spectrum, **style, label=LABELS[labels])
    forms.set(title=f"{title}: spectrum of $A_j$", xlabel="eigenvalue, ascending", ylabel="eigenvalue / largest magnitude")
    forms.legend()
    if (channels := summary["channels"]) is not None:
        title = f"Dit-ResNet-20, {set_title(channels)}: channels"
        _ranks(panels[1][0], {"trained A": channels["by_rank"]}, channels, "eigenvector of S, by variance")
        panels[1][0].set(title=title, ylabel="best |cosine| with A")
        along, axes = channels["variance_along"], panels[1][1]
        axes.plot(range(1, len(along) + 1), along, **line_style(0), label="trained A")
        axes.axhline(1, color="black", linewidth=0.8, label="random direction")
        axes.set(title=title, xlabel="eigenvector of A, by |eigenvalue|", ylabel="variance along it / mean variance")
        axes.legend()
    return figure


def _ranks(axes: Axes, curves: dict[str, list[float]], about: Mapping[str, Any], label: str) -> None:
    for index, (name, values) in enumerate(curves.items()):
        axes.plot(range(1, len(values) + 1), values, **line_style(index) | {"markersize": 2.5}, label=name)
    last = max(len(values) for values in curves.values())
    chance = "chance: mean, 95% point of a pair"
    axes.fill_between([1, last], 0, [about["chance_95"]] * 2, color="0.85", linewidth=0, label=chance)
    axes.axhline(about["chance"], color="0.4", linewidth=0.8)
    axes.set(xlabel=label, ylim=(0, 1))
    axes.legend()
