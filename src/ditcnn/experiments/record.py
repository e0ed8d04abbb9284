"""What an experiment leaves: NAME.json, NAME.md, and each figure as PNG and SVG."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from ditcnn.analysis.figures import figure_bytes, figure_style
from ditcnn.analysis.intervals import Interval
from ditcnn.experiments.experiment import Experiment, Row
from ditcnn.system.environment import short_commit
from ditcnn.system.files import write_atomically

__all__ = ["interval_text", "markdown_table", "package_versions", "write_record"]

_PACKAGES = ("ditcnn", "torch", "torchvision", "timm", "numpy", "scipy", "scikit-learn", "matplotlib")


def package_versions() -> dict[str, str]:
    """Return the versions that the numbers may depend on."""
    return {name: metadata.version(name) for name in _PACKAGES}


def write_record(experiment: Experiment[Any], about: dict[str, Any], rows: Sequence[Row], out: Path) -> dict[str, Any]:
    """Write all files of an experiment; return the record. The same ``about`` and rows give the same bytes."""
    summary = experiment.summarise(rows)
    record = about | {"summary": _named(summary), "cells": list(rows)}
    write_atomically(out / f"{experiment.name}.json", _json(record).encode())
    pictures = []
    with figure_style():
        for suffix, figure in experiment.draw(summary).items():
            stem = f"{experiment.name}-{suffix}" if suffix else experiment.name
            for ending in ("png", "svg"):
                write_atomically(out / f"{stem}.{ending}", figure_bytes(figure, ending))
            pictures.append(f"{stem}.png")
    write_atomically(out / f"{experiment.name}.md", _markdown(experiment, record, summary, pictures).encode())
    return record


def _named(value: Any) -> Any:
    """Return a summary with the parts of its intervals by name: ``mean``, ``low``, ``high``, ``n``."""
    if isinstance(value, Interval):
        return value._asdict()
    if isinstance(value, Mapping):
        return {key: _named(part) for key, part in value.items()}
    return [_named(part) for part in value] if isinstance(value, list | tuple) else value


def _json(record: dict[str, Any]) -> str:
    """Return JSON with a cell a line: readable, and small."""
    head = json.dumps({key: value for key, value in record.items() if key not in ("summary", "cells")}, indent=1)
    summary = ",\n".join(
        f"  {json.dumps(key)}: {json.dumps(value, allow_nan=False)}" for key, value in record["summary"].items()
    )
    cells = ",\n".join("  " + json.dumps(row, allow_nan=False) for row in record["cells"])
    return f'{head[:-2]},\n "summary": {{\n{summary}\n }},\n "cells": [\n{cells}\n ]\n}}\n'


def _markdown(experiment: Experiment[Any], record: dict[str, Any], summary: dict[str, Any], pictures: list[str]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    return "\n".join(
        [
            f"# {experiment.name}: {experiment.shows}",
            "",
            f"Budget `{record['budget']}`: {record['about']} Seeds: {record['seeds']}.",
            "",
            "```sh",
            record["command"],
            "```",
            "",
            experiment.table(summary),
            "",
            *[f"![{experiment.shows}]({picture})\n" for picture in pictures],
            f"{versions}; {_commits(record['launches'])}. Every number is in `{experiment.name}.json`.",
            "",
        ]
    )


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


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a table in Markdown: the first column aligned left where it is text, all others right.

    >>> print(markdown_table(["net", "top-1 [%]"], [["plain", 83.7]]))
    | net | top-1 [%] |
    | --- | ---: |
    | plain | 83.7 |
    """
    first = rows[0] if rows else [""] * len(head)
    rule = ["---" if isinstance(value, str) and column == 0 else "---:" for column, value in enumerate(first)]
    lines = [head, rule, *rows]
    return "\n".join("| " + " | ".join(str(value) for value in line) + " |" for line in lines)


def interval_text(interval: Interval | None, digits: int = 1) -> str:
    """Return a mean with its interval, or alone where one run gives none; a dash for None.

    >>> interval_text(Interval(91.23, 90.8, 91.7, 5)), interval_text(Interval(91.23, None, None, 1)), interval_text(None)
    ('91.2 [90.8, 91.7]', '91.2', '-')
    """
    if interval is None:
        return "-"
    if interval.low is None or interval.high is None:
        return f"{interval.mean:.{digits}f}"
    return f"{interval.mean:.{digits}f} [{interval.low:.{digits}f}, {interval.high:.{digits}f}]"
