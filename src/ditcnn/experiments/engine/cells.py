"""The cells that are done, a line of JSON each, in a file that only grows."""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from ditcnn.experiments.engine.experiment import Cell, Numbers, Row, cell_key
from ditcnn.system.documents import read_small
from ditcnn.system.errors import InputError
from ditcnn.system.files import whole_lines

__all__ = ["CellStore"]

_CHECK = "sha256"  # of a line without it, its first 16 digits; files of before have none


def _digest(entry: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(entry, sort_keys=True).encode()).hexdigest()[:16]


def _checked(entries: list[Any]) -> list[dict[str, Any]]:
    """Return the lines without their digests, which must match; lines of before, at the beginning, have none."""
    checked = False
    for entry in entries:
        digest = entry.pop(_CHECK, None)
        checked = checked or digest is not None
        if checked and digest != _digest(entry):
            raise ValueError("the digest of a line does not match")
    return entries


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


class CellStore:
    """``cells.jsonl``: what it is of, then launches, each followed by the cells that it did.

    A set of images that a later launch uses for the first time is noted then. A set that is not asked for is not compared.
    Cells of another budget, of other data or of an older revision of the experiment are never mixed in: the file is refused.

    Args:
        path: The file; it need not be there.
        origin: What all its cells share.

    Raises:
        InputError: The file is of another origin, or damaged elsewhere than at its end.
    """

    def __init__(self, path: Path, origin: dict[str, Any]) -> None:
        self.path = path
        self.launches: list[dict[str, Any]] = []
        self._done: dict[str, dict[str, Any]] = {}
        self._read(origin)

    def __contains__(self, cell: Cell) -> bool:
        return cell_key(cell) in self._done

    def __getitem__(self, cell: Cell) -> dict[str, Any]:
        """Return ``numbers``, ``seconds`` and the number of the ``launch`` of a cell that is done."""
        return self._done[cell_key(cell)]

    def rows(self, cells: Sequence[Cell]) -> list[Row]:
        """Return cells that are done, each with its numbers."""
        return [cell | self[cell]["numbers"] for cell in cells]

    def launch(self, about: dict[str, Any]) -> None:
        """Note the process that does the cells from here on."""
        self._append({"launch": about})
        self.launches.append(about)

    def add(self, cell: Cell, numbers: Numbers, seconds: float) -> None:
        """Note a cell's numbers; they are on disk when this returns."""
        entry = {"cell": cell, "numbers": numbers, "seconds": round(seconds, 3)}
        self._append(entry)
        # As they come back from the file, so that a stopped experiment and one in a single run see the same.
        self._keep(json.loads(json.dumps(entry)))

    def _keep(self, entry: dict[str, Any]) -> None:
        cell, numbers, seconds = entry["cell"], entry["numbers"], entry["seconds"]
        if not isinstance(cell, dict) or not isinstance(numbers, dict) or not isinstance(seconds, int | float):
            raise ValueError("a line is not that of a cell")
        self._done[cell_key(cell)] = {"numbers": numbers, "seconds": seconds, "launch": len(self.launches) - 1}

    def _append(self, entry: dict[str, Any]) -> None:
        line = json.dumps(entry | {_CHECK: _digest(entry)}, allow_nan=False) + "\n"
        with self.path.open("ab") as file:
            file.write(line.encode())
            file.flush()
            os.fsync(file.fileno())

    def _read(self, origin: dict[str, Any]) -> None:
        content = read_small(self.path) if self.path.exists() else b""
        whole = whole_lines(content)
        if len(whole) < len(content):
            os.truncate(self.path, len(whole))
        try:
            entries = _checked([json.loads(line, parse_constant=_no_number) for line in whole.splitlines()])
            known: dict[str, str] = {}
            for found in (entry["origin"] for entry in entries if "origin" in entry):
                known |= found["data"]
                self._check_origin(found, origin)
            if whole and "origin" not in entries[0]:
                raise LookupError("it does not say what it is of")
            for entry in entries:
                if "launch" in entry:
                    if (
                        not isinstance(entry["launch"], dict)
                        or not {"command", "commit", "versions"} <= entry["launch"].keys()
                    ):
                        raise ValueError("a line is not that of a launch")
                    self.launches.append(entry["launch"])
                elif "origin" not in entry:
                    self._keep(entry)
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise InputError(f"{self.path} is damaged ({error}). Delete it, or name another folder with --out.") from None
        if not whole or not known.keys() >= origin["data"].keys():
            self._append({"origin": origin})

    def _check_origin(self, found: dict[str, Any], wanted: dict[str, Any]) -> None:
        for key, value in wanted.items():
            if key != "data" and found[key] != value:
                self._refuse(f"{key} {found[key]}, not of {key} {value}")
        if any(found["data"].get(name, digest) != digest for name, digest in wanted["data"].items()):
            self._refuse("other images than --data holds")

    def _refuse(self, what: str) -> NoReturn:
        raise InputError(f"{self.path} holds cells of {what}. Name another folder with --out.")
