"""Times of alternatives that run in turn, and peak memory in fresh processes."""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from typing import Any, TypeVar

__all__ = ["interleave", "peak_mib", "peak_of_call"]


Name = TypeVar("Name", bound=Hashable)

SHORT_S = 2e-3


def interleave(
    steps: Mapping[Name, Callable[[], object]], rounds: int, warmup: int = 1, budget_s: float = 20.0
) -> dict[Name, float]:
    """Return each step's median time in ms; the steps run in turn, so that a machine's moods meet all of them.

    A step of under a millisecond runs several times in a row each round, as many as fill about two milliseconds.

    Args:
        steps: What to time.
        rounds: Times that each runs.
        warmup: Times that each runs before; one that alone takes a third of the budget runs once.
        budget_s: A step that has taken so many seconds drops out; its median is then that of fewer rounds.
    """
    times: dict[Name, list[float]] = {name: [] for name in steps}
    first = {name: _time_s(step) for name, step in steps.items()}
    for name, step in steps.items():
        for _ in range(warmup - 1 if first[name] < budget_s / 3 else 0):
            first[name] = _time_s(step)
    for _ in range(rounds):
        for name, step in steps.items():
            if not times[name] or sum(times[name]) + first[name] < budget_s:
                times[name].append(_time_s(step, _times_in_a_row(first[name])))
    return {name: 1e3 * statistics.median(values) for name, values in times.items()}


def _times_in_a_row(time_s: float) -> int:
    return max(1, int(SHORT_S / max(time_s, 1e-6)))


def _time_s(step: Callable[[], object], times: int = 1) -> float:
    """Return the mean time of a step that runs so many times."""
    started = time.perf_counter()
    for _ in range(times):
        step()
    return (time.perf_counter() - started) / times


def peak_mib(module: str, arguments: dict[str, Any]) -> float | None:
    """Return the MiB that ``python -m module`` with JSON arguments says it needed at its peak; None where it failed.

    The process is a fresh one: memory that an allocator kept from before would hide what is needed.
    """
    done = subprocess.run([sys.executable, "-m", module, json.dumps(arguments)], capture_output=True, text=True, check=False)
    return float(done.stdout) if done.returncode == 0 else None


def peak_of_call(call: Callable[[], object]) -> float:
    """Return by how many MiB the process's resident memory rose above what it was, while ``call`` ran. Linux only."""
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = _status("VmRSS")
    call()
    return (_status("VmHWM") - before) / 1024


def _status(key: str) -> int:
    """Return a line of this process's status in KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key + ":"))
