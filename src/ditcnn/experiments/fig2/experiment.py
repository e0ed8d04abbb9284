"""Figure 2: digits from few images, by ten quadratic neurons and by others on the same images."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ditcnn.analysis.figures import COLOURS, line_style
from ditcnn.analysis.intervals import mean_interval, paired_interval
from ditcnn.data import ImageData, ImageSet
from ditcnn.experiments.engine.drawing import Axes, Figures, new_figure
from ditcnn.experiments.engine.experiment import Budget, Cell, Context, Experiment, Numbers, Plan, Row, Summary, grouped
from ditcnn.experiments.engine.tables import Block, Table, interval_text
from ditcnn.experiments.fig2.few_shot import discriminant_hits, logistic_hits, make_network, share, trained_hits, vectors

__all__ = ["FIG2", "SETS", "made_digits"]

METHODS = {
    "neuron": "10 quadratic neurons",
    "mlp": "MLP",
    "low_rank": "low-rank quadratic layer",
    "logistic": "logistic regression",
    "qda": "QDA with shrinkage",
}
RIVALS = tuple(METHODS)[1:]
SETS = {"mnist": "MNIST", "arabic_digits": "Arabic digits"}


@dataclass(frozen=True)
class Settings:
    """The paper's: plain SGD at rate 0.1, batches of 100, 20 epochs, 8,000 hidden units. The rank is ours."""

    fractions: tuple[float, ...]
    epochs: int = 20
    lr: float = 0.1
    batch_size: int = 100
    hidden: int = 8_000
    rank: int = 64


def _cells(plan: Plan[Settings]) -> list[Cell]:
    s = plan.settings
    trained: Cell = {"epochs": s.epochs, "lr": s.lr, "batch_size": s.batch_size}
    own = {"neuron": trained, "mlp": trained | {"width": s.hidden}, "low_rank": trained | {"width": s.rank}}
    return [
        {"set": name, "fraction": fraction, "method": method, "seed": seed} | own.get(method, {})
        for fraction, seed, name, method in itertools.product(s.fractions, range(plan.seeds), plan.sets, METHODS)
    ]


def _run(cell: Cell, context: Context) -> Numbers:
    """Train on a share of the training images; return the hits on all test images."""
    data = context.images(cell["set"])
    part = share(data.train, cell["fraction"], cell["seed"])
    x, labels, test, truth = vectors(part), part.labels, vectors(data.test), data.test.labels
    numbers: Numbers = {"train_images": len(part), "test_images": len(truth)}
    if cell["method"] == "logistic":
        return numbers | {"hits": logistic_hits(x, labels, test, truth)}
    if cell["method"] == "qda":
        return numbers | {"hits": discriminant_hits(x, labels, test, truth, len(data.classes))}
    torch.manual_seed(cell["seed"])
    network = make_network(cell["method"], x.shape[1], len(data.classes), cell.get("width", 0))
    loss, hits = trained_hits(network, x, labels, data.test, cell, context.progress)
    return numbers | {"train_loss": loss, "hits": hits}


def _summarise(rows: Sequence[Row]) -> Summary:
    """Return mean, interval and bounds of each method's accuracy, in percent, and paired differences from the neurons."""
    results = []
    for (name, fraction), chosen in grouped(rows, "set", "fraction").items():
        methods = grouped(chosen, "method")
        accuracy = {method: [100 * r["hits"] / r["test_images"] for r in own] for (method,), own in methods.items()}
        results.append(
            {
                "set": name,
                "fraction": fraction,
                "train_images": chosen[0]["train_images"],
                "accuracy": {m: mean_interval(values) for m, values in accuracy.items()},
                "bounds": {m: (min(values), max(values)) for m, values in accuracy.items()},
                "neuron_less": {m: paired_interval(accuracy["neuron"], accuracy[m]) for m in RIVALS},
            }
        )
    return {"results": results}


def _table(summary: Summary) -> list[Block]:
    head = ["images", "fraction", "training images", *METHODS.values()]
    accuracies, differences = [], []
    for r in summary["results"]:
        start = [SETS.get(r["set"], r["set"]), f"{100 * r['fraction']:g}%", r["train_images"]]
        bounds = {m: f"({low:.1f} to {high:.1f})" for m, (low, high) in r["bounds"].items()}
        accuracies.append([*start, *(f"{interval_text(r['accuracy'][m])} {bounds[m]}" for m in METHODS)])
        differences.append([*start, *(interval_text(r["neuron_less"][m]) for m in RIVALS)])
    return [
        "Test accuracy in percent after the last epoch: mean over runs, 95% interval (t), lower to upper bound.",
        Table(head, accuracies),
        "Quadratic neurons less each rival, in points, paired by run, with 95% interval (t); below zero they lose.",
        Table([*head[:3], *(f"less {METHODS[m]}" for m in RIVALS)], differences, brief=(0, 2, 3, 6)),
    ]


