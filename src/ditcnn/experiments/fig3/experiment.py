"""Figure 3: where the term stands in both networks' blocks, and its size."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import timm
import torch

import ditcnn.models  # noqa: F401  registers the models
from ditcnn.convert import quadratic_terms
from ditcnn.experiments.engine.experiment import Budget, Cell, Context, Experiment, Numbers, Plan, Row, Summary
from ditcnn.experiments.engine.tables import Block, Table
from ditcnn.experiments.fig3.drawing import draw

__all__ = ["FIG3"]


@dataclass(frozen=True)
class Settings:
    """The two networks that are drawn."""

    resnet: str = "dit_resnet20"
    convnext: str = "dit_convnext_tiny"


def _cells(plan: Plan[Settings]) -> list[Cell]:
    return [{"model": plan.settings.resnet}, {"model": plan.settings.convnext}]  # a schematic has no seeds


def _run(cell: Cell, context: Context) -> Numbers:
    with torch.device("meta"):
        model: Any = timm.create_model(cell["model"])
        ((place, term),) = quadratic_terms(model)
        sizes: list[int] = []
        term.register_forward_hook(lambda module, inputs, output: sizes.extend(output.shape[-2:]))
        model.eval()(torch.zeros(1, *model.default_cfg["input_size"]))
    parameters = sum(parameter.numel() for parameter in term.parameters())
    return {"place": place, "channels": term.in_features, "map": sizes, "parameters": parameters}


def _summarise(rows: Sequence[Row]) -> Summary:
    return {"resnet": rows[0], "convnext": rows[1]}


def _table(summary: Summary) -> list[Block]:
    rows: list[list[Any]] = [
        [f"`{r['model']}`", f"`{r['place']}`", r["channels"], "x".join(map(str, r["map"])), f"{r['parameters']:,}"]
        for r in summary.values()
    ]
    return [Table(["network", "the term", "channels", "map", "parameters, with the norm in front"], rows, range(4))]


_BUDGET = Budget(Settings(), 1, "A schematic: every budget is the same.", measured="5 s")
FIG3 = Experiment(
    name="fig3",
    shows="the biological reading: cones, receptive fields, linear and bilinear sums, and the term in both networks",
    budgets={"smoke": _BUDGET, "quick": _BUDGET, "full": _BUDGET},
    cells=_cells,
    run=_run,
    summarise=_summarise,
    table=_table,
    draw=draw,
)
