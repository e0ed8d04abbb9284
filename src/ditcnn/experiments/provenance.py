"""Where the runs behind a table come from: folder and launches of each, and which another experiment trained."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ditcnn.experiments.context import Context
from ditcnn.experiments.experiment import Row
from ditcnn.system.environment import short_commit
from ditcnn.train import RunFolder

__all__ = ["run_record", "taken_over", "taken_over_text"]


def run_record(folder: RunFolder, context: Context) -> dict[str, Any]:
    """Return the folder of a run, below that of all experiments, its launches, and whether another experiment trained it.

    A run that is taken over was trained by another commit, with other versions perhaps, than the cell that quotes it.
    """
    return {
        "folder": folder.path.relative_to(context.out.parent).as_posix(),
        "taken_over": not folder.path.is_relative_to(context.out),
        "launches": json.loads(folder.environment.read_bytes())["launches"],
    }


def taken_over(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return how many runs of the rows each other experiment trained, and by which commits."""
    folders: dict[str, set[str]] = {}
    commits: dict[str, set[str]] = {}
    for run in (row["run"] for row in rows if row.get("run") is not None):
        if run["taken_over"]:
            experiment = run["folder"].split("/")[0]
            folders.setdefault(experiment, set()).add(run["folder"])
            commits.setdefault(experiment, set()).update(str(launch["commit"] or "unknown") for launch in run["launches"])
    return [{"experiment": name, "runs": len(own), "commits": sorted(commits[name])} for name, own in folders.items()]


def taken_over_text(found: Sequence[Mapping[str, Any]]) -> str:
    """Return a paragraph on runs that were taken over, or an empty text.

    >>> taken_over_text([{"experiment": "comparison", "runs": 15, "commits": ["0123456789abcdef"]}])
    '15 runs taken over from comparison (commit 0123456789ab).'
    """
    return " ".join(
        f"{own['runs']} run{'s' * (own['runs'] != 1)} taken over from {own['experiment']} "
        f"(commit {', '.join(short_commit(commit) for commit in own['commits'])})."
        for own in found
    )
