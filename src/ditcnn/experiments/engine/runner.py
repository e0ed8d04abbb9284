"""An experiment from its first cell to its files."""

import dataclasses
import shlex
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ditcnn.experiments.engine.cells import CellStore
from ditcnn.experiments.engine.experiment import Budget, BudgetName, Cell, Context, Experiment, Plan, Row, cell_key
from ditcnn.experiments.engine.record import package_versions, write_figures, write_texts
from ditcnn.experiments.engine.runs import RunStore
from ditcnn.experiments.engine.sets import ImageSets, find_sets, made_sets
from ditcnn.experiments.engine.tables import brief_text
from ditcnn.system.display import Display
from ditcnn.system.environment import describe_environment
from ditcnn.system.errors import InputError
from ditcnn.system.locks import locked_folder
from ditcnn.system.signals import Stopped, stop_at_once
from ditcnn.system.text import one_line

__all__ = ["Finished", "reproduce"]

MOST_SEEDS = 10_000  # each has its cells in memory


@dataclass(frozen=True)
class Finished:
    """An experiment whose cells are all done: what ``NAME.json`` holds, its rows, and its findings for a terminal."""

    record: dict[str, Any]
    rows: list[Row]
    brief: str


def reproduce(
    experiment: Experiment[Any],
    budget: BudgetName,
    out: Path,
    *,
    seeds: int | None = None,
    data: Path | None = None,
    display: Display | None = None,
) -> Finished:
    """Run the cells that are not done yet, and write table and figures. Networks are trained in ``runs/`` beside ``out``.

    Raises:
        InputError: Data is missing or of no use, or the folder holds cells of another budget, of other data or of an older
            revision.
        Stopped: SIGTERM or SIGINT came; the cells done so far are kept.
    """
    chosen: Budget[Any] = experiment.budgets[budget]
    seeds = chosen.seeds if seeds is None else seeds
    if not 1 <= seeds <= MOST_SEEDS:
        raise InputError(f"--seeds must be {'above 0' if seeds < 1 else f'at most {MOST_SEEDS:,}'}; got {seeds}.")
    sets = _sets(experiment, budget, data)
    cells = experiment.cells(Plan(chosen.settings, seeds, sets.names))
    if len({cell_key(cell) for cell in cells}) < len(cells):
        raise ValueError(f"{experiment.name} enumerates a cell twice.")
    with locked_folder(out):
        used = sets.digests(name for name in sets.names if any(name in cell.values() for cell in cells))
        origin = {"experiment": experiment.name, "revision": experiment.revision, "budget": budget, "data": used}
        store = CellStore(out / "cells.jsonl", origin)
        already = any(cell in store for cell in cells)
        context = Context(sets, RunStore(out.resolve().parent / "runs", experiment.name))
        try:
            with stop_at_once():
                _run_cells(experiment, cells, store, context, Display(unit=None) if display is None else display)
        except Stopped as stop:
            done = sum(cell in store for cell in cells)
            advice = f"{done} of {len(cells)} cells kept; go on with the same command"
            raise Stopped(stop.signum, advice) from None
        rows = store.rows(cells)
        try:
            summary = experiment.summarise(rows)
            pictures = write_figures(experiment, summary, rows, out)
        except (ValueError, LookupError, TypeError, AttributeError, OverflowError) as error:
            if not already:  # the numbers are this process's own
                raise
            raise InputError(
                f"{store.path} holds numbers that {experiment.name} can make nothing of ({one_line(error)}). Delete it, or "
                "name another folder with --out."
            ) from error
        about = _about(experiment, budget, seeds, cells, store, used)
        record = write_texts(experiment, about, summary, pictures, out)
        return Finished(record, rows, brief_text(experiment.table(summary)))


def _sets(experiment: Experiment[Any], budget: BudgetName, data: Path | None) -> ImageSets:
    if budget != "smoke":
        return find_sets(data, experiment.needs, experiment.may_use, experiment.name)
    if data is not None:
        raise InputError("--budget smoke runs on data that it makes; leave out --data, or take quick or full.")
    return made_sets((*experiment.needs, *experiment.may_use), experiment.make_data)


def _run_cells(
    experiment: Experiment[Any], cells: Sequence[Cell], store: CellStore, context: Context, display: Display
) -> None:
    open_cells = [cell for cell in cells if cell not in store]
    if not open_cells:
        return
    if len(open_cells) < len(cells) and any(launch["versions"] != package_versions() for launch in store.launches):
        display.warn(f"some cells were done by other versions of the packages; {experiment.name}.json names both.")
    store.launch(_this_process())
    costs = [experiment.cost(cell) for cell in open_cells]
    first = 1 + len(cells) - len(open_cells)
    with display.bar(sum(costs), 0.0, experiment.name):
        for number, cell in enumerate(open_cells):
            settings = "" if display.drawn else ": " + " ".join(f"{key}={value}" for key, value in cell.items())
            text = f"{experiment.name} {number + first}/{len(cells)}{settings}"

            def progress(fraction: float, n: int = number, text: str = text) -> None:
                display.at(sum(costs[:n]) + fraction * costs[n], text)

            progress(0.0)
            started = time.monotonic()
            numbers = experiment.run(cell, dataclasses.replace(context, progress=progress))
            if not numbers.keys().isdisjoint(cell):
                raise ValueError(f"{experiment.name}: numbers and settings share {sorted(numbers.keys() & cell)}.")
            store.add(cell, numbers, time.monotonic() - started)


def _this_process() -> dict[str, Any]:
    environment = describe_environment(torch.device("cpu"))
    kept = {key: environment[key] for key in ("started", "commit", "python", "platform", "processor", "threads")}
    return kept | {"command": shlex.join(environment["command"]), "versions": package_versions()}


def _about(
    experiment: Experiment[Any],
    budget: BudgetName,
    seeds: int,
    cells: Sequence[Cell],
    store: CellStore,
    data: dict[str, str],
) -> dict[str, Any]:
    """Return what NAME.json says about the run; command, commit and versions are those of the newest cells."""
    counts = Counter(store[cell]["launch"] for cell in cells)
    launches = [store.launches[number] | {"cells": count} for number, count in sorted(counts.items())]
    newest, chosen = launches[-1], experiment.budgets[budget]
    return {
        "experiment": experiment.name,
        "shows": experiment.shows,
        "budget": budget,
        "about": chosen.about,
        "settings": dataclasses.asdict(chosen.settings),
        "seeds": seeds,
        **{key: newest[key] for key in ("command", "commit", "versions")},
        "data": data,
        "revision": experiment.revision,
        "cell_seconds": round(sum(store[cell]["seconds"] for cell in cells), 1),
        "launches": launches,
    }
