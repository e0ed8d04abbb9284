"""Table 5 and Fig. 5: the channel-wise term, the pixel-wise one, more depth; the term's place, and the drop on removal."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ditcnn.analysis.figures import COLOURS
from ditcnn.analysis.intervals import Interval, paired_interval
from ditcnn.experiments.context import Context
from ditcnn.experiments.experiment import Budget, Cell, Experiment, Numbers, Plan, Row, Summary
from ditcnn.experiments.nets import NETS
from ditcnn.experiments.provenance import taken_over, taken_over_text
from ditcnn.experiments.record import interval_text, markdown_table
from ditcnn.experiments.removal import accuracy, without_terms
from ditcnn.experiments.reported import (
    ACCURACY_OF,
    accuracies,
    accuracy_heads,
    accuracy_texts,
    broken_off_text,
    reported_top1,
    selected_on,
)
from ditcnn.experiments.training import cost_of_cell, folder_of, made_images, train_cell
from ditcnn.train import load_model

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["FIG5", "TABLE5"]

_TABLE5 = ("convnext", "convnext-deeper", "convnext-block3", "convnext-pixelwise")
_TERMS = ("convnext-block3", "convnext-pixelwise")  # at the same place
_EQUAL_COST = ("convnext-block3", "convnext-deeper")
_DROP_OF = {"holdout": "this network", "test": "the network of the last epoch, which is the one saved,"}
_FIG5 = ("plain", "dit-stage1", "dit", "dit-stage3", "convnext", "convnext-block1", "convnext-block2", "convnext-block3")
_WITHOUT_TERM = tuple(net for net in (*_TABLE5, *_FIG5) if not NETS[net].model.startswith("dit_"))
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
    if numbers["failed"] is not None or cell["net"] in _WITHOUT_TERM:
        return numbers | {"whole_top1": None, "removed_top1": None}
    trained, test = load_model(folder_of(numbers, context).path), context.images(cell["data"]).test
    models = {"whole_top1": trained.model, "removed_top1": without_terms(trained.model)}  # both on the CPU
    return numbers | {name: accuracy(trained, model, test) for name, model in models.items()}


def _summarise(rows: Sequence[Row]) -> Summary:
    nets = []
    for net in dict.fromkeys(row["net"] for row in rows):
        own = [row for row in rows if row["net"] == net]
        removed = [row for row in own if row["removed_top1"] is not None]
        kept, left = ([row[name] for row in removed] for name in ("whole_top1", "removed_top1"))
        gain = _paired_difference(rows, net, _TWINS[net]) if net != _TWINS[net] else None
        nets.append(
            {
                "net": net,
                "title": NETS[net].title.format(depth=own[0]["depth"]),
                "parameters": own[0]["parameters"],
                "macs": own[0]["macs"],
                **accuracies(own),
                "gain": gain,
                "drop": paired_interval(kept, left) if removed else None,
                "failed": sum(row["failed"] is not None for row in own),
            }
        )
    about = {"selected_on": selected_on(rows[0]), "taken_over": taken_over(rows)}
    return about | {
        "nets": nets,
        "channelwise_less_pixelwise": _paired_difference(rows, *_TERMS),
        "channelwise_less_deeper": _paired_difference(rows, *_EQUAL_COST),
    }


def _drop_of_the_others(nets: Sequence[Mapping[str, Any]]) -> str:
    return "The drop is of the other runs alone. " if any(own["failed"] for own in nets) else ""


def _paired_difference(rows: Sequence[Row], first: str, second: str) -> Interval | None:
    """Return the paired difference of two networks over the seeds that both have; None where there are none."""
    own, other = ({row["seed"]: reported_top1(row) for row in rows if row["net"] == net} for net in (first, second))
    seeds = sorted(own.keys() & other.keys())
    return paired_interval([own[seed] for seed in seeds], [other[seed] for seed in seeds]) if seeds else None


def _table(summary: Summary) -> str:
    head = ["network", "parameters", "of the term", "MMACs", *accuracy_heads(summary["selected_on"])]
    head += ["n", "over its plain twin", "drop at A = 0", "broken off"]
    plain = {own["net"]: own["parameters"] for own in summary["nets"]}
    rows = [
        [
            own["title"], f"{own['parameters']:,}", _extra(own, plain), f"{own['macs'] / 1e6:.1f}",
            *accuracy_texts(own, summary["selected_on"]), own["top1"].n,
            interval_text(own["gain"], 2), interval_text(own["drop"], 2), own["failed"],
        ]
        for own in summary["nets"]
    ]  # fmt: skip
    return "\n".join(
        [
            markdown_table([*head, "the paper"], [[*row, "not available as text"] for row in rows]),
            "",
            *_rivals(summary, plain),
            f"{ACCURACY_OF[summary['selected_on']]} Differences in points, paired by seed, with 95% intervals. The drop",
            f"is of {_DROP_OF[summary['selected_on']]} when A is set to zero and nothing else is changed; a Dit-ResNet",
            "still halves its convolution's part then. "
            + broken_off_text(summary["nets"])
            + _drop_of_the_others(summary["nets"])
            + taken_over_text(summary["taken_over"]),
        ]
    )


def _extra(own: Mapping[str, Any], parameters: Mapping[str, int]) -> str:
    """Return how many parameters a network has more than its plain twin, where that is there."""
    twin = _TWINS[own["net"]]
    return "-" if own["net"] in _WITHOUT_TERM or twin not in parameters else f"{own['parameters'] - parameters[twin]:,}"


def _rivals(summary: Summary, parameters: Mapping[str, int]) -> list[str]:
    """Return the lines of table 5's own comparisons."""
    costs = " against ".join(
        f"{parameters[net] - parameters['convnext']:,}" for net in _TERMS if {net, "convnext"} <= parameters.keys()
    )
    comparisons: list[tuple[str, Interval | None, str]] = [
        ("pixel-wise", summary["channelwise_less_pixelwise"], f", terms of {costs} parameters" if costs else ""),
        ("a plain network of equal cost", summary["channelwise_less_deeper"], ""),
    ]
    lines = []
    for other, less, cost in comparisons:
        if less is not None:
            lines += [f"Channel-wise less {other}: {interval_text(less, 2)} points, n = {less.n}{cost}.", ""]
    return lines


