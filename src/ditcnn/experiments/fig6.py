"""Figure 6: leading eigenvectors of covariances beside the most similar ones of A, and what chance would give."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ditcnn.analysis.alignment import class_moments
from ditcnn.analysis.figures import line_style
from ditcnn.analysis.intervals import mean_interval
from ditcnn.data import ImageData, ImageSet, open_data
from ditcnn.experiments.context import Context
from ditcnn.experiments.experiment import Budget, Cell, Experiment, Numbers, Plan, Row, Summary
from ditcnn.experiments.few_shot import make_network, network_hits, train_network, vectors
from ditcnn.experiments.fig2 import SETS, made_digits
from ditcnn.experiments.fig6_measures import channel_numbers, pixel_numbers
from ditcnn.experiments.record import interval_text, markdown_table
from ditcnn.experiments.removal import accuracy, term_moments
from ditcnn.experiments.training import train_run
from ditcnn.layers import QuadraticLinear
from ditcnn.recipes import Recipe, make_recipe
from ditcnn.train import RunFolder, TrainedModel

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["FIG6", "Fig6Settings"]

LABELS = {"true": "true labels", "permuted": "permuted labels"}
TITLES = SETS | {"cifar10": "CIFAR-10", "digits": "scikit-learn's digits"}


@dataclass(frozen=True)
class Fig6Settings:
    """Neurons as in figure 2; Dit-ResNet-20 by recipes, on CIFAR-10 (``cifar_epochs`` 0: never) or scikit-learn's digits."""

    epochs: int
    cifar_recipe: str
    cifar_epochs: int
    digits_epochs: int
    net_seeds: int
    covariance_images: int = 5_000
    lr: float = 0.1
    batch_size: int = 100


def cells(plan: Plan[Fig6Settings]) -> list[Cell]:
    """Enumerate the cells: neurons with true and with permuted labels, then networks, on CIFAR-10 where it is there."""
    s = plan.settings
    neurons = [
        {"part": "pixels", "set": name, "labels": labels, "seed": seed}
        | {"epochs": s.epochs, "lr": s.lr, "batch_size": s.batch_size}
        for name in plan.sets
        if name != "cifar10"
        for seed in range(plan.seeds)
        for labels in LABELS
    ]
    on_cifar = s.cifar_epochs > 0 and "cifar10" in plan.sets
    name, recipe, epochs = ("cifar10", s.cifar_recipe, s.cifar_epochs) if on_cifar else ("digits", "digits", s.digits_epochs)
    networks = [
        {"part": "channels", "set": name, "recipe": recipe, "seed": seed, "epochs": epochs, "images": s.covariance_images}
        for seed in range(min(s.net_seeds, plan.seeds))
    ]
    return [*neurons, *networks]


def run(cell: Cell, context: Context) -> Numbers:
    """Train, and compare eigenvectors."""
    if cell["part"] == "pixels":
        return _run_pixels(cell, context)
    data = open_data(None, "digits") if cell["set"] == "digits" else context.images(cell["set"])
    folder = RunFolder(context.folder(cell))
    trainer = train_run(_recipe(cell), data, folder, context.progress, name=cell["recipe"], device="cpu")
    # The last epoch's network, which need not be the one that was chosen and saved.
    mean, std = trainer.recipe.mean, trainer.recipe.std
    last = TrainedModel(trainer.model.eval(), data.classes, data.image_shape, mean, std)
    seen = ImageSet(data.train.images[: cell["images"]], data.train.labels[: cell["images"]])
    ((_, (term, moments)),) = term_moments(last, seen).items()
    return {"test_top1": accuracy(last, last.model, data.test)} | channel_numbers(
        moments.covariance, term.matrices().detach()
    )


def _recipe(cell: Cell) -> Recipe:
    recipe = make_recipe(cell["recipe"]).at_epochs(cell["epochs"])
    return dataclasses.replace(recipe, seed=cell["seed"], precision="fp32")


def _run_pixels(cell: Cell, context: Context) -> Numbers:
    data: ImageData = context.images(cell["set"])
    x, labels, classes = vectors(data.train), data.train.labels, len(data.classes)
    _, covariances = class_moments(x, labels, classes)
    torch.manual_seed(cell["seed"])
    network = make_network("neuron", x.shape[1], classes, 0)
    assert isinstance(network, QuadraticLinear)
    taught = labels
    if cell["labels"] == "permuted":
        taught = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(cell["seed"]))]
    train_network(
        network,
        x,
        taught,
        epochs=cell["epochs"],
        lr=cell["lr"],
        batch_size=cell["batch_size"],
        seed=cell["seed"],
        progress=context.progress,
    )
    hits = network_hits(network, vectors(data.test), data.test.labels)
    forms = network.quadratic.matrices().detach()
    pictures = cell["labels"] == "true" and cell["seed"] == 0
    return {"test_top1": 100 * hits / len(data.test), "height": data.image_shape[1]} | pixel_numbers(
        covariances, forms, pictures
    )


