"""What went wrong with a data worker, in one short line: torch tells it by a traceback in the message."""

import multiprocessing
import os
import pickle
import re
import shutil

from ditcnn.system.errors import InputError, RunFailed
from ditcnn.system.text import in_words

__all__ = ["explained_worker", "refuse_unguarded"]

_SHARED = re.compile(r"shared memory|\bshm\b|/torch_\d+|Bus error|unable to mmap", re.IGNORECASE)
_GUARD = "if __name__ == '__main__':"
_FEWER = "or read with fewer (workers)"


def refuse_unguarded() -> None:
    """End a worker that runs the main script's calls again, which start workers; say so in one line.

    Raises:
        SystemExit: This process is such a worker.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise SystemExit(f"data workers import the main script anew: its calls must stand under {_GUARD}")


def explained_worker(error: BaseException) -> Exception | None:
    """Return the failure that an error of torch's `DataLoader` amounts to; None for one that is no worker's.

    Args:
        error: As its iterator raised it, when it was made or when it was to yield.
    """
    text = str(error)
    if isinstance(error, EOFError | ConnectionError):
        return RunFailed(
            f"data workers cannot be started, as their server has ended; a script's calls must stand under {_GUARD}"
        )
    if isinstance(error, pickle.PicklingError) or re.search(r"[Cc]an(no|')t pickle", text):
        return InputError(
            f"the data cannot be sent to worker processes: {in_words(error)}. Define its classes and functions in a module, "
            "without lambdas, or read without worker processes (workers=0)."
        )
    if isinstance(error, OSError) and error.errno in (23, 24):
        return RunFailed(f"too many open files for data workers: raise the limit (ulimit -n), {_FEWER}.")
    if "DataLoader worker" not in text:
        return None
    if _SHARED.search(text):
        return RunFailed(
            f"data workers ran out of shared memory{_space('/dev/shm')}: make it larger (docker run --shm-size=8g), "
            f"{_FEWER}."
        )
    if "Too many open files" in text or "ancdata" in text:
        return RunFailed(f"too many open files for data workers: raise the limit (ulimit -n), {_FEWER}.")
    if "Original Traceback" in text:  # the last line names the error
        lines = [line for line in text.splitlines() if line.strip()]
        return RunFailed(f"a data worker failed: {in_words(lines[-1])}")
    return RunFailed(
        f"a data worker died: {in_words(text.partition('. ')[0])}. Unless it said why, memory was short: give it more, "
        f"{_FEWER}."
    )


def _space(path: str) -> str:
    if not os.path.isdir(path):
        return ""
    usage = shutil.disk_usage(path)
    return f" ({path} has {usage.total / 2**20:,.0f} MiB, {usage.free / 2**20:,.0f} free)"
