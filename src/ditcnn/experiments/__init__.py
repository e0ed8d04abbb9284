"""The paper's figures and tables as experiments: a file each, and what runs them."""

from typing import Any

from ditcnn.experiments.comparison import COMPARISON
from ditcnn.experiments.correlations import CORRELATIONS
from ditcnn.experiments.experiment import BUDGETS, Budget, BudgetName, Experiment, Plan
from ditcnn.experiments.fig1 import FIG1
from ditcnn.experiments.fig2 import FIG2
from ditcnn.experiments.fig3 import FIG3
from ditcnn.experiments.fig6 import FIG6
from ditcnn.experiments.placement import FIG5, TABLE5
from ditcnn.experiments.runner import duration, reproduce
from ditcnn.experiments.table2 import TABLE2
from ditcnn.experiments.table3 import TABLE3
from ditcnn.experiments.table4 import TABLE4
from ditcnn.system.errors import InputError, nearest

__all__ = [
    "BUDGETS",
    "EXPERIMENTS",
    "Budget",
    "BudgetName",
    "Experiment",
    "Plan",
    "duration",
    "find_experiment",
    "reproduce",
]

_ALL: tuple[Experiment[Any], ...] = (
    FIG1, FIG2, FIG3, FIG6, CORRELATIONS, COMPARISON, TABLE2, TABLE3, TABLE4, TABLE5, FIG5,
)  # fmt: skip

EXPERIMENTS: dict[str, Experiment[Any]] = {experiment.name: experiment for experiment in _ALL}


def find_experiment(name: str) -> Experiment[Any]:
    """Return the experiment of a name.

    Raises:
        InputError: There is none.
    """
    if name not in EXPERIMENTS:
        hint = nearest(name, EXPERIMENTS)
        raise InputError(f"there is no experiment {name!r}.{hint} List them: ditcnn reproduce --list.")
    return EXPERIMENTS[name]