def summarise(rows: Sequence[Row]) -> Summary:
    """Return means over seeds; the leading cosines' intervals are of the means over classes."""
    pixels = [
        _pixels(name, labels, [r for r in rows if r["set"] == name and r.get("labels") == labels])
        for name, labels in dict.fromkeys((r["set"], r["labels"]) for r in rows if r["part"] == "pixels")
    ]
    networks = [row for row in rows if row["part"] == "channels"]
    return {"pixels": pixels, "channels": _channels(networks) if networks else None}


def _pixels(name: str, labels: str, rows: list[Row]) -> dict[str, Any]:
    first = rows[0]
    count = len(first["lead_cosine"])
    result = {
        "set": name,
        "labels": labels,
        "test_top1": mean_interval([r["test_top1"] for r in rows]),
        "lead": mean_interval([sum(r["lead_cosine"]) / count for r in rows]),
        "lead_other": mean_interval([sum(r["lead_other_cosine"]) / count for r in rows]),
        "lead_by_class": [mean_interval([r["lead_cosine"][c] for r in rows]) for c in range(count)],
        "position_median": sorted(p for r in rows for p in r["lead_position"])[len(rows) * count // 2],
        "negative": sum(s < 0 for r in rows for s in r["lead_sign"]) / (count * len(rows)),
    }
    result |= {key: first[key] for key in ("varying", "chance", "chance_95", "height", "variance_share")}
    result |= {key: _mean([r[key] for r in rows]) for key in ("by_rank", "by_rank_other", "form_spectrum")}
    return result | {"pictures": first.get("pictures")}


def _channels(rows: list[Row]) -> dict[str, Any]:
    first = rows[0]
    return {
        "set": first["set"],
        "epochs": first["epochs"],
        "test_top1": mean_interval([r["test_top1"] for r in rows]),
        "lead": mean_interval([r["by_rank"][0] for r in rows]),
        "variance_first": mean_interval([r["variance_along"][0] for r in rows]),
        "chance": first["chance"],
        "chance_95": first["chance_95"],
    } | {key: _mean([r[key] for r in rows]) for key in ("by_rank", "variance_along", "variance_share")}


def _mean(lists: list[list[float]]) -> list[float]:
    return [round(sum(values) / len(values), 4) for values in zip(*lists, strict=True)]


def _title(part: Mapping[str, Any]) -> str:
    name: str = part["set"]
    return TITLES.get(name, name)


def table(summary: Summary) -> str:
    """Return cosines beside their chance level."""
    head = ["images", "labels", "test accuracy [%]", "leading cosine, own A", "other classes' A", "chance", "chance, 95%"]
    head += ["position of the best, median", "negative eigenvalue"]
    rows = [
        [
            _title(p),
            LABELS[p["labels"]],
            interval_text(p["test_top1"]),
            interval_text(p["lead"], 3),
            interval_text(p["lead_other"], 3),
            f"{p['chance']:.3f}",
            f"{p['chance_95']:.3f}",
            p["position_median"],
            f"{100 * p['negative']:.0f}%",
        ]
        for p in summary["pixels"]
    ]
    classes = [
        [_title(p), LABELS[p["labels"]], *(f"{interval[0]:.2f}" for interval in p["lead_by_class"])]
        for p in summary["pixels"]
    ]
    names = [str(c) for c in range(len(summary["pixels"][0]["lead_by_class"]))]
    parts = [
        "Cosine of the leading eigenvector of a class covariance S_j with the most similar eigenvector of A_j, mean over "
        "classes, then over runs with 95% interval (t). Chance: random orthonormal vectors in as many dimensions as pixels "
        "vary; 95% is of a single direction, and a mean over classes spreads less. Position: of that eigenvector by "
        "|eigenvalue|, of all classes and runs.",
        markdown_table(head, rows),
        "The same by class:",
        markdown_table(["images", "labels", *names], classes),
    ]
    if (c := summary["channels"]) is not None:
        parts += [
            f"Dit-ResNet-20 on {_title(c)}, {c['epochs']} epochs, test accuracy {interval_text(c['test_top1'])}%: the "
            "leading eigenvector of the channels' covariance at the term's input has a cosine of "
            f"{interval_text(c['lead'], 3)} with the most similar eigenvector of A, mean over outputs (chance "
            f"{c['chance']:.3f}, its 95% point {c['chance_95']:.3f}). Along the first eigenvector of A the channels have "
            f"{interval_text(c['variance_first'], 2)} times the mean variance (a random direction: 1).",
        ]
    return "\n\n".join(parts)


def draw(summary: Summary) -> "Mapping[str, Figure]":
    """Return the pictures of eigenvectors, and the spectra."""
    shown = [p for p in summary["pixels"] if p["pictures"]]
    figures = {"" if not number else p["set"]: _pictures(p) for number, p in enumerate(shown)}
    return figures | {"spectra": _spectra(summary)}


def _pictures(result: dict[str, Any]) -> "Figure":
    from matplotlib.figure import Figure

    pairs = result["pictures"]
    figure = Figure(figsize=(7, 1.9))
    panels = figure.subplots(2, len(pairs), squeeze=False)
    for column, pair in enumerate(pairs):
        cosine = abs(sum(a * b for a, b in zip(*pair, strict=True)))
        for row, vector in enumerate(pair):
            axes, largest = panels[row][column], max(map(abs, vector))
            picture = np.reshape(vector, (result["height"], -1))
            axes.imshow(picture, cmap="gray", vmin=-largest, vmax=largest, interpolation="nearest")
            axes.set(xticks=[], yticks=[])
            axes.grid(False)
            axes.spines[:].set_visible(False)
        panels[0][column].set_title(f"class {column}", fontsize=8)
        panels[1][column].set_xlabel(f"{cosine:.2f}", fontsize=8)
    panels[0][0].set_ylabel("of $S_j$", fontsize=8)
    panels[1][0].set_ylabel("of $A_j$", fontsize=8)
    figure.supxlabel("cosine; grey is zero, black negative, white positive", fontsize=8)
    return figure


def _spectra(summary: Summary) -> "Figure":
    from matplotlib.figure import Figure

    name = summary["pixels"][0]["set"]
    pixel_title = _title(summary["pixels"][0])
    pixels = {p["labels"]: p for p in summary["pixels"] if p["set"] == name}
    channels = summary["channels"]
    figure = Figure(figsize=(7, 5.2))
    panels = figure.subplots(2, 2)
    true = pixels["true"]
    curves = {"own class's A": true["by_rank"], "other classes' A": true["by_rank_other"]}
    if "permuted" in pixels:
        curves["A from permuted labels"] = pixels["permuted"]["by_rank"]
    _ranks(panels[0][0], curves, true, "eigenvector of $S_j$, by variance")
    panels[0][0].set(title=f"{pixel_title}: pixels", ylabel="best |cosine| with A")
    for index, labels in enumerate(pixels):
        spectrum = pixels[labels]["form_spectrum"]
        style = line_style((0, 2)[index]) | {"marker": ""}
        panels[0][1].plot(range(1, len(spectrum) + 1), spectrum, **style, label=LABELS[labels])
    panels[0][1].set(
        title=f"{pixel_title}: spectrum of $A_j$", xlabel="eigenvalue, ascending", ylabel="eigenvalue / largest magnitude"
    )
    panels[0][1].legend()
    if channels is not None:
        title = f"Dit-ResNet-20, {_title(channels)}: channels"
        _ranks(panels[1][0], {"trained A": channels["by_rank"]}, channels, "eigenvector of S, by variance")
        panels[1][0].set(title=title, ylabel="best |cosine| with A")
        along = channels["variance_along"]
        panels[1][1].plot(range(1, len(along) + 1), along, **line_style(0), label="trained A")
        panels[1][1].axhline(1, color="black", linewidth=0.8, label="random direction")
        panels[1][1].set(title=title, xlabel="eigenvector of A, by |eigenvalue|", ylabel="variance along it / mean variance")
        panels[1][1].legend()
    return figure


def _ranks(axes: "Axes", curves: dict[str, list[float]], result: dict[str, Any], label: str) -> None:
    for index, (name, values) in enumerate(curves.items()):
        axes.plot(range(1, len(values) + 1), values, **line_style(index) | {"markersize": 2.5}, label=name)
    last = max(len(values) for values in curves.values())
    axes.fill_between(
        [1, last], 0, [result["chance_95"]] * 2, color="0.85", linewidth=0, label="chance: mean, 95% point of a pair"
    )
    axes.axhline(result["chance"], color="0.4", linewidth=0.8)
    axes.set(xlabel=label, ylim=(0, 1))
    axes.legend()


def cost(cell: Cell) -> float:
    """Return a cell's relative time: epochs."""
    return float(cell["epochs"]) * (3.0 if cell["set"] == "cifar10" else 0.02 if cell["set"] == "digits" else 1.0)


FIG6 = Experiment(
    name="fig6",
    shows="eigenvectors of class covariances beside those of A, against chance; and of channels in a trained Dit-ResNet",
    budgets={
        "smoke": Budget(
            Fig6Settings(1, "cifar10-warmup", 0, 1, 1, 100),
            1,
            "6x6 images that are made, one epoch; the network on 8x8 digits.",
            "13 s",
        ),
        "quick": Budget(
            Fig6Settings(2, "cifar10-warmup", 2, 60, 1),
            3,
            "Neurons: 2 of 20 epochs, 3 runs. Dit-ResNet-20: 2 of 160 epochs on CIFAR-10, one run; without CIFAR-10, 60 "
            "epochs on scikit-learn's digits.",
            "about 20 core-min",
        ),
        "full": Budget(
            Fig6Settings(20, "cifar10", 160, 60, 3), 10, "The paper's 20 and 160 epochs; ten runs of the neurons."
        ),
    },
    cells=cells,
    run=run,
    summarise=summarise,
    table=table,
    draw=draw,
    needs=("mnist",),
    may_use=("cifar10",),
    make_data=made_digits,
    cost=cost,
)
