"""Figure 6: leading eigenvectors of covariances beside the most similar ones of A, and what chance would give."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ditcnn.analysis.alignment import class_moments
from ditcnn.analysis.intervals import mean_interval
from ditcnn.data import ImageSet, open_data
from ditcnn.experiments.engine.experiment import Budget, Cell, Context, Experiment, Numbers, Plan, Row, Summary, grouped
from ditcnn.experiments.engine.tables import Block, Table, Verdict, interval_text
from ditcnn.experiments.engine.training import last_model
from ditcnn.experiments.fig2.experiment import made_digits
from ditcnn.experiments.fig2.few_shot import make_network, trained_hits, vectors
from ditcnn.experiments.fig6.drawing import LABELS, draw, set_title
from ditcnn.experiments.fig6.measures import channel_numbers, pixel_numbers
from ditcnn.experiments.removal import accuracy, term_moments
from ditcnn.layers import QuadraticLinear
from ditcnn.recipes import make_recipe
from ditcnn.system.errors import Diverged

__all__ = ["FIG6"]


@dataclass(frozen=True)
class Settings:
    """Neurons as in figure 2; Dit-ResNet-20 by recipes, on CIFAR-10 (``cifar_epochs`` 0: never) or scikit-learn's digits."""

    epochs: int
    cifar_recipe: str
    cifar_epochs: int
    digits_epochs: int
    net_seeds: int
    covariance_images: int = 5_000
    lr: float = 0.1
    batch_size: int = 100


def _cells(plan: Plan[Settings]) -> list[Cell]:
    """Enumerate neurons with true and with permuted labels, then networks, on CIFAR-10 where it is there."""
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


def _run(cell: Cell, context: Context) -> Numbers:
    return _of_pixels(cell, context) if cell["part"] == "pixels" else _of_channels(cell, context)


def _of_channels(cell: Cell, context: Context) -> Numbers:
    data = open_data(None, "digits") if cell["set"] == "digits" else context.images(cell["set"])
    recipe = make_recipe(cell["recipe"]).at_epochs(cell["epochs"])
    recipe = dataclasses.replace(recipe, seed=cell["seed"], precision="fp32")
    run = context.runs.train(recipe, data, context.progress)
    if run.failed is not None:
        raise Diverged(run.failed)
    last = last_model(run, recipe, data)
    seen = ImageSet(data.train.images[: cell["images"]], data.train.labels[: cell["images"]])
    ((_, (term, moments)),) = term_moments(last, seen).items()
    measured = channel_numbers(moments.covariance, term.matrices().detach())
    return {"test_top1": accuracy(last, last.model, data.test)} | measured


def _of_pixels(cell: Cell, context: Context) -> Numbers:
    data = context.images(cell["set"])
    x, labels, classes = vectors(data.train), data.train.labels, len(data.classes)
    _, covariances = class_moments(x, labels, classes)
    torch.manual_seed(cell["seed"])
    network = make_network("neuron", x.shape[1], classes, 0)
    assert isinstance(network, QuadraticLinear)
    if cell["labels"] == "permuted":
        labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(cell["seed"]))]
    _, hits = trained_hits(network, x, labels, data.test, cell, context.progress)
    forms = network.quadratic.matrices().detach()
    pictures = cell["labels"] == "true" and cell["seed"] == 0
    about = {"test_top1": 100 * hits / len(data.test), "height": data.image_shape[1]}
    return about | pixel_numbers(covariances, forms, pictures)


def _summarise(rows: Sequence[Row]) -> Summary:
    """Return means over seeds; the leading cosines' intervals are of the means over classes."""
    neurons = grouped([row for row in rows if row["part"] == "pixels"], "set", "labels")
    networks = [row for row in rows if row["part"] == "channels"]
    return {"pixels": list(map(_pixels, neurons.values())), "channels": _channels(networks) if networks else None}


