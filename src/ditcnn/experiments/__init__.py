"""The paper's figures and tables as experiments, a package or file each, and what runs them."""

from typing import Any

from ditcnn.experiments.correlations.experiment import CORRELATIONS
from ditcnn.experiments.engine.experiment import BUDGETS, Budget, BudgetName, Experiment, Plan
from ditcnn.experiments.engine.runner import Finished, reproduce
from ditcnn.experiments.fig1.experiment import FIG1
from ditcnn.experiments.fig2.experiment import FIG2
from ditcnn.experiments.fig3.experiment import FIG3
from ditcnn.experiments.fig6.experiment import FIG6
from ditcnn.experiments.table3 import TABLE3
from ditcnn.experiments.trained.comparison import COMPARISON
from ditcnn.experiments.trained.table2 import TABLE2
from ditcnn.experiments.trained.table4 import TABLE4
from ditcnn.experiments.trained.table5 import FIG5, TABLE5
from ditcnn.system.errors import InputError, nearest

__all__ = [
    "BUDGETS", "EXPERIMENTS", "Budget", "BudgetName", "Experiment", "Finished", "Plan", "find_experiment", "overview",
    "reproduce",
]  # fmt: skip

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


def overview() -> str:
    """Return what each experiment shows, the data that it takes, and the measured time of each budget."""
    lines = ["--budget takes smoke, quick (default) or full. Times are measured; core-min, core-s: work for one core."]
    for experiment in EXPERIMENTS.values():
        lines += ["", f"{experiment.name}  {experiment.shows}"]
        if experiment.needs:
            optional = f"; where it is there also {', '.join(experiment.may_use)}" if experiment.may_use else ""
            lines.append(f"    data: {', '.join(experiment.needs)}{optional}")
        for name, budget in experiment.budgets.items():
            lines.append(f"    {name:<6} {budget.measured or 'not run whole':<14} {budget.about}")
    return "\n".join(lines)
