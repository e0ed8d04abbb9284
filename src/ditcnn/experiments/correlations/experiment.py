"""Images whose classes differ in correlation alone: what a network with the term makes of them, and one without."""

import hashlib
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ditcnn.analysis.intervals import Interval, mean_interval, paired_interval
from ditcnn.analysis.sample_ratio import sample_ratio
from ditcnn.analysis.stationary import bayes_accuracy, sample_images
from ditcnn.experiments.correlations.colour_fields import CLASSES, FAMILIES, cross_spectra
from ditcnn.experiments.correlations.drawing import METHODS, draw
from ditcnn.experiments.correlations.methods import NETS, RULES, Labelled, Schedule, fit_moments, train_net
from ditcnn.experiments.engine.experiment import Budget, Cell, Context, Experiment, Numbers, Plan, Row, Summary, grouped
from ditcnn.experiments.engine.tables import Block, Table, interval_text

__all__ = ["CORRELATIONS"]

PAIRS = (("dit", "plain"), ("wide", "plain"), ("stem", "plain"), ("dit", "wide"))  # differences, seed by seed


@dataclass(frozen=True)
class Settings:
    """Images of size x size, networks of a depth, each trained for as many steps.

    The networks are trained on ``samples`` at ``strength``, and on ``fixed_samples`` at ``other_strengths``; the closed-form
    rules also on the fewer samples of ``rule_samples``.
    """

    size: int
    depth: int
    steps: int
    samples: tuple[int, ...]
    rule_samples: tuple[int, ...]
    strength: float
    other_strengths: tuple[float, ...]
    fixed_samples: int
    test_images: int
    bayes_images: int
    batch_size: int = 64
    lr: float = 0.1
    term_lr_scale: float = 1.0


def _cells(plan: Plan[Settings]) -> list[Cell]:
    """Enumerate the cells, one seed of everything before the next."""
    s = plan.settings
    places = [(s.strength, count) for count in s.samples] + [(strength, s.fixed_samples) for strength in s.other_strengths]
    rule_places = [(s.strength, count) for count in s.rule_samples] + places
    trained = {"depth": s.depth, "steps": s.steps, "batch_size": s.batch_size, "lr": s.lr, "term_lr_scale": s.term_lr_scale}
    found: list[Cell] = []
    for family, strength in itertools.product(FAMILIES, sorted({s.strength, *s.other_strengths})):
        images: Cell = {"family": family, "strength": strength, "size": s.size}
        found.append(images | {"method": "bayes", "images": s.bayes_images})
    for seed, family in itertools.product(range(plan.seeds), FAMILIES):
        for method in (*RULES, *NETS):
            for strength, count in rule_places if method in RULES else places:
                settings: Cell = {"family": family, "strength": strength, "size": s.size, "method": method}
                settings |= {"samples": count, "test_images": s.test_images, "seed": seed}
                found.append(settings if method in RULES else settings | trained)
    return found


def _run(cell: Cell, context: Context) -> Numbers:
    """Return a method's accuracies, as fractions of 1."""
    if cell["method"] == "bayes":
        spectra = cross_spectra(cell["family"], cell["strength"], cell["size"])
        best = bayes_accuracy(spectra, cell["images"], _generator(cell, "bayes"))
        return {"accuracy": best.value, "standard_error": best.standard_error}
    train, test = _draw(cell, cell["samples"], "train"), _draw(cell, cell["test_images"], "test")
    if cell["method"] in RULES:
        return fit_moments(RULES[cell["method"]], train, test)
    schedule = Schedule(cell["steps"], cell["batch_size"], cell["lr"], cell["term_lr_scale"])
    return train_net(cell["method"], cell["depth"], train, test, schedule, cell["seed"], context.progress)


def _draw(cell: Cell, count: int, part: str) -> Labelled:
    labels = torch.arange(count) % CLASSES
    spectra = cross_spectra(cell["family"], cell["strength"], cell["size"])
    return Labelled(sample_images(spectra, labels, _generator(cell, f"{part} {count}")).float(), labels)


def _generator(cell: Cell, part: str) -> torch.Generator:
    """Return a source of noise of this part's own: every method with the same seed is given the same images."""
    key = f"{cell['family']} {cell['strength']} {cell['size']} {cell.get('seed')} {part}"
    return torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(key.encode()).digest()[:7], "big"))


def _summarise(rows: Sequence[Row]) -> Summary:
    """Return accuracies in percent with intervals over seeds, differences in points, and ratios of samples."""
    optimum = [row for row in rows if row["method"] == "bayes"]
    runs = sorted((row for row in rows if row["method"] != "bayes"), key=lambda row: row["seed"])
    main = next(row["strength"] for row in runs if row["method"] in RULES)
    accuracies, differences = [], []
    for place, chosen in grouped(runs, "family", "strength", "samples").items():
        about = dict(zip(("family", "strength", "samples"), place, strict=True))
        own = {method: [100 * row["accuracy"] for row in rows] for (method,), rows in grouped(chosen, "method").items()}
        for method, values in own.items():
            fitted = [row["train_accuracy"] for row in chosen if row["method"] == method]
            mean = {"accuracy": mean_interval(values), "train_accuracy": 100 * sum(fitted) / len(fitted)}
            accuracies.append(about | {"method": method} | mean)
        if own.keys() >= set(NETS):
            differences.append(about | {f"{x} less {y}": paired_interval(own[x], own[y]) for x, y in PAIRS})
    return {
        "size": runs[0]["size"],
        "strength": main,
        "fixed_samples": next((r["samples"] for r in runs if r["strength"] != main), max(r["samples"] for r in runs)),
        "parameters": {row["method"]: row["parameters"] for row in runs},
        "bayes": [
            {key: r[key] for key in ("family", "strength")} | {k: 100 * r[k] for k in ("accuracy", "standard_error")}
            for r in optimum
        ],
        "accuracy": accuracies,
        "differences": differences,
        "ratios": [_ratio(runs, *which, strength=main) for which in grouped(runs, "family", "method")],
    }


