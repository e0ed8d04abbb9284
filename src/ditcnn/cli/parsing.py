"""Flags from tyro, errors in one line."""

import contextlib
import dataclasses
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import tyro

from ditcnn.cli.flags import flag
from ditcnn.system.errors import InputError, nearest

__all__ = ["given", "names_of", "parse"]

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
            parsed, unknown = tyro.cli(
                flags, prog=prog, args=argv, default=base, return_unknown_args=True, config=(tyro.conf.OmitArgPrefixes,)
            )
    except SystemExit as stop:
        if not stop.code:
            raise
        raise InputError(f"{file}: {_text(box.getvalue())}" if file else f"{_text(box.getvalue())} {see}") from None
    if unknown:
        word = next((w for w in unknown if w.startswith("-")), unknown[0])
        known = [flag(name) for name in names_of(flags)]
        kind = "flag" if word.startswith("-") else "argument"
        raise InputError(f"unknown {kind} {word}.{nearest(word.partition('=')[0], known)} {see}")
    result: Flags = parsed
    return result


def names_of(flags: Any) -> list[str]:
    """Return the names of a dataclass's fields, those of its groups among them."""
    names: list[str] = []
    for field in dataclasses.fields(flags):
        group = field.default_factory if isinstance(field.default_factory, type) else None
        names += names_of(group) if group is not None and dataclasses.is_dataclass(group) else [field.name]
    return names


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


def given(name: str, argv: Sequence[str]) -> bool:
    """Say whether a command line sets a field; ``--no-flip`` sets ``flip``."""
    own = (flag(name), flag(f"no_{name}"))
    return any(word.partition("=")[0].replace("_", "-") in own for word in argv)


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
