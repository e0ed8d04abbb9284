"""The pictures of ``correlations``: accuracy against samples and strength, ratios of samples, and some of the images."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from ditcnn.analysis.figures import COLOURS, line_style
from ditcnn.analysis.stationary import sample_images
from ditcnn.experiments.correlations.colour_fields import CLASSES, FAMILIES, cross_spectra
from ditcnn.experiments.engine.drawing import Axes, Figure, Figures, new_figure, plain_picture
from ditcnn.experiments.engine.experiment import Row, Summary

__all__ = ["METHODS", "draw"]

METHODS = {
    "dit": "Dit-ResNet",
    "plain": "plain twin",
    "wide": "wider plain net",
    "stem": "term at the input",
    "position": "position, closed form",
    "neighbourhood": "neighbourhood, closed form",
}
_TITLES = {"channels": "channels, smooth fields", "white-channels": "channels, white fields", "neighbours": "neighbours"}
_SIGNS = ("+s in all pairs", "\u2212s with red", "\u2212s with green", "\u2212s with blue")
_CLASS_TITLES = {"channels": _SIGNS, "white-channels": _SIGNS, "neighbours": ("right", "below", "below right", "below left")}
_RATIOS = (0.5, 1, 2, 5, 10, 20, 50)
_BRIGHTNESS = 0.18  # of a standard deviation, in an image drawn


def draw(summary: Summary, rows: Sequence[Row]) -> Figures:
    """Return the three figures."""
    return {"": _curves(summary), "ratio": _ratios(summary), "images": _images(summary)}


def _curves(summary: Summary) -> Figure:
    figure, panels = new_figure(7, 5.4, 2, len(FAMILIES), sharey=True)
    for column, family in enumerate(FAMILIES):
        chosen = [a for a in summary["accuracy"] if a["family"] == family]
        optimum = {b["strength"]: b["accuracy"] for b in summary["bayes"] if b["family"] == family}
        samples, strengths = panels[0][column], panels[1][column]
        for name in METHODS:
            mine = [a for a in chosen if a["method"] == name]
            _curve(samples, [a for a in mine if a["strength"] == summary["strength"]], lambda a: a["samples"], name)
            _curve(strengths, [a for a in mine if a["samples"] == summary["fixed_samples"]], lambda a: a["strength"], name)
        samples.axhline(optimum[summary["strength"]], color="black", linewidth=1, label="Bayes optimum")
        strengths.plot(*zip(*sorted(optimum.items()), strict=True), color="black", linestyle="-", marker="", linewidth=1)
        for axes in (samples, strengths):
            axes.axhline(100 / CLASSES, color="0.5", linewidth=0.8, linestyle=(0, (1, 2)))
        counts = sorted({a["samples"] for a in chosen})
        samples.set(title=f"{_TITLES[family]}\ns = {summary['strength']:g}", xlabel="training images")
        samples.set_xscale("log", base=2)
        samples.set_xticks(counts[::2], [_count(count) for count in counts[::2]])
        strengths.set(title=f"{_count(summary['fixed_samples'])} training images", xlabel="strength of the correlation, s")
        strengths.set_xticks(sorted(optimum), [f"{strength:g}" for strength in sorted(optimum)])
    for row in panels:
        row[0].set_ylabel("accuracy on test [%]")
    figure.legend(*panels[0][0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
    return figure


def _count(samples: int) -> str:
    return f"{samples:,}".replace(",", "\u2009")


def _curve(axes: Axes, points: list[dict[str, Any]], at: Callable[[dict[str, Any]], float], name: str) -> None:
    """Plot means with their intervals as a band."""
    points = sorted(points, key=at)
    index = list(METHODS).index(name)
    places = [at(point) for point in points]
    intervals = [point["accuracy"] for point in points]
    axes.plot(places, [interval[0] for interval in intervals], **line_style(index), label=METHODS[name])
    if all(interval[1] is not None for interval in intervals):
        low, high = ([min(max(interval[i], 0), 100) for interval in intervals] for i in (1, 2))
        axes.fill_between(places, low, high, color=COLOURS[index], alpha=0.12, linewidth=0)


def _ratios(summary: Summary) -> Figure:
    names = [name for name in METHODS if name != "plain"]
    figure, panels = new_figure(7, 2.6, 1, len(FAMILIES), sharey=True, sharex=True)
    for axes, family in zip(panels[0], FAMILIES, strict=True):
        axes.axvline(1, color="black", linewidth=0.8)
        for place, name in enumerate(names):
            (found,) = (r for r in summary["ratios"] if (r["family"], r["method"]) == (family, name))
            style = line_style(list(METHODS).index(name)) | {"linestyle": "none"}
            each = [ratio for ratio in found["each"] if ratio is not None]
            axes.plot(each, [place + 0.25] * len(each), **(style | {"markersize": 2.5, "alpha": 0.6}))
            if found["ratio"] is None:
                words = "not for every seed" if each else "no shared accuracies"
                axes.annotate(words, (1, place), (4, 0), textcoords="offset points", va="center", fontsize=7)
                continue
            mean, low, high, _ = found["ratio"]
            axes.plot([mean], [place], **style)
            if low is not None:
                axes.hlines(place, low, high, color=style["color"], linewidth=1.4)
        axes.set(title=_TITLES[family], xscale="log", xlabel="samples of plain / of this")
        axes.set_xticks(_RATIOS, [f"{ratio:g}" for ratio in _RATIOS])
        axes.set_xticks([], minor=True)
        axes.set_yticks(range(len(names)), [METHODS[name] for name in names])
        axes.set_ylim(len(names) - 0.5, -0.5)
    return figure


def _images(summary: Summary) -> Figure:
    figure, panels = new_figure(7, 5.6, len(FAMILIES), CLASSES)
    for row, family in zip(panels, FAMILIES, strict=True):
        generator = torch.Generator().manual_seed(0)
        strength = min(2 * summary["strength"], 0.45)  # stronger than what the networks see, for the eye; below every limit
        spectra = cross_spectra(family, strength, 2 * summary["size"])
        images = sample_images(spectra, torch.arange(CLASSES), generator)
        for axes, image, title in zip(row, images, _CLASS_TITLES[family], strict=True):
            plain_picture(axes, (0.5 + _BRIGHTNESS * image).clamp(0, 1).permute(1, 2, 0).numpy())
            axes.set_title(title)
        row[0].set_ylabel(f"{_TITLES[family]}\ns = {strength:g}")
    return figure
