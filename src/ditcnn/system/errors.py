"""What goes wrong outside the code: told in one line, without a traceback."""

import difflib
from collections.abc import Iterable

__all__ = ["Diverged", "InputError", "RunFailed", "ToldElsewhere", "nearest", "reason"]


class InputError(Exception):
    """Bad input: the message says what is wrong and what to do. The command line exits with status 2."""


class RunFailed(Exception):
    """A run that started and could not go on, as when memory is short. The command line exits with status 1."""


class Diverged(RunFailed):
    """A run whose loss or weights became infinite or NaN: what it computes, and not the machine, is at fault."""


class ToldElsewhere(Exception):
    """Another process of the same job tells the ``error``; this one only ends with its exit status."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


def nearest(word: str, known: Iterable[str]) -> str:
    """Return `` Did you mean X?`` for the known word nearest to ``word``, or nothing."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f" Did you mean {close[0]}?" if close else ""


def reason(error: OSError) -> str:
    """Return what the system refused, after the file's name where it is known."""
    place = f"{error.filename}: " if error.filename else ""
    return f"{place}{error.strerror or error}"
