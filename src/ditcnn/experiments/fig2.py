"""Figure 2: digits from few images, by ten quadratic neurons and by others on the same images."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ditcnn.analysis.figures import COLOURS, line_style
from ditcnn.analysis.intervals import mean_interval, paired_interval
from ditcnn.data import ImageData, ImageSet
from ditcnn.experiments.context import Context
from ditcnn.experiments.experiment import Budget, Cell, Experiment, Numbers, Plan, Row, Summary
from ditcnn.experiments.few_shot import (
    discriminant_hits,
    logistic_hits,
    make_network,
    network_hits,
    share,
    train_network,
    vectors,
)
from ditcnn.experiments.record import interval_text, markdown_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["FIG2", "SETS", "Fig2Settings", "made_digits"]

METHODS = {
    "neuron": "10 quadratic neurons",
    "mlp": "MLP",
    "low_rank": "low-rank quadratic layer",
    "logistic": "logistic regression",
    "qda": "QDA with shrinkage",
}
SETS = {"mnist": "MNIST", "arabic_digits": "Arabic digits"}


@dataclass(frozen=True)
class Fig2Settings:
    """The paper's: plain SGD at rate 0.1, batches of 100, 20 epochs, 8,000 hidden units. The rank is ours."""

    fractions: tuple[float, ...]
    epochs: int = 20
    lr: float = 0.1
    batch_size: int = 100
    hidden: int = 8_000
    rank: int = 64


def cells(plan: Plan[Fig2Settings]) -> list[Cell]:
    """Enumerate the cells, small fractions first."""
    s = plan.settings
    trained = {"epochs": s.epochs, "lr": s.lr, "batch_size": s.batch_size}
    own: dict[str, Cell] = {"mlp": {"width": s.hidden}, "low_rank": {"width": s.rank}}
    return [
        {"set": name, "fraction": fraction, "method": method, "seed": seed}
        | (trained | own.get(method, {}) if method in ("neuron", "mlp", "low_rank") else {})
        for fraction, seed, name, method in itertools.product(s.fractions, range(plan.seeds), plan.sets, METHODS)
    ]


def run(cell: Cell, context: Context) -> Numbers:
    """Train on a share of the training images; return the hits on all test images."""
    data = context.images(cell["set"])
    part = share(data.train, cell["fraction"], cell["seed"])
    x, labels, test, truth = vectors(part), part.labels, vectors(data.test), data.test.labels
    numbers: Numbers = {"train_images": len(part), "test_images": len(truth)}
    if cell["method"] == "logistic":
        hits = logistic_hits(x, labels, test, truth)
    elif cell["method"] == "qda":
        hits = discriminant_hits(x, labels, test, truth, len(data.classes))
    else:
        torch.manual_seed(cell["seed"])
        network = make_network(cell["method"], x.shape[1], len(data.classes), cell.get("width", 0))
        numbers["train_loss"] = train_network(
            network,
            x,
            labels,
            epochs=cell["epochs"],
            lr=cell["lr"],
            batch_size=cell["batch_size"],
            seed=cell["seed"],
            progress=context.progress,
        )
        hits = network_hits(network, test, truth)
    return numbers | {"hits": hits}


def summarise(rows: Sequence[Row]) -> Summary:
    """Return mean, interval and bounds of each method's accuracy, in percent, and paired differences from the neurons."""
    settings: dict[tuple[str, float], dict[str, list[Row]]] = {}
    for row in rows:
        settings.setdefault((row["set"], row["fraction"]), {}).setdefault(row["method"], []).append(row)
    results = []
    for (name, fraction), by_method in settings.items():
        accuracy = {m: [100 * r["hits"] / r["test_images"] for r in chosen] for m, chosen in by_method.items()}
        results.append(
            {
                "set": name,
                "fraction": fraction,
                "train_images": by_method["neuron"][0]["train_images"],
                "accuracy": {m: mean_interval(values) for m, values in accuracy.items()},
                "bounds": {m: (min(values), max(values)) for m, values in accuracy.items()},
                "neuron_less": {
                    m: paired_interval(accuracy["neuron"], values) for m, values in accuracy.items() if m != "neuron"
                },
            }
        )
    return {"results": results}


def table(summary: Summary) -> str:
    """Return accuracies, and differences of the quadratic neurons from each rival."""
    head = ["images", "fraction", "training images", *METHODS.values()]
    accuracies, differences = [], []
    for r in summary["results"]:
        start = [SETS.get(r["set"], r["set"]), f"{100 * r['fraction']:g}%", r["train_images"]]
        bounds = r["bounds"]
        accuracies.append(
            [
                *start,
                *(f"{interval_text(r['accuracy'][m])} ({bounds[m][0]:.1f} to {bounds[m][1]:.1f})" for m in METHODS),
            ]
        )
        differences.append([*start, *(interval_text(r["neuron_less"][m]) for m in METHODS if m != "neuron")])
    less = [f"less {title}" for method, title in METHODS.items() if method != "neuron"]
    return "\n\n".join(
        [
            "Test accuracy in percent after the last epoch: mean over runs, 95% interval (t), lower to upper bound.",
            markdown_table(head, accuracies),
            "Quadratic neurons less each rival, in points, paired by run, with 95% interval (t); below zero they lose.",
            markdown_table([*head[:3], *less], differences),
        ]
    )


def draw(summary: Summary) -> "Mapping[str, Figure]":
    """Return accuracy against training images, and the differences below."""
    from matplotlib.figure import Figure

    sets = list(dict.fromkeys(r["set"] for r in summary["results"]))
    figure = Figure(figsize=(7, 5.4))
    panels = figure.subplots(2, len(sets), sharex=True, sharey="row", squeeze=False, height_ratios=(3, 2))
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


def _differences(axes: "Axes", sizes: list[int], intervals: list[Any], index: int) -> None:
    means = [interval[0] for interval in intervals]
    if intervals[0][1] is None:
        axes.plot(sizes, means, **line_style(index))
        return
    errors = [interval[2] - interval[0] for interval in intervals]
    axes.errorbar(sizes, means, errors, **line_style(index), capsize=2, elinewidth=0.8)


def cost(cell: Cell) -> float:
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


FIG2 = Experiment(
    name="fig2",
    shows="ten quadratic neurons learn digits from few images, against an MLP and rivals on the same images",
    budgets={
        "smoke": Budget(
            Fig2Settings((0.1, 1.0), hidden=20, rank=4), 1, "6x6 images that are made, 20 hidden units, one run.", "11 s"
        ),
        "quick": Budget(
            Fig2Settings((0.001, 0.003, 0.01, 0.03, 0.1)),
            3,
            "Fractions up to 10% instead of 100%, 3 runs instead of 10; all else as in the paper.",
            "about 17 min",
        ),
        "full": Budget(
            Fig2Settings((0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)), 10, "The paper's setting: up to 100%, ten runs."
        ),
    },
    cells=cells,
    run=run,
    summarise=summarise,
    table=table,
    draw=draw,
    needs=("mnist", "arabic_digits"),
    make_data=made_digits,
    cost=cost,
)
