"""Table 3 and the right half of Fig. 4: Dit-ConvNeXt on ImageNet; costs are computed, accuracies quoted."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import timm
import torch

from ditcnn.analysis.figures import line_style
from ditcnn.cost import cost_of
from ditcnn.experiments.engine.drawing import Figures, new_figure
from ditcnn.experiments.engine.experiment import Budget, Cell, Context, Experiment, Numbers, Plan, Row, Summary
from ditcnn.experiments.engine.tables import Block, Table

__all__ = ["TABLE3"]

PAPER = "Liu et al., NeurIPS 2024, Table 3"

# Top-1 on ImageNet-1K at 224x224 in percent, and parameters in millions where the network is not built here.
FAMILIES: dict[str, tuple[dict[str, Any], ...]] = {
    "Dit-ConvNeXt": (
        {"net": "Dit-ConvNeXt-T", "model": "dit_convnext_tiny", "top1": 82.6, "source": PAPER},
        {"net": "Dit-ConvNeXt-S", "model": "dit_convnext_small", "top1": 83.6, "source": PAPER},
        {"net": "Dit-ConvNeXt-B", "model": "dit_convnext_base", "top1": 84.2, "source": PAPER},
    ),
    "ConvNeXt": (
        {"net": "ConvNeXt-T", "model": "convnext_tiny", "top1": 82.1, "source": PAPER},
        {"net": "ConvNeXt-S", "model": "convnext_small", "top1": 83.1, "source": PAPER},
        {"net": "ConvNeXt-B", "model": "convnext_base", "top1": 83.8, "source": PAPER},
    ),
    "DeepMAD": (
        {"net": "DeepMAD-29M", "millions": 29, "top1": 82.5, "source": "TinyNAS, README"},
        {"net": "DeepMAD-50M", "millions": 50, "top1": 83.9, "source": "TinyNAS, README"},
        {"net": "DeepMAD-89M", "millions": 89, "top1": 84.0, "source": "TinyNAS, README"},
    ),
    "others": (
        {"net": "HorNet-T (7x7)", "top1": 82.8, "source": "HorNet, README"},
        {"net": "HorNet-S (7x7)", "top1": 83.8, "source": "HorNet, README"},
        {"net": "HorNet-B (7x7)", "top1": 84.2, "source": "HorNet, README"},
        {"net": "QuadraNet, transformers, state-space models", "source": PAPER},
    ),
}
_QUOTED = {own["model"]: own for own in (*FAMILIES["Dit-ConvNeXt"], *FAMILIES["ConvNeXt"])}
_OTHERS = (*FAMILIES["DeepMAD"], *FAMILIES["others"])
_KINDS = {"Dit-ConvNeXt": "dit_convnext", "ConvNeXt": "convnext"}


@dataclass(frozen=True)
class Settings:
    """Which of the networks are built."""

    sizes: tuple[str, ...]


def _cells(plan: Plan[Settings]) -> list[Cell]:
    return [{"model": f"{kind}_{size}"} for kind in _KINDS.values() for size in plan.settings.sizes]


def _run(cell: Cell, context: Context) -> Numbers:
    with torch.device("meta"):
        model = timm.create_model(cell["model"])
    cost = cost_of(model, (3, 224, 224), 2)
    return {"parameters": cost.parameters, "macs": cost.macs, "macs_executed": cost.macs_executed}


def _summarise(rows: Sequence[Row]) -> Summary:
    unknown = {"top1": None, "source": "not in the paper"}
    return {"nets": [{"net": row["model"]} | unknown | _QUOTED.get(row["model"], {}) | row for row in rows]}


def _table(summary: Summary) -> list[Block]:
    head = ["network", "parameters", "GMACs", "GMACs, symmetry used", "top-1 [%], quoted", "ours", "source"]
    rows = [
        [
            own["net"], f"{own['parameters']:,}", f"{own['macs'] / 1e9:.2f}", f"{own['macs_executed'] / 1e9:.2f}",
            "-" if own["top1"] is None else f"{own['top1']:.1f}", "not trained", own["source"],
        ]
        for own in summary["nets"]
    ]  # fmt: skip
    rows += [
        [own["net"], f"{own['millions']}M" if "millions" in own else "-", "-", "-",
         f"{own['top1']:.1f}" if "top1" in own else "not available as text", "-", own["source"]]
        for own in _OTHERS
    ]  # fmt: skip
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
    built = {own["model"]: own["parameters"] / 1e6 for own in summary["nets"]}
    for index, name in enumerate(("Dit-ConvNeXt", "ConvNeXt", "DeepMAD")):
        points = [(own["millions"] if "millions" in own else built.get(own["model"]), own["top1"]) for own in FAMILIES[name]]
        points = [(x, y) for x, y in points if x is not None]
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
