"""Runs as their folders tell them, and runs that differ by their seed alone as one group."""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ditcnn.recipes import Recipe
from ditcnn.system.display import Display
from ditcnn.system.documents import read_json, read_small, read_yaml
from ditcnn.system.errors import InputError
from ditcnn.system.text import one_line
from ditcnn.train import RunFolder
from ditcnn.train.metrics import read_metrics

__all__ = ["Group", "Run", "group_runs", "read_run", "value_text"]

# What may differ within a group.
_BESIDE_THE_POINT = ("seed", "data", "device", "workers", "skip_bad_images", "checkpoint_minutes")

_DEFAULTS = {
    key: list(value) if isinstance(value, tuple) else value
    for key, value in dataclasses.asdict(Recipe()).items()
    if value is not None
}


@dataclass(frozen=True)
class Run:
    """A run: its settings, an entry of metrics for each epoch, its result or why it broke off, and its launches."""

    folder: RunFolder
    settings: dict[str, Any]
    epochs: tuple[dict[str, Any], ...]
    result: dict[str, Any] | None
    failed: str | None
    launches: tuple[dict[str, Any], ...]

    @property
    def seed(self) -> int:
        """Seed of the run."""
        return int(self.settings.get("seed", 0))

    @property
    def watched(self) -> str:
        """The images that were watched: ``holdout``, in the paper's protocol ``test``, of a streamed set ``val``."""
        if any("val_top1" in line for line in (*self.epochs, self.result or {})):
            return "val"
        return "test" if self.settings.get("protocol") == "paper" else "holdout"

    @property
    def result_on(self) -> str:
        """The images that the result is of: ``test``, or ``val`` of a streamed set, which has no others."""
        return "val" if self.watched == "val" else "test"

    @property
    def top1(self) -> float | None:
        """Top-1 in percent of a finished run on these images; on ``val`` that of the model it saved, average or not."""
        if self.result is None:
            return None
        value: float | None = self.result.get(
            "val_ema_top1" if self.result.get("model") == "ema" else f"{self.result_on}_top1"
        )
        return value


@dataclass(frozen=True)
class Group:
    """Runs of one setting and different seeds, in the order of their seeds."""

    name: str
    runs: tuple[Run, ...]

    @property
    def finished(self) -> tuple[Run, ...]:
        """The runs that have a result."""
        return tuple(run for run in self.runs if run.result is not None)

    def finals(self, quantity: str) -> list[float]:
        """Return a quantity of the results of the runs that have finished."""
        return [run.result[quantity] for run in self.finished if run.result and run.result.get(quantity) is not None]

    def top1(self, images: str) -> list[float]:
        """Return the top-1 of the runs that have finished and whose result is of ``images``, ``test`` or ``val``."""
        return [run.top1 for run in self.finished if run.top1 is not None and run.result_on == images]


