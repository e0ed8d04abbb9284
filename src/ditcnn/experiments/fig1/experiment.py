"""Figure 1: one quadratic neuron on two normal classes, against a perceptron, discriminant analysis and the optimum."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from sklearn.discriminant_analysis import QuadraticDiscriminantAnalysis
from torch import Tensor

from ditcnn.analysis.alignment import matrix_cosine
from ditcnn.analysis.intervals import mean_interval, paired_interval
from ditcnn.analysis.normal import Quadratic, bayes_accuracy, bayes_quadratic, excess_error
from ditcnn.experiments.engine.experiment import Budget, Cell, Context, Experiment, Numbers, Plan, Row, Summary, grouped
from ditcnn.experiments.engine.tables import Block, Table, interval_text
from ditcnn.experiments.fig1.descent import FORWARDS, Parameters, descend, mlp, neuron, stack
from ditcnn.experiments.fig1.drawing import METHODS, draw
from ditcnn.experiments.fig1.two_normals import TwoNormals, plane_problem, random_problem
from ditcnn.system.errors import Diverged

__all__ = ["FIG1"]

FAMILIES = ("equal", "unequal")
TITLES = {"plane": "In the plane, as drawn", "space": "Random problems, Bayes accuracy about 90% (89.3 to 90.7)"}
TEST_POINTS = 20_000
ACCURACY = 0.9  # of the Bayes classifier in every random problem; with unequal covariances about that, see `random_problem`


@dataclass(frozen=True)
class Settings:
    """Sizes are training points of both classes together; ``space_dims`` are dimensions for each kind of covariances."""

    epochs: int
    plane_sizes: tuple[int, ...]
    space_dims: dict[str, tuple[int, ...]]
    space_sizes: tuple[int, ...]
    lr: float = 0.1


def _cells(plan: Plan[Settings]) -> list[Cell]:
    s = plan.settings
    plane = [("plane", family, 2, size) for family in FAMILIES for size in s.plane_sizes]
    space = [("space", family, dims, size) for family in FAMILIES for dims in s.space_dims[family] for size in s.space_sizes]
    return [  # all seeds of a setting are trained at once, in one cell
        {"part": part, "covariances": family, "dims": dims, "size": size, "method": method, "seeds": plan.seeds}
        | ({} if method == "qda" else {"epochs": s.epochs, "lr": s.lr})
        for (part, family, dims, size), method in itertools.product(plane + space, METHODS)
    ]


def _run(cell: Cell, context: Context) -> Numbers:
    """Fit a method on each seed's sample; return how far it stays behind the Bayes classifier, and how near A comes."""
    problems = [_problem(cell, seed) for seed in range(cell["seeds"])]
    truths = [problem.bayes() for problem in problems]
    tests = [problem.sample(TEST_POINTS, 1_000_000 + seed)[0] for seed, problem in enumerate(problems)]
    odds = [truth.at(x) for truth, x in zip(truths, tests, strict=True)]
    samples = [problem.sample(cell["size"], seed) for seed, problem in enumerate(problems)]
    accuracies = [bayes_accuracy(o) for o in odds]
    numbers: Numbers = {"bayes": [a for a, _ in accuracies], "bayes_standard_error": [e for _, e in accuracies]}
    if cell["method"] == "qda":
        fits = [_discriminant(x, y) for x, y in samples]
        excess = [None if q is None else excess_error(q.at(x), o).item() for q, x, o in zip(fits, tests, odds, strict=True)]
        numbers |= {"excess": excess} | _nearness(fits, truths)
        if cell["part"] == "plane" and fits[0] is not None:
            numbers["parameters"] = _rounded(fits[0]._asdict())
        return numbers
    trained, history = _descend(cell, samples, tests, odds, context)
    numbers |= {"excess": history[cell["epochs"]], "excess_after": {str(epoch): value for epoch, value in history.items()}}
    if cell["method"] == "neuron":
        fits = [
            Quadratic(a[0].double(), w[0].double(), b[0].double())
            for a, w, b in zip(trained["quadratic.weight"], trained["weight"], trained["bias"], strict=True)
        ]
        numbers |= _nearness(fits, truths)
    if cell["part"] == "plane":
        numbers["parameters"] = _rounded({name: value[:1] for name, value in trained.items()})
    return numbers