def _draw(summary: Summary, rows: Sequence[Row]) -> Figures:
    """Return accuracy against training images, and the differences below."""
    sets = list(dict.fromkeys(r["set"] for r in summary["results"]))
    figure, panels = new_figure(7, 5.4, 2, len(sets), sharex=True, sharey="row", height_ratios=(3, 2))
    for column, name in enumerate(sets):
        results = [r for r in summary["results"] if r["set"] == name]
        above, below = panels[0][column], panels[1][column]
        sizes = [r["train_images"] for r in results]
        for index, method in enumerate(METHODS):
            above.plot(sizes, [r["accuracy"][method][0] for r in results], **line_style(index), label=METHODS[method])
            bounds = np.array([r["bounds"][method] for r in results])
            above.fill_between(sizes, bounds[:, 0], bounds[:, 1], color=COLOURS[index], alpha=0.15, linewidth=0)
            if method != "neuron":
                _differences(below, sizes, [r["neuron_less"][method] for r in results], index)
        above.set(title=SETS.get(name, name), xscale="log")
        below.axhline(0, color="black", linewidth=0.8)
        below.set_xlabel("training images")
        below.set_xticks(sizes, [f"{size:,}" for size in sizes], rotation=30)
        below.set_xticks([], minor=True)
    panels[0][0].set_ylabel("test accuracy [%]")
    panels[1][0].set_ylabel("neurons less rival\n[points]")
    figure.legend(*panels[0][0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return {"": figure}


def _differences(axes: Axes, sizes: list[int], intervals: list[Any], index: int) -> None:
    means = [interval[0] for interval in intervals]
    if intervals[0][1] is None:
        axes.plot(sizes, means, **line_style(index))
    else:
        errors = [interval[2] - interval[0] for interval in intervals]
        axes.errorbar(sizes, means, errors, **line_style(index), capsize=2, elinewidth=0.8)


def _cost(cell: Cell) -> float:
    """Return a cell's relative time: steps of the networks, pixels of MNIST assumed."""
    if cell["method"] in ("logistic", "qda"):
        return 5 + 100 * float(cell["fraction"])
    per_image = {"neuron": 1.0, "mlp": float(cell.get("width", 0)) / 8_000, "low_rank": 0.05}[cell["method"]]
    return 1 + 36 * float(cell["fraction"]) * float(cell["epochs"]) * per_image


def made_digits(name: str) -> ImageData:
    """Return small made images whose classes have equal means and differ in their covariances alone."""
    draw = torch.Generator().manual_seed(len(name))
    roots = torch.randn(3, 36, 4, generator=draw)

    def part(count: int) -> ImageSet:
        labels = torch.arange(count) % 3
        pixels = torch.einsum("ncr,nr->nc", roots[labels], torch.randn(count, 4, generator=draw))
        return ImageSet((128 + 30 * pixels).clamp(0, 255).byte().reshape(count, 1, 6, 6), labels)

    return ImageData(part(600), part(300), ("0", "1", "2"))


_SMOKE = Settings((0.1, 1.0), hidden=20, rank=4)
_QUICK = "Fractions up to 10% instead of 100%, 3 runs instead of 10; all else as in the paper."
_FULL = Settings((0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0))
FIG2 = Experiment(
    name="fig2",
    shows="ten quadratic neurons learn digits from few images, against an MLP and rivals on the same images",
    budgets={
        "smoke": Budget(_SMOKE, 1, "6x6 images that are made, 20 hidden units, one run.", "11 s"),
        "quick": Budget(Settings((0.001, 0.003, 0.01, 0.03, 0.1)), 3, _QUICK, "about 17 min"),
        "full": Budget(_FULL, 10, "The paper's setting: up to 100%, ten runs."),
    },
    cells=_cells,
    run=_run,
    summarise=_summarise,
    table=_table,
    draw=_draw,
    needs=("mnist", "arabic_digits"),
    make_data=made_digits,
    cost=_cost,
)
