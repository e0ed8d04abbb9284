"""What an experiment leaves beside its cells: NAME.json, NAME.md, and each figure as PNG and SVG."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from ditcnn.analysis.figures import figure_bytes, figure_style
from ditcnn.analysis.intervals import Interval
from ditcnn.experiments.engine.experiment import Experiment, Row, Summary
from ditcnn.experiments.engine.tables import markdown
from ditcnn.system.environment import short_commit
from ditcnn.system.files import write_atomically

__all__ = ["package_versions", "write_figures", "write_texts"]

_PACKAGES = ("ditcnn", "torch", "torchvision", "timm", "numpy", "scipy", "scikit-learn", "matplotlib")


def package_versions() -> dict[str, str]:
    """Return the versions that the numbers may depend on."""
    return {name: metadata.version(name) for name in _PACKAGES}


def write_figures(experiment: Experiment[Any], summary: Summary, rows: Sequence[Row], out: Path) -> list[str]:
    """Draw an experiment's figures; return the names of the PNG files. The same rows give the same bytes."""
    pictures = []
    with figure_style():
        for suffix, figure in experiment.draw(summary, rows).items():
            stem = f"{experiment.name}-{suffix}" if suffix else experiment.name
            for ending in ("png", "svg"):
                write_atomically(out / f"{stem}.{ending}", figure_bytes(figure, ending))
            pictures.append(f"{stem}.png")
    return pictures


def write_texts(
    experiment: Experiment[Any], about: dict[str, Any], summary: Summary, pictures: Sequence[str], out: Path
) -> dict[str, Any]:
    """Write NAME.json, settings and summary, and NAME.md; return the former. The cells stand in cells.jsonl alone."""
    record = about | {"summary": _named(summary)}
    head = json.dumps(about, indent=1)
    lines = ",\n".join(
        f"  {json.dumps(key)}: {json.dumps(value, allow_nan=False)}" for key, value in record["summary"].items()
    )
    write_atomically(out / f"{experiment.name}.json", f'{head[:-2]},\n "summary": {{\n{lines}\n }}\n}}\n'.encode())
    write_atomically(out / f"{experiment.name}.md", _page(experiment, about, summary, pictures).encode())
    return record


def _named(value: Any) -> Any:
    """Return a summary with the parts of its intervals by name: ``mean``, ``low``, ``high``, ``n``."""
    if isinstance(value, Interval):
        return value._asdict()
    if isinstance(value, Mapping):
        return {key: _named(part) for key, part in value.items()}
    return [_named(part) for part in value] if isinstance(value, list | tuple) else value


def _page(experiment: Experiment[Any], about: dict[str, Any], summary: Summary, pictures: Sequence[str]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    blocks = [
        f"# {experiment.name}: {experiment.shows}",
        f"Budget `{about['budget']}`: {about['about']} Seeds: {about['seeds']}.",
        f"```sh\n{about['command']}\n```",
        *experiment.table(summary),
        *[f"![{experiment.shows}]({picture})" for picture in pictures],
        f"{versions}; {_commits(about['launches'])}. Every cell's numbers are in `cells.jsonl`, settings and launches in "
        f"`{experiment.name}.json`.",
    ]
    return markdown(blocks) + "\n"


def _commits(launches: Sequence[Mapping[str, Any]]) -> str:
    """Return the commits that the cells were done by.

    >>> _commits([{"commit": "0123456789abcdef", "cells": 3}])
    'commit 0123456789abcdef'
    >>> _commits([{"commit": "0123456789abcdef", "cells": 3}, {"commit": "fedcba9876543210+", "cells": 2}])
    'commits 0123456789ab (3 cells), fedcba987654+ (2 cells)'
    """
    counts: Counter[str] = Counter()
    for launch in launches:
        counts[str(launch["commit"] or "unknown")] += launch["cells"]
    if len(counts) == 1:
        return f"commit {next(iter(counts))}"
    return "commits " + ", ".join(
        f"{short_commit(commit)} ({count} cell{'s' * (count != 1)})" for commit, count in counts.items()
    )
