"""Table 2 and the left half of Fig. 4: plain, Dit and older quadratic ResNets on CIFAR-10 and CIFAR-100."""

from collections.abc import Sequence

from ditcnn.experiments.engine.experiment import Budget, Row, Summary
from ditcnn.experiments.engine.tables import Block, Table
from ditcnn.experiments.trained import columns
from ditcnn.experiments.trained.compared import Training, arms_table, notes, summarise_arms, trained_experiment
from ditcnn.experiments.trained.drawing import accuracy_by_parameters

__all__ = ["TABLE2"]

RIVALS = ("fan", "quadralib", "qres")
ARMS = ("plain", "dit", "dit-published", *RIVALS)
COLUMNS = (
    columns.TITLE, columns.DATA, columns.PARAMETERS, columns.MACS, columns.EPOCH_SECONDS, *columns.ACCURACY, columns.N,
    columns.BROKEN_OFF, columns.PAPER,
)  # fmt: skip

# Figures of others, on CIFAR-10 and CIFAR-100 in percent; the paper's own are not available as text.
QUOTED = (
    ("ResNet, Dit-ResNet, QResNet, QuadraResNet", "not available as text", "not available as text",
     "Liu et al., NeurIPS 2024, Table 2"),
    ("QResNet14 (0.39M)", "93.23", "69.58", "QuadraLib, README"),
    ("ResNet-32 (0.48M)", "92.83", "69.13", "QuadraLib, README"),
    ("ResNet-20 / 32 / 56 / 110, 64-feature head", "91.73 / 92.63 / 93.39 / 93.68", "-",
     "akamaster/pytorch_resnet_cifar10, README (as errors)"),
)  # fmt: skip


def _summarise(rows: Sequence[Row]) -> Summary:
    return summarise_arms(rows, COLUMNS)


def _table(summary: Summary) -> list[Block]:
    return [
        arms_table(summary, COLUMNS),
        notes(summary, "Means over n seeds, with their 95% intervals."),
        "Of others, under their own settings:",
        Table(["network", "CIFAR-10 [%]", "CIFAR-100 [%]", "source"], QUOTED),
    ]


_TWO_OF_THE_RIVALS = dict.fromkeys(RIVALS, 2)
TABLE2 = trained_experiment(
    name="table2",
    shows="plain, Dit and older quadratic ResNets on CIFAR: parameters, time and accuracy (Table 2, Fig. 4 left)",
    budgets={
        "smoke": Budget(Training("smoke", ARMS), 1, "one epoch on made images: says nothing about accuracy.", "14 s"),
        "quick": Budget(
            Training("short", ARMS, most_seeds=_TWO_OF_THE_RIVALS),
            5,
            "shortened to depth 20 and 4 epochs of CIFAR-10; older networks at 2 seeds; the others are the "
            "comparison's runs.",
            "88 min",
        ),
        "full": Budget(
            Training("paper", ARMS, depths=(20, 32, 56, 110), sets=("cifar10", "cifar100")),
            5,
            "the paper's: 160 epochs, all depths; CIFAR-100 where --data has it.",
        ),
    },
    summarise=_summarise,
    table=_table,
    draw=accuracy_by_parameters,
    may_use=("cifar100",),
)