def _ratio(runs: Sequence[Row], family: str, method: str, *, strength: float) -> dict[str, Any]:
    """Return how many times this method's samples the plain net needs: the geometric mean over seeds, and its interval."""
    ratios = []
    for seed in sorted({row["seed"] for row in runs}):
        chosen = [row for row in runs if (row["family"], row["seed"], row["strength"]) == (family, seed, strength)]
        plain, other = ({r["samples"]: r["accuracy"] for r in chosen if r["method"] == name} for name in ("plain", method))
        ratios.append(sample_ratio(plain, other))
    logs = [math.log(ratio) for ratio in ratios if ratio is not None]
    interval = None
    if len(logs) == len(ratios):  # to leave out seeds without a ratio would choose among them
        mean, low, high, count = mean_interval(logs)
        ends = [None if end is None else math.exp(end) for end in (low, high)]
        interval = Interval(math.exp(mean), ends[0], ends[1], count)
    return {"family": family, "method": method, "each": ratios, "ratio": interval}


def _table(summary: Summary) -> list[Block]:
    """Return accuracies, differences between networks, and ratios of samples."""
    parts: list[Block] = [
        "Accuracy on test in percent, mean over seeds with its 95% interval (t). "
        f"{CLASSES} classes, {summary['size']}x{summary['size']} images; chance is {100 / CLASSES:.0f}%. Parameters: "
        + ", ".join(f"{METHODS[name]} {count:,}" for name, count in summary["parameters"].items() if name in NETS)
        + "."
    ]
    for family in FAMILIES:
        parts += [f"## Family `{family}`", _accuracy_table(summary, family), "Differences in points, paired by seed:"]
        parts.append(_difference_table(summary, family))
    return [
        *parts,
        "## Samples that the plain net needs, over those that another needs, at equal accuracy",
        "Mean horizontal distance of the curves over the accuracies that both pass through, geometric mean over seeds with "
        "its 95% interval; above 1 the other needs fewer. No figure where, for a seed, the curves share under 10 points.",
        _ratio_table(summary),
    ]


def _accuracy_table(summary: Summary, family: str) -> Table:
    rows = []
    optimum = {b["strength"]: b["accuracy"] for b in summary["bayes"] if b["family"] == family}
    chosen = [a for a in summary["accuracy"] if a["family"] == family]
    for strength, samples in sorted({(a["strength"], a["samples"]) for a in chosen}):
        here = {a["method"]: a for a in chosen if (a["strength"], a["samples"]) == (strength, samples)}
        texts = [interval_text(here[name]["accuracy"]) if name in here else "-" for name in METHODS]
        rows.append([strength, samples, *texts, f"{optimum[strength]:.1f}"])
    return Table(["strength", "samples", *METHODS.values(), "Bayes"], rows)


def _difference_table(summary: Summary, family: str) -> Table:
    names = [f"{first} less {second}" for first, second in PAIRS]
    chosen = sorted(
        (d for d in summary["differences"] if d["family"] == family), key=lambda d: (d["strength"], d["samples"])
    )
    rows = [[d["strength"], d["samples"], *[interval_text(d[name]) for name in names]] for d in chosen]
    head = [f"{METHODS[first]} less {METHODS[second]}" for first, second in PAIRS]
    return Table(["strength", "samples", *head], rows)


def _ratio_table(summary: Summary) -> Table:
    others = [name for name in METHODS if name != "plain"]
    texts = {}
    for found in summary["ratios"]:
        texts[found["family"], found["method"]] = interval_text(found["ratio"], 2)
    rows = [[family, *[texts[family, name] for name in others]] for family in FAMILIES]
    return Table(["family", *[METHODS[name] for name in others]], rows, brief=(0, 1, 3))


def _cost(cell: Cell) -> float:
    """Return an estimate of a cell's seconds on one core."""
    if cell["method"] == "bayes":
        return 8e-7 * float(cell["images"]) * float(cell["size"]) ** 2
    images = float(cell["samples"] + cell["test_images"])
    seen = images / 3 + 3 * cell["steps"] * cell["batch_size"] if "steps" in cell else images / 4
    return 9e-8 * seen * float(cell["size"]) ** 2 * float(cell.get("depth", 8))


_FEW = (8, 16, 32)
_COUNTS = (64, 256, 1024, 4096)
_SMOKE = Settings(8, 8, 2, (8, 64), (16,), 0.4, (), 64, test_images=64, bayes_images=256)
_QUICK = Settings(16, 8, 200, _COUNTS, _FEW, 0.2, (0.1, 0.4), 256, test_images=2000, bayes_images=20_000)
_FULL = Settings(32, 20, 1000, (*_COUNTS, 16_384), _FEW, 0.1, (0.05, 0.2), 1024, test_images=4000, bayes_images=20_000)
CORRELATIONS = Experiment(
    name="correlations",
    shows="colour images whose classes differ in correlation alone: networks with the term, without it, and the optimum",
    budgets={
        "smoke": Budget(_SMOKE, 2, "8x8 images, 2 steps, one strength: nothing is learnt.", "26 s"),
        "quick": Budget(_QUICK, 4, "16x16 images, networks of depth 8 instead of 20, 200 steps.", "39 core-min"),
        "full": Budget(_FULL, 5, "32x32 images, Dit-ResNet-20 and its rivals, 1,000 steps: more than a day on two cores."),
    },
    cells=_cells,
    run=_run,
    summarise=_summarise,
    table=_table,
    draw=draw,
    cost=_cost,
)
