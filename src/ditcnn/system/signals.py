"""Signals that ask a run to stop, as a wish that the loop grants between two steps."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

__all__ = ["StopRequest", "Stopped", "stop_at_once"]


class Stopped(Exception):
    """The run was asked to stop and has saved what it had; ``advice`` says how to go on."""

    def __init__(self, signum: int, advice: str = "checkpoint saved; go on with --resume") -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum
        self.advice = advice


class StopRequest:
    """While in use, the first SIGTERM or SIGINT is noted in ``signum``; a second one acts as usual.

    Args:
        launched: The process was started by torchrun. Then SIGUSR1, a scheduler's early warning, counts too, and further
            signals change nothing: scheduler and torchrun both send SIGTERM, and the second must not cut the save.
    """

    def __init__(self, launched: bool = False) -> None:
        self.signum: int | None = None
        self.launched = launched
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        for signum in (signal.SIGTERM, signal.SIGINT, *([signal.SIGUSR1] if self.launched else [])):
            self._before[signum] = signal.signal(signum, self._note)
        return self

    def _note(self, signum: int, frame: FrameType | None) -> None:
        self.signum = signum
        if not self.launched:
            self._restore()

    def _restore(self) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)
        self._before = {}

    def __exit__(self, *exception: object) -> None:
        self._restore()


@contextmanager
def stop_at_once() -> Iterator[None]:
    """While in use, SIGTERM and SIGINT raise `Stopped` wherever the program is: for work that keeps nothing half done."""

    def leave(signum: int, frame: FrameType | None) -> None:
        raise Stopped(signum)

    before = {signum: signal.signal(signum, leave) for signum in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
