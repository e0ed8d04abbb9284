"""How a command ends: what is said, in one line, and its exit status."""

import contextlib
import os
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

from ditcnn.cli.flags import with_flags
from ditcnn.system.caches import cache_folder
from ditcnn.system.errors import InputError, RunFailed, ToldElsewhere, reason
from ditcnn.system.signals import Stopped
from ditcnn.system.text import one_line

__all__ = ["check_streams", "finish_output", "line_and_status", "tell"]


def check_streams() -> None:
    """Make standard output and error fit to be written to.

    Raises:
        InputError: Standard output is closed.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a name that the terminal's encoding lacks is no reason to stop
            stream.reconfigure(errors="backslashreplace")
    for descriptor in range(3):  # else the next file that is opened gets the number, and output is written into it
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    if sys.stdout is None:
        raise InputError("standard output is closed: send it to a file or to /dev/null.")


def finish_output() -> None:
    """Write what is buffered, so that a full disk or a closed pipe is told here and not at the interpreter's end.

    Raises:
        OSError: It cannot be written; the error names standard output.
    """
    try:
        sys.stdout.flush()
    except OSError as error:  # it does not name its file
        raise OSError(error.errno, error.strerror, "standard output") from None


def tell(message: str) -> None:
    """Print a line of the program's own on standard error."""
    with contextlib.suppress(OSError, ValueError):
        print(f"ditcnn: {one_line(message)}", file=sys.stderr, flush=True)


def line_and_status(error: BaseException) -> tuple[str, int]:
    """Return what to say of an error, nothing where nothing is to be said, and the exit status.

    2: what was given cannot be done. 1: a run failed, memory was short, or the fault is this package's own. 128 plus a
    signal's number: it ended the command.
    """
    if isinstance(_stdout_fault() or error, BrokenPipeError):  # whoever reads it has seen enough
        return "", 128 + signal.SIGPIPE
    if isinstance(error, ToldElsewhere):
        return "", line_and_status(error.error)[1]
    if isinstance(error, Stopped):
        return f"stopped by {error}, {error.advice}.", 128 + error.signum
    if _interrupted(error):
        return "interrupted.", 128 + signal.SIGINT
    if isinstance(error, InputError | RunFailed):
        return with_flags(str(error)), 2 if isinstance(error, InputError) else 1
    if _out_of_memory(error):
        first = next(iter(str(error).splitlines()), "")
        return f"out of memory: {first} Take fewer or smaller images at a time.".replace(":  ", ": "), 1
    if isinstance(error, ImportError) and not (error.name or "").startswith("ditcnn"):
        return f"a library cannot be imported: {error}. Install it, or install ditcnn anew.", 2
    if isinstance(error, OSError):  # a full disk, a file without permission
        place = "" if error.filename or not error.errno else "reading or writing failed: "
        return f"{place}{reason(error)}.", 2
    return _own_fault(error), 1


def _interrupted(error: BaseException | None) -> bool:
    """Say whether Ctrl-C is behind an error: libraries make an ImportError of it where it comes in their import."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


def _stdout_fault() -> OSError | None:
    """Return why standard output takes nothing more, and let what is buffered go nowhere."""
    if sys.stdout is None:
        return None
    try:
        finish_output()
    except OSError as fault:
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, sys.stdout.fileno())
            os.close(nowhere)
        return fault
    return None


def _out_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError):
        return True
    if isinstance(error, RuntimeError) and "torch" in sys.modules:
        from ditcnn.system.failures import out_of_memory

        return out_of_memory(error)
    return False


def _own_fault(error: BaseException) -> str:
    """Return the line about a fault of this package, its traceback kept in a file, or printed where none can be written."""
    text = "".join(traceback.format_exception(error))
    line = f"a fault of ditcnn: {type(error).__name__}: {next(iter(str(error).splitlines()), '')}".rstrip(": ")
    for place in ("cache", "temporary"):
        try:
            path = cache_folder() / "faults" if place == "cache" else Path(tempfile.gettempdir())
            path.mkdir(parents=True, exist_ok=True)
            stamp = f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
            handle, name = tempfile.mkstemp(prefix=f"ditcnn-fault-{stamp}-", suffix=".txt", dir=path)
            with open(handle, "w", errors="backslashreplace") as file:
                file.write(f"{sys.argv}\n{text}")
        except (OSError, RuntimeError):
            continue
        return f"{line[:300]}. What led to it is in {name}; please report it."
    sys.stderr.write(text)
    return line
