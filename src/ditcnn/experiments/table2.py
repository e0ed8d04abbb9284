"""Table 2 and the left half of Fig. 4: plain, Dit and older quadratic ResNets on CIFAR-10 and CIFAR-100."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ditcnn.analysis.figures import line_style
from ditcnn.experiments.experiment import Budget, Cell, Experiment, Plan, Row, Summary
from ditcnn.experiments.nets import NETS
from ditcnn.experiments.provenance import taken_over, taken_over_text
from ditcnn.experiments.record import markdown_table
from ditcnn.experiments.reported import (
    ACCURACY_OF,
    accuracies,
    accuracy_heads,
    accuracy_texts,
    broken_off_text,
    selected_on,
)
from ditcnn.experiments.training import cost_of_cell, made_images, train_cell

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["TABLE2"]

OURS = ("plain", "dit", "dit-published")
RIVALS = ("fan", "quadralib", "qres")

# Figures of others, on CIFAR-10 and CIFAR-100 in percent; the paper's own are not available as text.
QUOTED: tuple[dict[str, str], ...] = (
    {"net": "ResNet, Dit-ResNet, QResNet, QuadraResNet", "cifar10": "not available as text",
     "cifar100": "not available as text", "source": "Liu et al., NeurIPS 2024, Table 2"},
    {"net": "QResNet14 (0.39M)", "cifar10": "93.23", "cifar100": "69.58", "source": "QuadraLib, README"},
    {"net": "ResNet-32 (0.48M)", "cifar10": "92.83", "cifar100": "69.13", "source": "QuadraLib, README"},
    {"net": "ResNet-20 / 32 / 56 / 110, 64-feature head", "cifar10": "91.73 / 92.63 / 93.39 / 93.68", "cifar100": "-",
     "source": "akamaster/pytorch_resnet_cifar10, README (as errors)"},
)  # fmt: skip


@dataclass(frozen=True)
class Settings:
    """Which networks are trained, and how."""

    schedule: str
    depths: tuple[int, ...]
    rival_seeds: int
    with_cifar100: bool


def _cells(plan: Plan[Settings]) -> list[Cell]:
    settings = plan.settings
    sets = [name for name in ("cifar10", "cifar100") if name == "cifar10" or (settings.with_cifar100 and name in plan.sets)]
    return [
        {"data": data, "net": net, "depth": depth, "schedule": settings.schedule, "seed": seed}
        for seed in range(plan.seeds)
        for data in sets
        for depth in settings.depths
        for net in OURS + (RIVALS if seed < settings.rival_seeds else ())
    ]


def _summarise(rows: Sequence[Row]) -> Summary:
    groups: dict[tuple[str, int, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["data"], row["depth"], row["net"]), []).append(row)
    nets = []
    for (data, depth, net), own in groups.items():
        seconds = [row["median_epoch_seconds"] for row in own if row["median_epoch_seconds"]]
        nets.append(
            {
                "data": data,
                "depth": depth,
                "net": net,
                "title": NETS[net].title.format(depth=depth),
                "parameters": own[0]["parameters"],
                "macs": own[0]["macs"],
                "epoch_seconds": statistics.median(seconds) if seconds else None,
                **accuracies(own),
                "failed": sum(row["failed"] is not None for row in own),
            }
        )
    about = {"selected_on": selected_on(rows[0]), "taken_over": taken_over(rows)}
    return about | {"nets": nets, "quoted": list(QUOTED)}


def _table(summary: Summary) -> str:
    head = ["network", "data", "parameters", "MMACs", "s an epoch", *accuracy_heads(summary["selected_on"])]
    head += ["n", "broken off", "the paper"]
    rows = [
        [
            own["title"], own["data"], f"{own['parameters']:,}", f"{own['macs'] / 1e6:.1f}",
            f"{own['epoch_seconds']:.1f}" if own["epoch_seconds"] else "-",
            *accuracy_texts(own, summary["selected_on"]), own["top1"].n, own["failed"], "not available as text",
        ]
        for own in summary["nets"]
    ]  # fmt: skip
    quoted = [[own["net"], own["cifar10"], own["cifar100"], own["source"]] for own in summary["quoted"]]
    return "\n".join(
        [
            markdown_table(head, rows),
            "",
            f"{ACCURACY_OF[summary['selected_on']]} Means over n seeds, with their 95% intervals. "
            + broken_off_text(summary["nets"])
            + taken_over_text(summary["taken_over"]),
            "",
            "Of others, under their own settings:",
            "",
            markdown_table(["network", "CIFAR-10 [%]", "CIFAR-100 [%]", "source"], quoted),
        ]
    )


def _draw(summary: Summary) -> "dict[str, Figure]":
    from matplotlib.figure import Figure  # slow to import

    sets = list(dict.fromkeys(own["data"] for own in summary["nets"]))
    figure = Figure(figsize=(3.6 * len(sets) + 1, 3.0))
    panels = figure.subplots(1, len(sets), squeeze=False)[0]
    for axes, data in zip(panels, sets, strict=True):
        for index, net in enumerate((*OURS, *RIVALS)):
            own = [n for n in summary["nets"] if n["data"] == data and n["net"] == net]
            if not own:
                continue
            whole = [n for n in own if not n["failed"]]  # a mean with chance in it would need an axis of its own
            means, halves = [n["top1"].mean for n in whole], [n["top1"].half for n in whole]
            label = NETS[net].title.replace("-{depth}", "") + ("" if len(whole) == len(own) else " (broken off)")
            axes.errorbar([n["parameters"] / 1e6 for n in whole], means, halves, label=label, capsize=3, **line_style(index))
        axes.set(xlabel="parameters [millions]", ylabel="test top-1 accuracy [%]", title=data, xscale="log")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter("{x:.1g}")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return {"": figure}


TABLE2 = Experiment(
    name="table2",
    shows="plain, Dit and older quadratic ResNets on CIFAR: parameters, time and accuracy (Table 2, Fig. 4 left)",
    budgets={
        "smoke": Budget(
            Settings("smoke", (20,), 1, False), 1, "one epoch on made images: says nothing about accuracy.", "14 s"
        ),
        "quick": Budget(
            Settings("short", (20,), 2, False),
            5,
            "shortened to depth 20 and 4 epochs of CIFAR-10; older networks at 2 seeds; the others are the "
            "comparison's runs, where they lie beside.",
            "88 min",
        ),
        "full": Budget(
            Settings("paper", (20, 32, 56, 110), 5, True),
            5,
            "the paper's: 160 epochs, all depths; CIFAR-100 where --data has it.",
        ),
    },
    cells=_cells,
    run=train_cell,
    summarise=_summarise,
    table=_table,
    draw=_draw,
    needs=("cifar10",),
    may_use=("cifar100",),
    make_data=made_images,
    cost=cost_of_cell,
)