def _pixels(rows: list[Row]) -> dict[str, Any]:
    first = rows[0]
    count = len(first["lead_cosine"])
    return {
        **{key: first[key] for key in ("set", "labels")},
        "test_top1": mean_interval([r["test_top1"] for r in rows]),
        "lead": mean_interval([sum(r["lead_cosine"]) / count for r in rows]),
        "lead_other": mean_interval([sum(r["lead_other_cosine"]) / count for r in rows]),
        "lead_by_class": [mean_interval([r["lead_cosine"][c] for r in rows]) for c in range(count)],
        "position_median": sorted(p for r in rows for p in r["lead_position"])[len(rows) * count // 2],
        "negative": sum(s < 0 for r in rows for s in r["lead_sign"]) / (count * len(rows)),
        **{key: first[key] for key in ("varying", "chance", "chance_95", "height", "variance_share")},
        **{key: _mean([r[key] for r in rows]) for key in ("by_rank", "by_rank_other", "form_spectrum")},
    }


def _channels(rows: list[Row]) -> dict[str, Any]:
    return {
        **{key: rows[0][key] for key in ("set", "epochs", "chance", "chance_95")},
        "test_top1": mean_interval([r["test_top1"] for r in rows]),
        "lead": mean_interval([r["by_rank"][0] for r in rows]),
        "variance_first": mean_interval([r["variance_along"][0] for r in rows]),
        **{key: _mean([r[key] for r in rows]) for key in ("by_rank", "variance_along", "variance_share")},
    }


def _mean(lists: list[list[float]]) -> list[float]:
    return [round(sum(values) / len(values), 4) for values in zip(*lists, strict=True)]


def _table(summary: Summary) -> list[Block]:
    """Return cosines beside their chance level."""
    head = ["images", "labels", "test accuracy [%]", "leading cosine, own A", "other classes' A", "chance", "chance, 95%"]
    head += ["position of the best, median", "negative eigenvalue"]
    names = [[set_title(p), LABELS[p["labels"]]] for p in summary["pixels"]]
    rows = [
        [
            *name, interval_text(p["test_top1"]), interval_text(p["lead"], 3), interval_text(p["lead_other"], 3),
            f"{p['chance']:.3f}", f"{p['chance_95']:.3f}", p["position_median"], f"{100 * p['negative']:.0f}%",
        ]
        for name, p in zip(names, summary["pixels"], strict=True)
    ]  # fmt: skip
    classes = [
        [*name, *(f"{c[0]:.2f}" for c in p["lead_by_class"])] for name, p in zip(names, summary["pixels"], strict=True)
    ]
    numbers = [str(c) for c in range(len(summary["pixels"][0]["lead_by_class"]))]
    return [
        "Cosine of the leading eigenvector of a class covariance S_j with the most similar eigenvector of A_j, mean over "
        "classes, then over runs with 95% interval (t). Chance: random orthonormal vectors in as many dimensions as pixels "
        "vary; 95% is of a single direction, and a mean over classes spreads less. Position: of that eigenvector by "
        "|eigenvalue|, of all classes and runs.",
        Table(head, rows, brief=(0, 1, 3, 5)),
        "The same by class:",
        Table(["images", "labels", *numbers], classes),
        *([_channels_text(summary["channels"])] if summary["channels"] else []),
    ]


def _channels_text(c: Mapping[str, Any]) -> Verdict:
    return Verdict(
        f"Dit-ResNet-20 on {set_title(c)}, {c['epochs']} epochs, test accuracy {interval_text(c['test_top1'])}%: the "
        "leading eigenvector of the channels' covariance at the term's input has a cosine of "
        f"{interval_text(c['lead'], 3)} with the most similar eigenvector of A, mean over outputs (chance "
        f"{c['chance']:.3f}, its 95% point {c['chance_95']:.3f}). Along the first eigenvector of A the channels have "
        f"{interval_text(c['variance_first'], 2)} times the mean variance (a random direction: 1)."
    )


def _cost(cell: Cell) -> float:
    """Return a cell's relative time: epochs."""
    return float(cell["epochs"]) * (3.0 if cell["set"] == "cifar10" else 0.02 if cell["set"] == "digits" else 1.0)


_SMOKE = "6x6 images that are made, one epoch; the network on 8x8 digits."
_QUICK = (
    "Neurons: 2 of 20 epochs, 3 runs. Dit-ResNet-20: 2 of 160 epochs on CIFAR-10, one run; without CIFAR-10, 60 "
    "epochs on scikit-learn's digits."
)
FIG6 = Experiment(
    name="fig6",
    shows="eigenvectors of class covariances beside those of A, against chance; and of channels in a trained Dit-ResNet",
    budgets={
        "smoke": Budget(Settings(1, "cifar10-warmup", 0, 1, 1, 100), 1, _SMOKE, "13 s"),
        "quick": Budget(Settings(2, "cifar10-warmup", 2, 60, 1), 3, _QUICK, "about 20 core-min"),
        "full": Budget(Settings(20, "cifar10", 160, 60, 3), 10, "The paper's 20 and 160 epochs; ten runs of the neurons."),
    },
    cells=_cells,
    run=_run,
    summarise=_summarise,
    table=_table,
    draw=draw,
    needs=("mnist",),
    may_use=("cifar10",),
    make_data=made_digits,
    cost=_cost,
)
