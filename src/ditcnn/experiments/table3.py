"""Table 3 and the right half of Fig. 4: Dit-ConvNeXt on ImageNet; costs are computed, accuracies quoted."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import timm
import torch

from ditcnn.analysis.figures import line_style
from ditcnn.cost import cost_of
from ditcnn.experiments.context import Context
from ditcnn.experiments.experiment import Budget, Cell, Experiment, Numbers, Plan, Row, Summary
from ditcnn.experiments.record import markdown_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["TABLE3"]

PAPER = "Liu et al., NeurIPS 2024, Table 3"

# Top-1 on ImageNet-1K at 224x224 in percent, and parameters in millions where the network is not built here.
QUOTED: tuple[dict[str, Any], ...] = (
    {"net": "Dit-ConvNeXt-T", "model": "dit_convnext_tiny", "top1": 82.6, "source": PAPER},
    {"net": "Dit-ConvNeXt-S", "model": "dit_convnext_small", "top1": 83.6, "source": PAPER},
    {"net": "Dit-ConvNeXt-B", "model": "dit_convnext_base", "top1": 84.2, "source": PAPER},
    {"net": "ConvNeXt-T", "model": "convnext_tiny", "top1": 82.1, "source": PAPER},
    {"net": "ConvNeXt-S", "model": "convnext_small", "top1": 83.1, "source": PAPER},
    {"net": "ConvNeXt-B", "model": "convnext_base", "top1": 83.8, "source": PAPER},
    {"net": "DeepMAD-29M", "millions": 29, "top1": 82.5, "source": "TinyNAS, README"},
    {"net": "DeepMAD-50M", "millions": 50, "top1": 83.9, "source": "TinyNAS, README"},
    {"net": "DeepMAD-89M", "millions": 89, "top1": 84.0, "source": "TinyNAS, README"},
    {"net": "HorNet-T (7x7)", "top1": 82.8, "source": "HorNet, README"},
    {"net": "HorNet-S (7x7)", "top1": 83.8, "source": "HorNet, README"},
    {"net": "HorNet-B (7x7)", "top1": 84.2, "source": "HorNet, README"},
    {"net": "QuadraNet, transformers, state-space models", "source": PAPER},
)


@dataclass(frozen=True)
class Settings:
    """Which of the networks are built."""

    sizes: tuple[str, ...]


def _cells(plan: Plan[Settings]) -> list[Cell]:
    return [{"model": f"{kind}{size}"} for kind in ("dit_convnext_", "convnext_") for size in plan.settings.sizes]


def _run(cell: Cell, context: Context) -> Numbers:
    with torch.device("meta"):
        model = timm.create_model(cell["model"])
    cost = cost_of(model, (3, 224, 224), 2)
    return {"parameters": cost.parameters, "macs": cost.macs, "macs_executed": cost.macs_executed}


def _summarise(rows: Sequence[Row]) -> Summary:
    quoted = {own["model"]: own for own in QUOTED if "model" in own}
    nets = [
        {
            "net": quoted.get(row["model"], {}).get("net", row["model"]),
            "top1": quoted.get(row["model"], {}).get("top1"),
            "source": quoted.get(row["model"], {}).get("source", "not in the paper"),
            "command": f"torchrun --nproc_per_node=8 -m ditcnn train imagenet --model {row['model']} --data DIR",
            **row,
        }
        for row in rows
    ]
    return {"nets": nets, "others": [own for own in QUOTED if "model" not in own]}


def _table(summary: Summary) -> str:
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
        for own in summary["others"]
    ]  # fmt: skip
    commands = "\n".join(own["command"] for own in summary["nets"])
    return "\n".join(
        [
            markdown_table(head, rows),
            "",
            "Parameters and multiplications are computed from shapes at 224x224 with 1,000 classes; GMACs count a term as",
            "the paper does, O C^2 a position. What would train each network, 300 epochs on 8 GPUs as in the paper:",
            "",
            "```sh",
            commands,
            "```",
        ]
    )


def _draw(summary: Summary) -> "dict[str, Figure]":
    from matplotlib.figure import Figure  # slow to import

    figure = Figure(figsize=(4.6, 3.0))
    axes = figure.subplots()
    families = (
        ("Dit-ConvNeXt", [n for n in summary["nets"] if n["model"].startswith("dit_")]),
        ("ConvNeXt", [n for n in summary["nets"] if n["model"].startswith("convnext_")]),
        ("DeepMAD", [n for n in summary["others"] if "millions" in n]),
    )
    for index, (name, own) in enumerate(families):
        points = [(n["millions"] if "millions" in n else n["parameters"] / 1e6, n["top1"]) for n in own if n["top1"]]
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
