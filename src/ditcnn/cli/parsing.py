"""Flags from tyro, errors in one line."""

import contextlib
import dataclasses
import io
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import tyro

from ditcnn.system.documents import read_yaml
from ditcnn.system.errors import InputError, nearest

__all__ = ["flag", "given", "parse", "read_config"]

Flags = TypeVar("Flags")


def parse(
    flags: type[Flags], argv: Sequence[str], prog: str, default: Flags | None = None, file: Path | None = None
) -> Flags:
    """Return the dataclass ``flags`` filled from a command line, or from a ``file`` that was read as one.

    Raises:
        InputError: An unknown flag, or a value that does not fit.
        SystemExit: ``--help`` was asked for and printed.
    """
    see = f"See {prog} --help."
    _refuse_empty(argv, file)
    box = io.StringIO()
    try:
        with contextlib.redirect_stderr(box):
            base = tyro.MISSING_NONPROP if default is None else default
            parsed, unknown = tyro.cli(flags, prog=prog, args=argv, default=base, return_unknown_args=True)
    except SystemExit as stop:
        if not stop.code:
            raise
        raise InputError(f"{file}: {_text(box.getvalue())}" if file else f"{_text(box.getvalue())} {see}") from None
    if unknown:
        word = next((w for w in unknown if w.startswith("-")), unknown[0])
        known = [flag(field.name) for field in dataclasses.fields(flags)]  # type: ignore[arg-type]
        kind = "flag" if word.startswith("-") else "argument"
        raise InputError(f"unknown {kind} {word}.{nearest(word.partition('=')[0], known)} {see}")
    result: Flags = parsed
    return result


def _refuse_empty(argv: Sequence[str], file: Path | None) -> None:
    """Raise `InputError` for an empty word, as a shell makes of a variable that is not set: it would mean this folder."""
    before = ""
    for word in argv:
        name, equals, value = word.partition("=")
        if not word or (word.startswith("--") and equals and not value):
            what = f"{file}: " if file else ""
            of = f" of {name or before}" if (name or before).startswith("--") else ""
            raise InputError(f"{what}the value{of} is empty; is a variable of the shell not set?")
        if "\0" in word:
            raise InputError(f"{name if equals else before or 'an argument'} has a NUL in it, which no name can have.")
        before = word


def flag(name: str) -> str:
    """Return the flag of a field: ``batch_size`` -> ``--batch-size``."""
    return "--" + name.replace("_", "-")


def given(name: str, argv: Sequence[str]) -> bool:
    """Say whether a command line sets a field."""
    return any(word.partition("=")[0].replace("_", "-") == flag(name) for word in argv)


def read_config(path: Path, known: Iterable[str], positional: str) -> list[str]:
    """Return the settings of a YAML file as a command line, so that they are checked as one.

    Raises:
        InputError: The file cannot be read, or has a key that is not ``known``.
    """
    try:
        settings = read_yaml(path)
    except FileNotFoundError:
        raise InputError(f"{path}: No such file or directory.") from None
    if not isinstance(settings, dict):
        raise InputError(f"{path} must hold settings as 'name: value' lines.")
    known = list(known)
    for name in settings:
        if name not in known:
            raise InputError(f"{path} has an unknown key {name!r}.{nearest(str(name), known)}")
    argv = [str(settings.pop(positional))] if positional in settings else []
    for name, value in settings.items():
        argv += _as_flags(name, value)
    return argv


def _as_flags(name: str, value: Any) -> list[str]:
    if isinstance(value, bool):
        return [flag(name) if value else flag("no_" + name)]
    values = value if isinstance(value, list) else [value]
    return [flag(name), *map(str, values)]


def _text(box: str) -> str:
    """Return the message of one of tyro's boxes, drawn or in plain characters: its first section below the title."""
    sections: list[list[str]] = [[]]
    for line in box.splitlines():
        content = line.strip(" │")
        if re.fullmatch(r"[─-]{3,}", content):
            sections.append([])
        elif content and not content.startswith(("╭", "╰")):
            sections[-1].append(content)
    message = " ".join(sections[0 if "╭" in box else 1]).removeprefix("Error parsing ")
    return message if message.endswith(".") else message + "."
