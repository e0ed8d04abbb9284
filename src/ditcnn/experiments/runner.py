"""An experiment from its first cell to its files."""

import dataclasses
import shlex
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ditcnn.experiments.context import Context, cell_key
from ditcnn.experiments.experiment import Budget, BudgetName, Cell, Experiment, Plan
from ditcnn.experiments.record import package_versions, write_record
from ditcnn.experiments.sets import ImageSets, find_sets, made_sets
from ditcnn.experiments.store import CellStore
from ditcnn.system.display import Display
from ditcnn.system.environment import describe_environment
from ditcnn.system.errors import InputError
from ditcnn.system.locks import locked_folder
from ditcnn.system.signals import Stopped, stop_at_once

__all__ = ["duration", "reproduce"]


def reproduce(
    experiment: Experiment[Any],
    budget: BudgetName,
    out: Path,
    *,
    seeds: int | None = None,
    data: Path | None = None,
    display: Display | None = None,
) -> dict[str, Any]:
    """Run the cells that are not done yet, write table and figures, and return the record, which is ``NAME.json``.

    Raises:
        InputError: Data is missing or of no use, or the folder holds cells of another budget, of other data or of an older
            revision.
        Stopped: SIGTERM or SIGINT came; the cells done so far are kept.
    """
    chosen: Budget[Any] = experiment.budgets[budget]
    seeds = chosen.seeds if seeds is None else seeds
    if seeds < 1:
        raise InputError(f"--seeds must be above 0; got {seeds}.")
    sets = _sets(experiment, budget, data)
    cells = experiment.cells(Plan(chosen.settings, seeds, sets.names))
    if len({cell_key(cell) for cell in cells}) < len(cells):
        raise ValueError(f"{experiment.name} enumerates a cell twice.")
    display = Display(unit=None) if display is None else display
    with locked_folder(out):
        used = sets.digests(name for name in sets.names if any(name in cell.values() for cell in cells))
        origin = {"experiment": experiment.name, "revision": experiment.revision, "budget": budget, "data": used}
        store = CellStore(out / "cells.jsonl", origin)
        try:
            with stop_at_once():
                _run_cells(experiment, cells, store, Context(sets, out), display)
        except Stopped as stop:
            done = sum(cell in store for cell in cells)
            advice = f"{done} of {len(cells)} cells kept; go on with the same command"
            raise Stopped(stop.signum, advice) from None
        rows = [cell | store[cell]["numbers"] for cell in cells]
        record = _record(experiment, budget, seeds, cells, store, origin)
        return write_record(experiment, record, rows, out)


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
    costs = [experiment.cost(cell) for cell in open_cells]
    done_cost, begun = 0.0, time.monotonic()
    earlier = [launch for launch in store.launches if launch["versions"] != package_versions()]
    if earlier and any(cell in store for cell in cells):
        display.warn("some cells were done by other versions of the packages; NAME.json names both.")
    store.launch(_this_process())
    with display.bar(sum(costs), 0.0, experiment.name):
        for number, (cell, cost) in enumerate(zip(open_cells, costs, strict=True), 1 + len(cells) - len(open_cells)):
            label = f"{experiment.name} {number}/{len(cells)}"
            display.at(done_cost, label)

            def progress(fraction: float, base: float = done_cost, cost: float = cost, label: str = label) -> None:
                display.at(base + fraction * cost, label)

            started = time.monotonic()
            numbers = experiment.run(cell, dataclasses.replace(context, progress=progress))
            if not numbers.keys().isdisjoint(cell):
                raise ValueError(f"{experiment.name}: numbers and settings share {sorted(numbers.keys() & cell)}.")
            store.add(cell, numbers, time.monotonic() - started)
            done_cost += cost
            left = (time.monotonic() - begun) * (sum(costs) - done_cost) / done_cost
            settings = " ".join(f"{key}={value}" for key, value in cell.items())
            display.say(f"{number}/{len(cells)}  {settings}  {time.monotonic() - started:.1f} s, {duration(left)} left")


def duration(seconds: float) -> str:
    """Return a time for people: ``40 s``, ``12 min``, ``3.5 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


def _this_process() -> dict[str, Any]:
    environment = describe_environment(torch.device("cpu"))
    kept = {key: environment[key] for key in ("started", "commit", "python", "platform", "processor", "threads")}
    return kept | {"command": shlex.join(environment["command"]), "versions": package_versions()}


def _record(
    experiment: Experiment[Any], budget: BudgetName, seeds: int, cells: list[Cell], store: CellStore, origin: dict[str, Any]
) -> dict[str, Any]:
    """Return what NAME.json says about the run; command, commit and versions are those of the newest cells."""
    counts = Counter(store[cell]["launch"] for cell in cells)
    launches = [store.launches[number] | {"cells": count} for number, count in sorted(counts.items())]
    newest = launches[-1]
    chosen: Budget[Any] = experiment.budgets[budget]
    return {
        "experiment": experiment.name,
        "shows": experiment.shows,
        "budget": budget,
        "about": chosen.about,
        "settings": dataclasses.asdict(chosen.settings),
        "seeds": seeds,
        "command": newest["command"],
        "commit": newest["commit"],
        "versions": newest["versions"],
        "data": origin["data"],
        "revision": experiment.revision,
        "cell_seconds": round(sum(store[cell]["seconds"] for cell in cells), 1),
        "launches": launches,
    }
