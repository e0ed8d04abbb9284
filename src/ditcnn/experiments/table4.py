"""Table 4: what the term does in a trained Dit-ResNet, by taking it out, or the part of it that sees correlation."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ditcnn.analysis.figures import COLOURS
from ditcnn.analysis.intervals import mean_interval, paired_interval
from ditcnn.data.split import trained_on
from ditcnn.experiments.context import Context
from ditcnn.experiments.experiment import Budget, Cell, Experiment, Numbers, Plan, Row, Summary
from ditcnn.experiments.nets import NETS, recipe_of
from ditcnn.experiments.provenance import taken_over, taken_over_text
from ditcnn.experiments.record import interval_text, markdown_table
from ditcnn.experiments.removal import measure_removal
from ditcnn.experiments.reported import selected_on
from ditcnn.experiments.training import cost_of_cell, folder_of, made_images, train_cell
from ditcnn.train import load_model

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["TABLE4"]

NETWORKS = ("dit", "dit-published")
_EPOCH = {"holdout": "of the epoch chosen on held-out images", "test": "of the last epoch, not the best one on test"}
TREATMENTS = ("whole", "less tr(A S)", "Q = 0")


@dataclass(frozen=True)
class Settings:
    """How the networks were trained that are taken apart."""

    schedule: str
    sets: tuple[str, ...]
    depths: tuple[int, ...]


def _cells(plan: Plan[Settings]) -> list[Cell]:
    return [
        {"data": data, "net": net, "depth": depth, "schedule": plan.settings.schedule, "seed": seed, "measure": "removal"}
        for seed in range(plan.seeds)
        for data in plan.settings.sets
        if data in plan.sets
        for depth in plan.settings.depths
        for net in NETWORKS
    ]


def _run(cell: Cell, context: Context) -> Numbers:
    run = train_cell(cell, context)
    about = {"failed": run["failed"], "run": run["run"]}
    if run["failed"] is not None:
        return about | {"top1": None, "of_mean": None, "of_covariance": None}
    trained, data = load_model(folder_of(run, context).path), context.images(cell["data"])
    seen = trained_on(data, recipe_of(cell).protocol)
    removal = measure_removal(trained, seen, data.test, progress=context.progress)
    (own,) = removal.parts.values()
    top1 = dict(zip(TREATMENTS, (removal.whole, removal.less_covariance, removal.without), strict=True))
    return about | {"top1": top1, "of_mean": own.of_mean.tolist(), "of_covariance": own.of_covariance.tolist()}


def _summarise(rows: Sequence[Row]) -> Summary:
    groups: dict[tuple[str, int, str], list[Row]] = {}
    for row in rows:
        if row["failed"] is None:
            groups.setdefault((row["data"], row["depth"], row["net"]), []).append(row)
    nets = []
    for (data, depth, net), own in groups.items():
        values = {name: [row["top1"][name] for row in own] for name in TREATMENTS}
        nets.append(
            {
                "data": data,
                "depth": depth,
                "title": NETS[net].title.format(depth=depth),
                "values": values,
                "top1": {name: mean_interval(v) for name, v in values.items()},
                "drop": {name: paired_interval(values["whole"], values[name]) for name in TREATMENTS[1:]},
            }
        )
    about = {"selected_on": selected_on(rows[0]), "taken_over": taken_over(rows)}
    return about | {"nets": nets, "left_out": sum(row["failed"] is not None for row in rows)}


def _table(summary: Summary) -> str:
    head = ["network", "data", "n", *[f"{name} [%]" for name in TREATMENTS], *[f"drop, {name}" for name in TREATMENTS[1:]]]
    rows = [
        [
            own["title"], own["data"], own["top1"]["whole"].n,
            *[interval_text(own["top1"][name], 2) for name in TREATMENTS],
            *[interval_text(own["drop"][name], 2) for name in TREATMENTS[1:]],
        ]
        for own in summary["nets"]
    ]  # fmt: skip
    return "\n".join(
        [
            markdown_table([*head, "the paper"], [[*row, "not available as text"] for row in rows]),
            "",
            f"Test accuracy of the trained networks, {_EPOCH[summary['selected_on']]}, taken apart without training on;",
            "drops are paired by seed, with 95% intervals. *Q = 0*: A is set to zero; the halving of the convolution's",
            "part stays. *Less tr(A S)*: from the term's map the number tr(A_o S) is subtracted, one for each output",
            "channel o, at each position of each image; S is the covariance of the channels at the term's input, behind its",
            "norm, over all positions of the images trained on, without augmentation. The paper does not say what it takes."
            + _left_out(summary["left_out"]),
            taken_over_text(summary["taken_over"]),
        ]
    )


def _left_out(count: int) -> str:
    return f" Runs broken off ({count}) have no network to take apart." if count else ""


def _draw(summary: Summary) -> "dict[str, Figure]":
    from matplotlib.figure import Figure  # slow to import

    nets = summary["nets"]
    several = len({own["data"] for own in nets}) > 1
    columns = min(4, max(1, len(nets)))
    lines = max(1, -(-len(nets) // columns))
    figure = Figure(figsize=(3.4 * columns, 2.8 * lines))
    panels = figure.subplots(lines, columns, squeeze=False).ravel()
    for axes, own in zip(panels, nets, strict=False):
        for values in zip(*(own["values"][name] for name in TREATMENTS), strict=True):
            axes.plot(range(len(TREATMENTS)), values, marker="o", linestyle="-", color=COLOURS[0], alpha=0.6)
        title = f"{own['title']}, {own['data']}" if several else own["title"]
        axes.set(xticks=range(len(TREATMENTS)), ylabel="test top-1 accuracy [%]", title=title)
        axes.set_xticklabels(TREATMENTS)
    for axes in panels[len(nets) :]:
        axes.set_axis_off()
    return {"": figure}


TABLE4 = Experiment(
    name="table4",
    shows="what the term does in a trained net: taken out, or less its covariance part tr(A S) (Table 4)",
    budgets={
        "smoke": Budget(Settings("smoke", ("cifar10",), (20,)), 2, "networks of one epoch on made images.", "11 s"),
        "quick": Budget(
            Settings("short", ("cifar10",), (20,)),
            5,
            "networks of 4 epochs of CIFAR-10; those of the comparison, where they lie beside.",
            "18 min",
        ),
        "full": Budget(
            Settings("paper", ("cifar10", "cifar100"), (20, 32, 56, 110)), 5, "the paper's: networks of 160 epochs."
        ),
    },
    cells=_cells,
    run=_run,
    summarise=_summarise,
    table=_table,
    draw=_draw,
    needs=("cifar10",),
    may_use=("cifar100",),
    make_data=made_images,
    cost=cost_of_cell,
)
