"""The paper's figures and tables as experiments: a file each, and what runs them."""

from typing import Any

from ditcnn.errors import InputError, nearest
from ditcnn.experiments.correlations import CORRELATIONS
from ditcnn.experiments.experiment import BUDGETS, Budget, BudgetName, Experiment, Plan
from ditcnn.experiments.fig1 import FIG1
from ditcnn.experiments.fig2 import FIG2
from ditcnn.experiments.fig3 import FIG3
from ditcnn.experiments.fig6 import FIG6
from ditcnn.experiments.runner import duration, reproduce

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

_ALL: tuple[Experiment[Any], ...] = (FIG1, FIG2, FIG3, FIG6, CORRELATIONS)

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
