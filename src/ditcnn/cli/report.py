"""``ditcnn report``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from ditcnn.cli.parsing import parse
from ditcnn.system.errors import InputError
from ditcnn.system.text import visible

__all__ = ["report_command"]


@dataclass(frozen=True)
class ReportFlags:
    """Write a page about runs side by side: what differs, curves, tables with intervals, the terms' matrices.

    The page is one HTML file that needs no other. Runs that differ by their seed alone are shown as one.
    """

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN")] = ()
    """Folders of runs; the first is what the others are compared with."""
    out: Path = Path("report.html")
    """The file; an earlier report there is replaced."""
    data: Path | None = None
    """Images as for ditcnn train, to measure what taking the terms out does."""


def report_command(argv: list[str]) -> None:
    """Write the page."""
    flags = parse(ReportFlags, argv, "ditcnn report")
    if not flags.runs:
        raise InputError("which runs? ditcnn report RUN... --out report.html.")
    from ditcnn.report import write_report  # loads torch

    write_report(flags.runs, flags.out, flags.data)
    print(f"report          {visible(flags.out)}")
