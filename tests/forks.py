"""Processes as torchrun starts them, but forked from the tests' own: without the seconds that imports take."""

import multiprocessing
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from ditcnn.cli import main
from ditcnn.cli.outcome import line_and_status, tell
from ditcnn.system.errors import InputError, RunFailed, ToldElsewhere
from ditcnn.system.signals import Stopped
from tests.conftest import free_port

__all__ = ["run_forks", "run_in_forks", "torchruns"]


def torchruns(rank: int, size: int, port: int, **others: str) -> dict[str, str]:
    """Return the environment that torchrun gives to a process."""
    return {
        "TORCHELASTIC_RUN_ID": "one", "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), **others,
    }  # fmt: skip


def run_forks(place: Path, size: int, arguments: list[str]) -> list[tuple[int, str]]:
    """Return exit status and output of a command in each of ``size`` processes of one job."""
    return run_in_forks(place, size, lambda: main(arguments))


def run_in_forks(place: Path, size: int, work: Callable[[], int | None]) -> list[tuple[int, str]]:
    """Return exit status and output of some work in each of ``size`` processes of one job."""
    port = free_port()
    fork = multiprocessing.get_context("fork")
    jobs = [fork.Process(target=_run, args=(place, rank, size, port, work)) for rank in range(size)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join(300)
        job.kill()
        job.join()
    return [(job.exitcode or 0, (place / f"told{rank}").read_text()) for rank, job in enumerate(jobs)]


def _run(place: Path, rank: int, size: int, port: int, work: Callable[[], int | None]) -> None:
    os.chdir(place)
    os.environ |= torchruns(rank, size, port)
    with open(f"told{rank}", "w", buffering=1) as told:
        sys.stdout = sys.stderr = told
        try:
            status = work() or 0
        except SystemExit as stop:
            status = int(stop.code or 0)
        except BaseException as error:
            message, status = line_and_status(error)
            if message:
                tell(message)
            if not isinstance(error, InputError | RunFailed | Stopped | ToldElsewhere):
                traceback.print_exception(error)
    os._exit(status)