def _draw(summary: Summary) -> "dict[str, Figure]":
    from matplotlib.figure import Figure  # slow to import

    figure = Figure(figsize=(7, 0.45 * len(summary["nets"]) + 1.2))
    panels = figure.subplots(1, 2, sharey=True)
    for at, own in enumerate(summary["nets"]):
        for axes, value in zip(panels, (own["top1"], own["drop"]), strict=True):
            if value is not None:
                axes.errorbar(value.mean, at, xerr=value.half, marker="o", capsize=3, linestyle="", color=COLOURS[0])
    panels[0].set(yticks=range(len(summary["nets"])), xlabel="test top-1 accuracy [%]")
    panels[0].set_yticklabels([own["title"] for own in summary["nets"]])
    panels[0].invert_yaxis()
    panels[1].set(xlabel="drop at A = 0 [points]")
    panels[1].axvline(0, color="0.5", linewidth=0.8)
    return {"": figure}


def _experiment(
    name: str, shows: str, nets: tuple[str, ...], smoke: tuple[str, ...], *, quick_measured: str
) -> Experiment[Settings]:
    return Experiment(
        name=name,
        shows=shows,
        budgets={
            "smoke": Budget(Settings("smoke", smoke), 1, "one epoch on made images: says nothing about accuracy.", "11 s"),
            "quick": Budget(
                Settings("short", nets), 2, "shortened to 4 epochs of CIFAR-10 and small networks, 2 seeds.", quick_measured
            ),
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
    "the channel-wise term against the pixel-wise one and against depth, in a small ConvNeXt (Table 5)",
    _TABLE5,
    ("convnext", "convnext-pixelwise"),
    quick_measured="55 min",
)
FIG5 = _experiment(
    "fig5",
    "the term's place: stages of ResNet-20, blocks of a small ConvNeXt (Fig. 5)",
    _FIG5,
    ("plain", "dit-stage3"),
    quick_measured="87 min",
)
