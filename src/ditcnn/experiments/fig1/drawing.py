"""The pictures of figure 1: boundaries in the plane, gaps against sample size, nearness of A."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ditcnn.analysis.figures import COLOURS, line_style
from ditcnn.analysis.normal import Quadratic
from ditcnn.experiments.engine.drawing import Axes, Figure, Figures, new_figure
from ditcnn.experiments.engine.experiment import Row, Summary
from ditcnn.experiments.fig1.descent import FORWARDS
from ditcnn.experiments.fig1.two_normals import plane_problem

__all__ = ["METHODS", "draw"]

METHODS = {"neuron": "quadratic neuron", "mlp": "MLP", "qda": "QDA"}
_LIMIT = 3.6  # of the plane that is drawn
_MOST_POINTS = 200  # drawn


def draw(summary: Summary, rows: Sequence[Row]) -> Figures:
    """Return the three figures."""
    learnt = {(r["covariances"], r["size"], r["method"]): r["parameters"] for r in rows if "parameters" in r}
    figures = {"": _boundaries(summary["plane"], learnt), "gap": _gaps(summary["space"])}
    return figures | {"matrix": _nearness(summary["space"])}


def _boundaries(results: list[dict[str, Any]], learnt: dict[tuple[str, int, str], dict[str, Any]]) -> Figure:
    from matplotlib.lines import Line2D

    sizes = sorted({r["size"] for r in results})
    families = list(dict.fromkeys(r["covariances"] for r in results))
    figure, panels = new_figure(7, 2.05 * len(families) + 0.6, len(families), len(sizes), sharex=True, sharey=True)
    for result in results:
        axes = panels[families.index(result["covariances"]), sizes.index(result["size"])]
        own = {name: found for name in METHODS if (found := learnt.get((result["covariances"], result["size"], name)))}
        _boundary_panel(axes, result, own)
    for row, family in zip(panels, families, strict=True):
        row[0].set_ylabel(f"{family} covariances\n$x_2$ [standard deviations]")
    for axes in panels[-1]:
        axes.set_xlabel("$x_1$ [standard deviations]" if len(sizes) < 4 else "$x_1$ [std. dev.]")
    runs = results[0]["bayes"][3]
    what = ", ".join(METHODS.values())
    figure.supxlabel(f"gaps: points below Bayes accuracy of {what}; means of {runs} runs, the first is drawn", fontsize=8)
    handles = [Line2D([], [], color="black", linewidth=2.4, alpha=0.5, label="Bayes, closed form")]
    handles += [Line2D([], [], **_plain(i), label=name) for i, name in enumerate(METHODS.values())]
    handles += [
        Line2D([], [], linestyle="", marker=m, color=c, markersize=3, label=f"class {n}")
        for n, (m, c) in enumerate((("o", COLOURS[4]), ("x", COLOURS[5])))
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=6, columnspacing=1.2, handlelength=2.2)
    return figure


def _boundary_panel(axes: Axes, result: dict[str, Any], learnt: dict[str, dict[str, Any]]) -> None:
    problem = plane_problem(result["covariances"])
    x, labels = problem.sample(result["size"], 0)
    for number, (marker, colour) in enumerate((("o", COLOURS[4]), ("x", COLOURS[5]))):
        points = x[labels == number][: _MOST_POINTS // 2]
        axes.plot(*points.T.numpy(), marker, color=colour, markersize=2.5, alpha=0.6, zorder=1, linestyle="")
    line = torch.linspace(-_LIMIT, _LIMIT, 201, dtype=torch.float64)
    grid = torch.cartesian_prod(line, line)
    functions: list[tuple[Callable[[Tensor], Tensor], dict[str, Any]]]
    functions = [(problem.bayes().at, {"colors": "black", "linewidths": 2.4, "alpha": 0.5})]
    for index, name in enumerate(METHODS):
        if name in learnt:
            style = _plain(index)
            function = _function(name, learnt[name])
            functions.append((function, {"colors": style["color"], "linestyles": [style["linestyle"]], "linewidths": 1.4}))
    for function, style in functions:
        values = function(grid).reshape(201, 201).T
        axes.contour(line.numpy(), line.numpy(), values.numpy(), levels=[0.0], zorder=3, **style)
    gaps = ", ".join(f"{result['gap'][name][0]:.1f}" for name in METHODS)
    axes.set_title(f"{result['size']:,} training points\ngaps {gaps}", fontsize=8)
    axes.set(xlim=(-_LIMIT, _LIMIT), ylim=(-_LIMIT, _LIMIT), aspect="equal")
    axes.grid(False)


def _function(method: str, parameters: dict[str, Any]) -> Callable[[Tensor], Tensor]:
    """Return the decision function that a cell recorded."""
    p = {name: torch.tensor(value, dtype=torch.float64) for name, value in parameters.items()}
    if method == "qda":
        return Quadratic(p["a"], p["w"], p["b"]).at
    return lambda x: FORWARDS[method](p, x[None])[0]


def _plain(index: int) -> dict[str, Any]:
    return {key: value for key, value in line_style(index).items() if key != "marker"}


def _gaps(results: list[dict[str, Any]]) -> Figure:
    families = list(dict.fromkeys(r["covariances"] for r in results))
    columns = [2, 8, 32, 64] if any(r["dims"] == 64 for r in results) else sorted({r["dims"] for r in results})
    figure, panels = new_figure(7, 1.9 * len(families) + 0.5, len(families), len(columns), sharex=True, sharey=True)
    for row, family in zip(panels, families, strict=True):
        for axes, dims in zip(row, columns, strict=True):
            chosen = [r for r in results if r["covariances"] == family and r["dims"] == dims]
            if not chosen:
                axes.set_axis_off()
                continue
            for index, name in enumerate(METHODS):
                _curve(axes, chosen, "gap", name, index, METHODS[name])
            axes.set(title=f"{family}, {dims}-D", xscale="log", yscale="log", ylim=(5e-3, 60))
            _size_ticks(axes, results)
            if axes in panels[-1] or family == families[-1]:
                axes.set_xlabel("training points")
        row[0].set_ylabel("gap to Bayes [points]")
    figure.legend(*panels[0][0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return figure


def _nearness(results: list[dict[str, Any]]) -> Figure:
    chosen = [r for r in results if "cosine" in r]
    figure, grid = new_figure(7, 3.0, 1, 4, sharex=True)
    panels = grid[0]
    for column, (measure, label) in enumerate((("cosine", "cosine with the optimum"), ("distance", "relative distance"))):
        for half, method in enumerate(("neuron", "qda")):
            axes = panels[2 * column + half]
            for index, dims in enumerate(sorted({r["dims"] for r in chosen})):
                curve = [r for r in chosen if r["dims"] == dims]
                _curve(axes, curve, measure, method, index, f"{dims}")
            axes.set(title=METHODS[method], xscale="log", xlabel="training points", ylabel=f"A: {label}")
            _size_ticks(axes, results)
            if measure == "distance":
                axes.set(yscale="log", ylim=(0.02, 20))
            else:
                axes.set_ylim(-0.05, 1.05)
    handles = panels[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside upper center", ncols=6, title="dimensions")
    return figure


def _curve(axes: Axes, results: list[dict[str, Any]], measure: str, method: str, index: int, label: str) -> None:
    """Plot means over sample size, with a band from the least to the largest over seeds."""
    known = [r for r in results if r[measure][method] is not None]
    sizes = [r["size"] for r in known]
    axes.plot(sizes, [r[measure][method][0] for r in known], **line_style(index), label=label)
    low, high = ([r["bounds"][measure][method][end] for r in known] for end in (0, 1))
    axes.fill_between(sizes, low, high, color=COLOURS[index], alpha=0.15, linewidth=0)


def _size_ticks(axes: Axes, results: list[dict[str, Any]]) -> None:
    """Mark the sizes that were run, and no others."""
    sizes = sorted({r["size"] for r in results})
    axes.set_xticks(sizes, [f"{size // 1000}k" if size % 1000 == 0 else str(size) for size in sizes])
    axes.set_xticks([], minor=True)
