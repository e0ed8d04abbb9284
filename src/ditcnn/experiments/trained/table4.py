"""Table 4: what the term does in a trained Dit-ResNet, by taking it out, or the part of it that sees correlation."""

from collections.abc import Sequence

from ditcnn.analysis.intervals import mean_interval, paired_interval
from ditcnn.data.split import trained_on
from ditcnn.experiments.arms import recipe_of
from ditcnn.experiments.engine.drawing import Figures
from ditcnn.experiments.engine.experiment import Budget, Cell, Context, Numbers, Row, Summary, grouped
from ditcnn.experiments.engine.tables import Block, interval_text
from ditcnn.experiments.engine.training import chosen_model
from ditcnn.experiments.removal import measure_removal
from ditcnn.experiments.trained import compared
from ditcnn.experiments.trained.columns import DATA, PAPER, TITLE, Column, Group, N
from ditcnn.experiments.trained.drawing import treatments

__all__ = ["TABLE4"]

ARMS = ("dit", "dit-published")
TREATMENTS = ("whole", "less tr(A S)", "Q = 0")
_EPOCH = {"holdout": "of the epoch chosen on held-out images", "test": "of the last epoch, not the best one on test"}


def _of(group: Group, treatment: str) -> list[float]:
    return [row["top1"][treatment] for row in group.rows]


def _accuracy(name: str) -> Column:
    return Column(name, f"{name} [%]", lambda g: mean_interval(_of(g, name)), lambda v: interval_text(v, 2), name == "whole")


def _drop(name: str) -> Column:
    def measure(group: Group) -> object:
        return paired_interval(_of(group, "whole"), _of(group, name))

    return Column(f"drop, {name}", f"drop, {name}", measure, lambda value: interval_text(value, 2), name == "Q = 0")


COLUMNS = (TITLE, DATA, N, *map(_accuracy, TREATMENTS), *map(_drop, TREATMENTS[1:]), PAPER)


def _run(cell: Cell, context: Context) -> Numbers:
    run = compared.run_of(cell, context)
    about = {"failed": run.failed, "run": context.runs.record(run)}
    if run.failed is not None:
        return about | {"top1": None, "of_mean": None, "of_covariance": None}
    data = context.images(cell["data"])
    seen = trained_on(data, recipe_of(cell).protocol)
    removal = measure_removal(chosen_model(run), seen, data.test, progress=context.progress)
    (own,) = removal.parts.values()
    top1 = dict(zip(TREATMENTS, (removal.whole, removal.less_covariance, removal.without), strict=True))
    return about | {"top1": top1, "of_mean": own.of_mean.tolist(), "of_covariance": own.of_covariance.tolist()}


def _whole(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row["failed"] is None]


def _summarise(rows: Sequence[Row]) -> Summary:
    return compared.summarise_arms(rows, COLUMNS, of=_whole(rows)) | {"left_out": len(rows) - len(_whole(rows))}


def _table(summary: Summary) -> list[Block]:
    left_out = f" Runs broken off ({summary['left_out']}) have no network to take apart." if summary["left_out"] else ""
    return [
        compared.arms_table(summary, COLUMNS),
        f"Test accuracy of the trained networks, {_EPOCH[summary['selected_on']]}, taken apart without training on;\n"
        "drops are paired by seed, with 95% intervals. *Q = 0*: A is set to zero; the halving of the convolution's\n"
        "part stays. *Less tr(A S)*: from the term's map the number tr(A_o S) is subtracted, one for each output\n"
        "channel o, at each position of each image; S is the covariance of the channels at the term's input, behind its\n"
        "norm, over all positions of the images trained on, without augmentation. The paper does not say what it takes."
        f"{left_out}\n{compared.taken_over_text(summary)}",
    ]


def _draw(summary: Summary, rows: Sequence[Row]) -> Figures:
    runs = grouped(_whole(rows), "data", "depth", "net").values()
    return treatments(summary["arms"], TREATMENTS, [[[row["top1"][t] for t in TREATMENTS] for row in own] for own in runs])


TABLE4 = compared.trained_experiment(
    "removal",
    name="table4",
    shows="what the term does in a trained net: taken out, or less its covariance part tr(A S) (Table 4)",
    budgets={
        "smoke": Budget(compared.Training("smoke", ARMS), 2, "networks of one epoch on made images.", "11 s"),
        "quick": Budget(
            compared.Training("short", ARMS), 5, "networks of 4 epochs of CIFAR-10; they are the comparison's.", "18 min"
        ),
        "full": Budget(
            compared.Training("paper", ARMS, depths=(20, 32, 56, 110), sets=("cifar10", "cifar100")),
            5,
            "the paper's: networks of 160 epochs.",
        ),
    },
    run=_run,
    summarise=_summarise,
    table=_table,
    draw=_draw,
    may_use=("cifar100",),
)
