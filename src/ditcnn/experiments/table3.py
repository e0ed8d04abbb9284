"""Table 3 and the right half of Fig. 4: Dit-ConvNeXt on ImageNet; costs are computed, accuracies quoted."""

from collections.abc import Sequence
from dataclasses import dataclass

import timm
import torch

from ditcnn.analysis.figures import line_style
from ditcnn.cost import cost_of
from ditcnn.experiments.engine.drawing import Figures, new_figure
from ditcnn.experiments.engine.experiment import Budget, Cell, Context, Experiment, Numbers, Plan, Row, Summary
from ditcnn.experiments.engine.tables import Block, Table

__all__ = ["TABLE3"]

PAPER = "Liu et al., NeurIPS 2024, Table 3"

# Top-1 on ImageNet-1K at 224x224 in percent: of the networks that are built here, and of others with parameters in millions.
QUOTED = {
    "Dit-ConvNeXt": {"dit_convnext_tiny": 82.6, "dit_convnext_small": 83.6, "dit_convnext_base": 84.2},
    "ConvNeXt": {"convnext_tiny": 82.1, "convnext_small": 83.1, "convnext_base": 83.8},
}
DEEPMAD = ((29, 82.5), (50, 83.9), (89, 84.0))  # TinyNAS, README
HORNET = {"T": 82.8, "S": 83.8, "B": 84.2}  # HorNet, README
_NAMED = {
    model: (f"{family}-{size}", top1)
    for family, models in QUOTED.items()
    for size, (model, top1) in zip("TSB", models.items(), strict=True)
}


@dataclass(frozen=True)
class Settings:
    """Which of the networks are built."""

    sizes: tuple[str, ...]


def _cells(plan: Plan[Settings]) -> list[Cell]:
    return [{"model": f"{kind}_{size}"} for kind in ("dit_convnext", "convnext") for size in plan.settings.sizes]


def _run(cell: Cell, context: Context) -> Numbers:
    with torch.device("meta"):
        model = timm.create_model(cell["model"])
    cost = cost_of(model, (3, 224, 224), 2)
    return {"parameters": cost.parameters, "macs": cost.macs, "macs_executed": cost.macs_executed}


def _summarise(rows: Sequence[Row]) -> Summary:
    return {"nets": rows}


def _table(summary: Summary) -> list[Block]:
    head = ["network", "parameters", "GMACs", "GMACs, symmetry used", "top-1 [%], quoted", "ours", "source"]
    rows = []
    for own in summary["nets"]:
        name, top1 = _NAMED.get(own["model"], (own["model"], None))
        costs = [f"{own['parameters']:,}", f"{own['macs'] / 1e9:.2f}", f"{own['macs_executed'] / 1e9:.2f}"]
        quoted = ["-", "not trained", "not in the paper"] if top1 is None else [f"{top1:.1f}", "not trained", PAPER]
        rows.append([name, *costs, *quoted])
    rows += [[f"DeepMAD-{size}M", f"{size}M", "-", "-", f"{top1:.1f}", "-", "TinyNAS, README"] for size, top1 in DEEPMAD]
    rows += [[f"HorNet-{size} (7x7)", "-", "-", "-", f"{top1:.1f}", "-", "HorNet, README"] for size, top1 in HORNET.items()]
    rows.append(["QuadraNet, transformers, state-space models", "-", "-", "-", "not available as text", "-", PAPER])
    train = "torchrun --nproc_per_node=8 -m ditcnn train imagenet --model {} --data DIR"
    commands = "\n".join(train.format(own["model"]) for own in summary["nets"])
    return [
        Table(head, rows, brief=(0, 1, 2, 4)),
        "Parameters and multiplications are computed from shapes at 224x224 with 1,000 classes; GMACs count a term as\n"
        "the paper does, O C^2 a position. What would train each network, 300 epochs on 8 GPUs as in the paper:",
        f"```sh\n{commands}\n```",
    ]


def _draw(summary: Summary, rows: Sequence[Row]) -> Figures:
    figure, panels = new_figure(4.6, 3.0)
    axes = panels[0, 0]
    millions = {own["model"]: own["parameters"] / 1e6 for own in summary["nets"]}
    families: dict[str, Sequence[tuple[float, float]]] = {
        family: [(millions[model], top1) for model, top1 in models.items() if model in millions]
        for family, models in QUOTED.items()
    }
    for index, (name, points) in enumerate((families | {"DeepMAD": DEEPMAD}).items()):
        axes.plot([x for x, _ in points], [y for _, y in points], label=name, **line_style(index))
    axes.set(xlabel="parameters [millions]", ylabel="ImageNet top-1 [%], quoted")
    axes.legend()
    return {"": figure}


_WHOLE = Budget(Settings(("tiny", "small", "base")), 1, "the paper's sizes; nothing is trained.", "18 core-s")
TABLE3 = Experiment(
    name="table3",
    shows="Dit-ConvNeXt on ImageNet: parameters and MACs computed, accuracies quoted (Table 3, Fig. 4 right)",
    budgets={
        "smoke": Budget(Settings(("atto",)), 1, "one size that the paper does not have.", "10 s"),
        "quick": _WHOLE,
        "full": _WHOLE,
    },
    cells=_cells,
    run=_run,
    summarise=_summarise,
    table=_table,
    draw=_draw,
)
