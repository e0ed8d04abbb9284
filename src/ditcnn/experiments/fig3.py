"""Figure 3: the biological reading of the quadratic neuron, and where the term stands in both networks' blocks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import timm
import torch

import ditcnn.models  # noqa: F401  registers the models
from ditcnn.convert import quadratic_terms
from ditcnn.experiments.context import Context
from ditcnn.experiments.experiment import Budget, Cell, Experiment, Numbers, Plan, Row, Summary
from ditcnn.experiments.fig3_drawing import draw
from ditcnn.experiments.record import markdown_table

__all__ = ["FIG3"]


@dataclass(frozen=True)
class SchematicSettings:
    """The two networks that are drawn."""

    resnet: str = "dit_resnet20"
    convnext: str = "dit_convnext_tiny"


def cells(plan: Plan[SchematicSettings]) -> list[Cell]:
    """Enumerate the networks; a schematic has no seeds."""
    settings = plan.settings
    return [{"model": settings.resnet}, {"model": settings.convnext}]


def run(cell: Cell, context: Context) -> Numbers:
    """Return where the network's term stands, and its size."""
    with torch.device("meta"):
        model: Any = timm.create_model(cell["model"])
        ((place, term),) = quadratic_terms(model)
        sizes: list[int] = []
        term.register_forward_hook(lambda module, inputs, output: sizes.extend(output.shape[-2:]))
        model.eval()(torch.zeros(1, *model.default_cfg["input_size"]))
    parameters = sum(parameter.numel() for parameter in term.parameters())
    return {"place": place, "channels": term.in_features, "map": sizes, "parameters": parameters}


def summarise(rows: Sequence[Row]) -> Summary:
    """Return the networks as they are drawn."""
    return {"resnet": rows[0], "convnext": rows[1]}


def table(summary: Summary) -> str:
    """Return where the terms stand."""
    rows: list[list[Any]] = [
        [f"`{r['model']}`", f"`{r['place']}`", r["channels"], "x".join(map(str, r["map"])), f"{r['parameters']:,}"]
        for r in summary.values()
    ]
    return markdown_table(["network", "the term", "channels", "map", "parameters, with the norm in front"], rows)


_BUDGET = Budget(SchematicSettings(), 1, "A schematic: every budget is the same.", measured="5 s")
FIG3 = Experiment(
    name="fig3",
    shows="the biological reading: cones, receptive fields, linear and bilinear sums, and the term in both networks",
    budgets={"smoke": _BUDGET, "quick": _BUDGET, "full": _BUDGET},
    cells=cells,
    run=run,
    summarise=summarise,
    table=table,
    draw=draw,
)
