"""Table 5 and Fig. 5: the channel-wise term against the pixel-wise one, and the term's place, with the drop on removal."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ditcnn.analysis.figures import COLOURS
from ditcnn.analysis.intervals import mean_interval, paired_interval
from ditcnn.experiments.context import Context
from ditcnn.experiments.experiment import Budget, Cell, Experiment, Numbers, Plan, Row, Summary
from ditcnn.experiments.nets import NETS
from ditcnn.experiments.record import interval_text, markdown_table
from ditcnn.experiments.removal import accuracy, without_terms
from ditcnn.experiments.training import cost_of_cell, made_images, reported_top1, run_folder, train_cell
from ditcnn.train import load_model

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["FIG5", "TABLE5"]

_TABLE5 = ("convnext", "convnext-block3", "convnext-pixelwise")
_FIG5 = ("plain", "dit-stage1", "dit", "dit-stage3", "convnext", "convnext-block1", "convnext-block2", "convnext-block3")
_TWINS = {net: "convnext" if net.startswith("convnext") else "plain" for net in (*_TABLE5, *_FIG5)}


@dataclass(frozen=True)
class Settings:
    """Which networks are trained, and how."""

    schedule: str
    nets: tuple[str, ...]
    depth: int = 20


def _cells(plan: Plan[Settings]) -> list[Cell]:
    settings = plan.settings
    return [
        {"data": "cifar10", "net": net, "depth": settings.depth, "schedule": settings.schedule, "seed": seed}
        for seed in range(plan.seeds)
        for net in settings.nets
    ]


def _run(cell: Cell, context: Context) -> Numbers:
    numbers = train_cell(cell, context)
    if numbers["failed"] is not None or NETS[cell["net"]].model in ("resnet{depth}", "convnext_atto"):
        return numbers | {"removed_top1": None}
    trained = load_model(run_folder(cell, context).path)
    return numbers | {"removed_top1": accuracy(trained, without_terms(trained.model), context.images(cell["data"]).test)}


def _summarise(rows: Sequence[Row]) -> Summary:
    nets = []
    for net in dict.fromkeys(row["net"] for row in rows):
        own = [row for row in rows if row["net"] == net]
        twins = {row["seed"]: row for row in rows if row["net"] == _TWINS[net]}
        removed = [row for row in own if row["removed_top1"] is not None]
        pairs = [(reported_top1(row), reported_top1(twins[row["seed"]])) for row in own if net != _TWINS[net]]
        drops = paired_interval([r["test_top1"] for r in removed], [r["removed_top1"] for r in removed]) if removed else None
        gain = paired_interval([x for x, _ in pairs], [y for _, y in pairs]) if pairs else None
        nets.append(
            {
                "net": net,
                "title": NETS[net].title.format(depth=own[0]["depth"]),
                "parameters": own[0]["parameters"],
                "macs": own[0]["macs"],
                "top1": mean_interval([reported_top1(row) for row in own])._asdict(),
                "gain": gain._asdict() if gain else None,
                "drop": drops._asdict() if drops else None,
                "failed": sum(row["failed"] is not None for row in own),
            }
        )
    return {"nets": nets}


def _table(summary: Summary) -> str:
    head = ["network", "parameters", "MMACs", "test top-1 [%]", "n", "over its plain twin", "drop at A = 0", "broken off"]
    rows = [
        [
            own["title"], f"{own['parameters']:,}", f"{own['macs'] / 1e6:.1f}", _text(own["top1"]), own["top1"]["n"],
            _text(own["gain"]), _text(own["drop"]), own["failed"],
        ]
        for own in summary["nets"]
    ]  # fmt: skip
    return "\n".join(
        [
            markdown_table([*head, "the paper"], [[*row, "not available as text"] for row in rows]),
            "",
            "Differences in points, paired by seed, with 95% intervals. The drop is of the trained network when A is set to",
            "zero and nothing else is changed; a Dit-ResNet still halves its convolution's part then.",
        ]
    )


def _text(value: Mapping[str, float | None] | None) -> str:
    if value is None or value["mean"] is None:
        return "-"
    return interval_text(value["mean"], value["low"], value["high"], 2)


def _draw(summary: Summary) -> "dict[str, Figure]":
    from matplotlib.figure import Figure  # slow to import

    figure = Figure(figsize=(7, 0.45 * len(summary["nets"]) + 1.2))
    panels = figure.subplots(1, 2, sharey=True)
    for at, own in enumerate(summary["nets"]):
        for axes, value in zip(panels, (own["top1"], own["drop"]), strict=True):
            if value is not None:
                half = value["mean"] - value["low"] if value["low"] is not None else 0.0
                axes.errorbar(value["mean"], at, xerr=half, marker="o", capsize=3, linestyle="", color=COLOURS[0])
    panels[0].set(yticks=range(len(summary["nets"])), xlabel="test top-1 accuracy [%]")
    panels[0].set_yticklabels([own["title"] for own in summary["nets"]])
    panels[0].invert_yaxis()
    panels[1].set(xlabel="drop when A is set to zero [points]")
    panels[1].axvline(0, color="0.5", linewidth=0.8)
    return {"": figure}


def _experiment(name: str, shows: str, nets: tuple[str, ...], smoke: tuple[str, ...]) -> Experiment[Settings]:
    return Experiment(
        name=name,
        shows=shows,
        budgets={
            "smoke": Budget(Settings("smoke", smoke), 1, "one epoch on made images: says nothing about accuracy."),
            "quick": Budget(Settings("short", nets), 2, "shortened to 4 epochs of CIFAR-10 and small networks, 2 seeds."),
            "full": Budget(
                Settings("paper", nets), 5, "160 epochs of CIFAR-10; the paper's own networks are ImageNet's, weeks of GPUs."
            ),
        },
        cells=_cells,
        run=_run,
        summarise=_summarise,
        table=_table,
        draw=_draw,
        needs=("cifar10",),
        make_data=made_images,
        cost=cost_of_cell,
    )


TABLE5 = _experiment(
    "table5",
    "the channel-wise term against the pixel-wise one, in a small ConvNeXt (Table 5)",
    _TABLE5,
    ("convnext", "convnext-pixelwise"),
)
FIG5 = _experiment(
    "fig5", "the term's place: stages of ResNet-20, blocks of a small ConvNeXt (Fig. 5)", _FIG5, ("plain", "dit-stage3")
)