def _problem(cell: Cell, seed: int) -> TwoNormals:
    if cell["part"] == "plane":
        return plane_problem(cell["covariances"])
    return random_problem(cell["covariances"], cell["dims"], seed, ACCURACY)


def _discriminant(x: Tensor, labels: Tensor) -> Quadratic | None:
    """Return what scikit-learn's estimator decides by; None where a class has too few points for its covariance."""
    if int(labels.sum()) <= x.shape[1]:
        return None
    qda = QuadraticDiscriminantAnalysis(store_covariance=True).fit(x.numpy(), labels.numpy())
    (mean0, mean1), (cov0, cov1) = map(torch.from_numpy, qda.means_), map(torch.from_numpy, qda.covariance_)
    return bayes_quadratic(mean0, cov0, mean1, cov1)


def _descend(
    cell: Cell, samples: list[tuple[Tensor, Tensor]], tests: list[Tensor], odds: list[Tensor], context: Context
) -> tuple[Parameters, dict[int, list[float]]]:
    """Train; return the parameters, and each seed's excess error at some epochs on the way."""
    dims, epochs = cell["dims"], cell["epochs"]
    forward = FORWARDS[cell["method"]]
    stops = {round(epochs * part) for part in (0.01, 0.03, 0.1, 0.3, 1)}
    test, truth = torch.stack(tests).float(), torch.stack(odds)
    history: dict[int, list[float]] = {}

    def at(epoch: int, parameters: Parameters) -> None:
        if epoch % 100 == 0:
            context.progress(epoch / epochs)
        if epoch in stops:
            with torch.no_grad():
                decision = forward(parameters, test)
            if not decision.isfinite().all():
                raise Diverged(f"{cell['method']} diverged by epoch {epoch} in {dims} dimensions at lr {cell['lr']}.")
            history[epoch] = excess_error(decision, truth).tolist()

    seeds = range(cell["seeds"])
    make = [neuron(dims, s) if cell["method"] == "neuron" else mlp(dims, hidden_units(dims), s) for s in seeds]
    x = torch.stack([x for x, _ in samples]).float()
    labels = torch.stack([y for _, y in samples]).float()
    trained = descend(forward, stack(make), x, labels, epochs=epochs, lr=cell["lr"], at=at)
    return trained, history


def hidden_units(dims: int) -> int:
    """Return the width of the perceptron: the paper's 10, which it has in the plane, or as many as there are dimensions."""
    return max(10, dims)


def _nearness(fits: Sequence[Quadratic | None], truths: Sequence[Quadratic]) -> Numbers:
    """Return how near A comes to (inv(S0) - inv(S1))/2: cosine and relative distance; where that is zero, the norm of A."""
    if float(truths[0].a.norm()) < 1e-9:
        return {"norm": [None if fit is None else float(fit.a.norm()) for fit in fits]}
    pairs = list(zip(fits, truths, strict=True))
    return {
        "cosine": [None if fit is None else matrix_cosine(fit.a, truth.a) for fit, truth in pairs],
        "distance": [None if fit is None else _distance(fit.a, truth.a) for fit, truth in pairs],
    }


def _distance(a: Tensor, truth: Tensor) -> float:
    return float(((a + a.mT) / 2 - truth).norm() / truth.norm())


def _rounded(parameters: dict[str, Tensor]) -> dict[str, Any]:
    return {name: value.double().round(decimals=5).tolist() for name, value in parameters.items()}


def _summarise(rows: Sequence[Row]) -> Summary:
    """Return means over seeds with intervals, errors in percentage points, and paired differences between methods."""
    return {part: _summarise_part([row for row in rows if row["part"] == part]) for part in ("plane", "space")}


