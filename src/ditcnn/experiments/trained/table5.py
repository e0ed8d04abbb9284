"""Table 5 and Fig. 5: the channel-wise term, the pixel-wise one, more depth; the term's place, and the drop on removal."""

from collections.abc import Sequence

from ditcnn.experiments.arms import ARMS
from ditcnn.experiments.engine.experiment import Budget, Cell, Context, Experiment, Numbers, Row, Summary
from ditcnn.experiments.engine.tables import Block, Verdict, interval_text
from ditcnn.experiments.engine.training import chosen_model
from ditcnn.experiments.removal import accuracy, without_terms
from ditcnn.experiments.trained import columns, compared
from ditcnn.experiments.trained.drawing import accuracy_and_drop

__all__ = ["FIG5", "TABLE5"]

OF_TABLE5 = ("convnext", "convnext-deeper", "convnext-block3", "convnext-pixelwise")
OF_FIG5 = (
    "plain", "dit-stage1", "dit", "dit-stage3", "convnext", "convnext-block1", "convnext-block2", "convnext-block3",
)  # fmt: skip
TERMS = ("convnext-block3", "convnext-pixelwise")  # at the same place
PAIRS = {  # of table 5
    "channel-wise less pixel-wise": TERMS,
    "channel-wise less a plain network of equal cost": ("convnext-block3", "convnext-deeper"),
}
COLUMNS = (
    columns.TITLE, columns.PARAMETERS, columns.EXTRA, columns.MACS, *columns.ACCURACY, columns.N, columns.GAIN,
    columns.DROP, columns.BROKEN_OFF, columns.PAPER,
)  # fmt: skip
_DROP_OF = {"holdout": "this network", "test": "the network of the last epoch, which is the one saved,"}


def _run(cell: Cell, context: Context) -> Numbers:
    run = compared.run_of(cell, context)
    numbers = compared.figures_of(run, cell, context)
    if run.failed is not None or not ARMS[cell["net"]].has_term:
        return numbers | {"whole_top1": None, "removed_top1": None}
    trained, test = chosen_model(run), context.images(cell["data"]).test
    models = {"whole_top1": trained.model, "removed_top1": without_terms(trained.model)}  # both on the CPU
    return numbers | {name: accuracy(trained, model, test) for name, model in models.items()}


def _summarise(rows: Sequence[Row]) -> Summary:
    pairs = {name: compared.paired(rows, *arms) for name, arms in PAIRS.items()}
    return compared.summarise_arms(rows, COLUMNS) | {"pairs": {name: pair for name, pair in pairs.items() if pair}}


def _table(summary: Summary) -> list[Block]:
    extra = {arm["arm"]: arm["extra"] for arm in summary["arms"] if arm["extra"] is not None}
    costs = " against ".join(f"{extra[arm]:,}" for arm in TERMS if arm in extra)
    lines = []
    for name, pair in summary["pairs"].items():
        of = f", terms of {costs} parameters" if PAIRS[name] == TERMS and costs else ""
        lines.append(Verdict(f"{name.capitalize()}: {interval_text(pair, 2)} points, n = {pair.n}{of}."))
    others = "The drop is of the other runs alone." if any(arm["failed"] for arm in summary["arms"]) else ""
    about = (
        "Differences in points, paired by seed, with 95% intervals. The drop\n"
        f"is of {_DROP_OF[summary['selected_on']]} when A is set to zero and nothing else is changed; a Dit-ResNet\n"
        "still halves its convolution's part then."
    )
    return [compared.arms_table(summary, COLUMNS), *lines, compared.notes(summary, about, others)]


def _experiment(
    name: str, shows: str, arms: tuple[str, ...], smoke: tuple[str, ...], quick: str
) -> Experiment[compared.Training]:
    networks = "shortened to 4 epochs of CIFAR-10 and small networks, 2 seeds."
    full = "160 epochs of CIFAR-10; the paper's own networks are ImageNet's, weeks of GPUs."
    return compared.trained_experiment(
        name=name,
        shows=shows,
        budgets={
            "smoke": Budget(
                compared.Training("smoke", smoke), 1, "one epoch on made images: says nothing about accuracy.", "11 s"
            ),
            "quick": Budget(compared.Training("short", arms), 2, networks, quick),
            "full": Budget(compared.Training("paper", arms), 5, full),
        },
        run=_run,
        summarise=_summarise,
        table=_table,
        draw=accuracy_and_drop,
    )


_SHOWS5 = "the channel-wise term against the pixel-wise one and against depth, in a small ConvNeXt (Table 5)"
TABLE5 = _experiment("table5", _SHOWS5, OF_TABLE5, ("convnext", "convnext-pixelwise"), "55 min")
_SHOWS_PLACE = "the term's place: stages of ResNet-20, blocks of a small ConvNeXt (Fig. 5)"
FIG5 = _experiment("fig5", _SHOWS_PLACE, OF_FIG5, ("plain", "dit-stage3"), "87 min")