def read_run(path: Path) -> Run:
    """Read a run's folder.

    Raises:
        InputError: It holds no run, or a damaged one.
    """
    folder = RunFolder(path)
    if not path.is_dir():
        raise InputError(f"{path}: no such folder; name the folders of runs.")
    if not folder.config.exists():
        raise InputError(f"{path} holds no run: there is no config.yaml in it.")
    try:
        settings = read_yaml(folder.config)
        lines = _lines(folder.metrics)
        launches = read_json(folder.environment)["launches"] if folder.environment.exists() else []
        failed = folder.failure()
        _check(settings, lines, launches)
    except (InputError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{path} holds a damaged run: {one_line(error).rstrip('.')}.") from None
    results = [line for line in lines if line.get("final")]
    epochs = tuple(line for line in lines if not line.get("final"))
    return Run(folder, settings, epochs, results[-1] if results else None, failed, tuple(launches))


def _lines(metrics: Path) -> list[dict[str, Any]]:
    """Return the lines of ``metrics.jsonl``; say where a run that has a checkpoint or a model lacks some."""
    if not metrics.exists():
        if (metrics.parent / "last.pt").exists():
            raise InputError("metrics.jsonl is missing; go on with its run, which mends it")
        return []
    lines = read_metrics(metrics)
    if not read_small(metrics).endswith(b"\n"):
        Display().warn(f"{metrics} is empty, or ends in the middle of a line, which is left out.")
    return lines


def _check(settings: Any, lines: Sequence[Any], launches: Any) -> None:
    """Raise `ValueError` unless the files of a run hold values of the kinds that are shown and counted with."""
    plain = (str, int, float, type(None))
    if not isinstance(settings, dict) or not all(isinstance(name, str) for name in settings):
        raise ValueError("config.yaml must hold settings as 'name: value' lines")
    for name, value in settings.items():
        if not all(isinstance(part, plain) for part in (value if isinstance(value, list) else [value])):
            raise ValueError(f"{name} in config.yaml is neither text, a number, nor a list of them")
    if type(settings.get("seed", 0)) is not int:
        raise ValueError(f"seed in config.yaml must be a whole number; it is {settings['seed']!r}")
    for name in ("data", "recipe", "model", "protocol"):
        if not isinstance(settings.get(name), str | None):
            raise ValueError(f"{name} in config.yaml must be text; it is {settings[name]!r}")
    for line in lines:
        if not isinstance(line, dict) or type(line.get("epoch")) is not int:
            raise ValueError("a line of metrics.jsonl is not that of an epoch")
        for name, value in line.items():
            counted = name == "seconds" or name.endswith(("_loss", "_top1", "_top5"))
            if counted and (isinstance(value, bool) or not isinstance(value, int | float)):
                raise ValueError(f"{name} in metrics.jsonl must be a number; it is {value!r}")
    if not isinstance(launches, list) or not all(isinstance(launch, dict) for launch in launches):
        raise ValueError("env.json must hold a list of launches")
    if not all(isinstance(launch.get("commit"), str | None) for launch in launches):
        raise ValueError("a commit in env.json is no text")


def group_runs(runs: Sequence[Run]) -> tuple[list[Group], dict[str, list[Any]]]:
    """Return the groups, in the order of their first runs, and the settings in which they differ, a value for each group.

    Raises:
        InputError: A run is named twice, or two runs of one setting have one seed.
    """
    places = [run.folder.path.resolve() for run in runs]
    if len(set(places)) < len(places):
        raise InputError("a run is named twice.")
    members: dict[str, list[Run]] = {}
    for run in runs:
        members.setdefault(json.dumps(_deciding(run), sort_keys=True), []).append(run)
    for own in members.values():
        if len({run.seed for run in own}) < len(own):
            same = [run for run in own if [other.seed for other in own].count(run.seed) > 1]
            raise InputError(
                f"{same[0].folder.path} and {same[1].folder.path} have the same settings and the same seed, {same[0].seed}: "
                "leave one out, or their interval would count one run twice."
            )
    settings = [_deciding(own[0]) for own in members.values()]
    keys = list(dict.fromkeys(key for own in settings for key in own))
    differing = {
        key: [own.get(key) for own in settings] for key in keys if len({repr(own.get(key)) for own in settings}) > 1
    }
    names = [_name(own, differing, number) for number, own in enumerate(settings)]
    names = [f"{name}, setting {n + 1}" if names.count(name) > 1 else name for n, name in enumerate(names)]
    sorted_runs = [tuple(sorted(own, key=lambda run: run.seed)) for own in members.values()]
    return [Group(name, own) for name, own in zip(names, sorted_runs, strict=True)], differing


def _deciding(run: Run) -> dict[str, Any]:
    # A setting that is younger than the run has its default, as when such a run is resumed.
    settings = _DEFAULTS | run.settings
    return {key: value for key, value in settings.items() if key not in _BESIDE_THE_POINT}


def _name(settings: dict[str, Any], differing: dict[str, list[Any]], number: int) -> str:
    """Return a short name: the model, then what else tells this group apart."""
    name = str(settings.get("model", f"group {number + 1}"))
    extra = [value_text(settings["model_kwargs"])] if differing.get("model_kwargs") and settings.get("model_kwargs") else []
    others = [key for key in differing if key not in ("model", "model_kwargs")]
    if len(others) <= 3:
        extra += [f"{key} {value_text(settings.get(key))}" for key in others]
    elif not extra:
        extra = [f"setting {number + 1}"]
    return ", ".join([name, *extra])


def value_text(value: Any) -> str:
    """Return a setting's value as people write it."""
    if isinstance(value, list):
        return " ".join(map(str, value)) or "none"
    return "not set" if value is None else str(value)
