"""The two newest checkpoints of a run, and whether they are of the run that is to go on."""

import dataclasses
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file

from ditcnn.recipes import Recipe
from ditcnn.system.errors import InputError, RunFailed
from ditcnn.train.folder import RunFolder
from ditcnn.train.metrics import read_metrics
from ditcnn.train.storage import Damaged, load_state, save_state

__all__ = ["FORMAT", "clean", "load_newest", "of_first_edition", "refuse_other", "save_newest"]

FORMAT = 2


def save_newest(folder: RunFolder, state: dict[str, Any]) -> None:
    """Write ``last.pt``; the one before becomes ``previous.pt``. At every instant one of the two is whole."""
    newest = folder.path / ".last.pt.new"
    save_state(newest, state)
    if folder.last.exists():
        os.replace(folder.last, folder.previous)
    os.replace(newest, folder.last)


def load_newest(folder: RunFolder, warn: Callable[[str], None]) -> tuple[dict[str, Any], Path] | None:
    """Return the newest checkpoint that is whole and its file, or None where there is none yet. Changes nothing.

    Raises:
        InputError: There are checkpoints, and none can be read.
        RunFailed: There is too little memory to read one.
    """
    damaged = []
    for path in (folder.last, folder.previous):
        try:
            return _of_today(load_state(path), path), path
        except FileNotFoundError:
            continue
        except MemoryError as error:
            raise RunFailed(f"too little memory to read {path}: {error}") from None
        except Damaged as error:
            damaged.append(path.name)
            warn(f"{path} is damaged ({error}); trying the one before.")
    if damaged:
        raise InputError(
            f"no checkpoint in {folder.path} can be read: {', '.join(damaged)} damaged. Start again with another `out`."
        )
    return None


def clean(folder: RunFolder, restored_from: Path | None) -> None:
    """Remove temporary files of a process that was killed while it wrote, and a damaged newest checkpoint.

    The latter would else become ``previous.pt`` and push out the one that is whole.
    """
    if restored_from == folder.previous:
        folder.last.unlink(missing_ok=True)
    for path in (*folder.path.glob(".*.tmp"), *folder.path.glob(".*.new")):
        path.unlink()
    for path in folder.path.glob(".export-*"):
        shutil.rmtree(path)


def refuse_other(state: dict[str, Any], path: Path, recipe: Recipe, classes: tuple[str, ...], digest: str) -> None:
    """Raise unless a checkpoint is of a recipe and of images.

    Raises:
        InputError: It is not; the message names what differs.
    """
    for field in dataclasses.fields(Recipe):
        then, now = state["recipe"].get(field.name, field.default), getattr(recipe, field.name)
        if then != now:
            raise InputError(f"{path} was made with {field.name} {then}, the settings say {now}.")
    if tuple(state["classes"]) != classes:
        raise InputError(
            f"{path} was trained on {len(state['classes'])} classes ({', '.join(state['classes'][:3])}, "
            f"...), the data has {len(classes)} ({', '.join(classes[:3])}, ...)."
        )
    if state["data"] != digest:
        raise InputError(f"{path} was trained on other images than these; a resumed run keeps its data.")


def _of_today(state: dict[str, Any], path: Path) -> dict[str, Any]:
    """Return a checkpoint in today's form.

    Raises:
        InputError: It is of an unknown form.
    """
    if state.get("format") == FORMAT:
        return state
    if state.get("format") != 1:
        raise InputError(f"{path} is not a checkpoint of this version of ditcnn; name another folder.")
    streamed = " " in state["data"]  # a digest of train and one of val
    progress = dict(state["progress"])
    progress["correct"] = progress.pop("hits", 0)
    progress["best_of"] = progress["best_of"] or ("raw" if progress["best_epoch"] else "")
    return state | {
        "format": FORMAT,
        "recipe": of_first_edition(state["recipe"], streamed),
        "progress": progress,
        "lines": _lines(path.with_name("metrics.jsonl"), progress["lines"]),
        "chosen": None if streamed or not progress["best_epoch"] else _chosen(path.with_name("model.safetensors")),
    }


def _lines(metrics: Path, count: int) -> list[dict[str, Any]]:
    """Return a run's first lines of metrics, which checkpoints of the first edition do not hold."""
    lines = read_metrics(metrics)[:count] if count else []
    if len(lines) < count:
        raise InputError(
            f"{metrics} has {len(lines)} of {count} lines, and its checkpoint is of a version that cannot mend it."
        )
    return lines


def _chosen(weights: Path) -> dict[str, Any] | None:
    """Return the weights in a run's folder, which checkpoints of the first edition do not hold."""
    try:
        return load_file(weights)
    except FileNotFoundError:  # in the paper's protocol there are none before the end
        return None
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"{weights} is damaged ({error}), and its checkpoint is of a version that cannot mend it."
        ) from None


def of_first_edition(settings: dict[str, Any], streamed: bool) -> dict[str, Any]:
    """Return the settings of a run of the first edition as today's.

    There ``scale`` stood in each run, but had an effect on streamed images alone, and these had no choice of ``protocol``.
    """
    return settings | ({"protocol": "last"} if streamed else {"scale": None})