def _summarise_part(rows: Sequence[Row]) -> list[dict[str, Any]]:
    results = []
    for (family, dims, size), chosen in grouped(rows, "covariances", "dims", "size").items():
        by_method = {row["method"]: row for row in chosen}
        gaps = {name: [None if e is None else 100 * e for e in row["excess"]] for name, row in by_method.items()}
        result: dict[str, Any] = {"covariances": family, "dims": dims, "size": size}
        result["bayes"] = mean_interval([100 * a for a in by_method["neuron"]["bayes"]])
        measures = {"gap": gaps}
        for measure in ("cosine", "distance", "norm"):
            if measure in by_method["neuron"]:
                measures[measure] = {name: by_method[name][measure] for name in ("neuron", "qda")}
        for measure, values in measures.items():
            result[measure] = {name: _if_known(mean_interval, each) for name, each in values.items()}
        result["bounds"] = {
            measure: {name: _if_known(lambda known: (min(known), max(known)), each) for name, each in values.items()}
            for measure, values in measures.items()
        }
        result["neuron_less"] = {
            name: None if None in gaps[name] else paired_interval(gaps["neuron"], gaps[name])  # type: ignore[arg-type]
            for name in ("mlp", "qda")
        }
        results.append(result)
    return results


def _if_known(statistic: Callable[[Sequence[float]], Any], values: Sequence[float | None]) -> Any:
    """Return a statistic of all seeds; None where one has no value."""
    known = [value for value in values if value is not None]
    return statistic(known) if len(known) == len(values) else None


def _table(summary: Summary) -> list[Block]:
    """Return gaps to the Bayes accuracy for each setting."""
    head = ["covariances", "dimensions", "training points", "Bayes [%]"]
    head += [f"{METHODS[name]}: gap [points]" for name in METHODS]
    head += ["neuron less MLP", "neuron less QDA", "cosine of A: neuron", "cosine of A: QDA"]
    blocks: list[Block] = [
        "Gap: Bayes accuracy less the method's, in percentage points, mean over seeds with its 95% interval (t); the "
        "differences are paired by seed; below zero the neuron is the better. The MLP has one hidden layer of max(10, "
        "dimensions) units. Cosine of A with (inv(S0) - inv(S1))/2. QDA has no entry where a class has no more "
        "points than dimensions."
    ]
    for part, title in TITLES.items():
        rows = [
            [
                r["covariances"], r["dims"], r["size"], f"{r['bayes'][0]:.1f}",
                *[interval_text(r["gap"][name], 2) for name in METHODS],
                *[interval_text(r["neuron_less"][name], 2) for name in ("mlp", "qda")],
                *[interval_text(r.get("cosine", {}).get(name), 3) for name in ("neuron", "qda")],
            ]
            for r in summary[part]
        ]  # fmt: skip
        blocks += [f"## {title}", Table(head, rows, brief=(0, 1, 2, 4, 7) if part == "plane" else ())]
    return blocks


def _cost(cell: Cell) -> float:
    """Return an estimate of a cell's seconds on one core."""
    dims, seeds, points = int(cell["dims"]), int(cell["seeds"]), int(cell["size"])
    if cell["method"] == "qda":
        return 0.1 * seeds
    width = hidden_units(dims) if cell["method"] == "mlp" else dims
    return float(cell["epochs"]) * (4e-4 + seeds * points * (1e-8 * width + 1e-10 * width * dims))


_SIZES = (20, 100, 500, 2_500)
_SMOKE = Settings(100, (20, 100), {"equal": (2,), "unequal": (2, 4)}, (30,))
_QUICK = Settings(3_000, _SIZES, {"equal": (2, 8), "unequal": (2, 8, 32)}, (30, 100, 300, 1_000))
_FULL = Settings(10_000, _SIZES, {"equal": (2, 8, 32), "unequal": (2, 4, 8, 16, 32, 64)}, (30, 100, 300, 1_000, 3_000))
_SHORTENED = "3,000 of 10,000 epochs, 2 to 32 dimensions, up to 1,000 training points; MLP of max(10, dims) units."
_PAPERS = "The paper's 10,000 epochs at rate 0.1; 2 to 64 dimensions, up to 3,000 points; MLP of max(10, dims) units."
FIG1 = Experiment(
    name="fig1",
    shows="one quadratic neuron reaches the Bayes boundary of two normal classes; how many samples it needs",
    budgets={
        "smoke": Budget(_SMOKE, 2, "100 epochs, few settings.", "18 s"),
        "quick": Budget(_QUICK, 5, _SHORTENED, "106 s"),
        "full": Budget(_FULL, 5, _PAPERS, "19 core-min"),
    },
    cells=_cells,
    run=_run,
    summarise=_summarise,
    table=_table,
    draw=draw,
    cost=_cost,
)
