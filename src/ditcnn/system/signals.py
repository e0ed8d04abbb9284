"""Signals that ask a run to stop, as a wish that the loop grants between two steps."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

__all__ = ["StopRequest", "Stopped", "stop_at_once"]

_HANGS_UP = getattr(signal, "SIGHUP", None)
_ENDS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1") if hasattr(signal, name))


class Stopped(Exception):
    """The run was asked to stop and has saved what it had; ``advice`` says how to go on."""

    def __init__(self, signum: int, advice: str = "checkpoint saved; go on with --resume") -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum
        self.advice = advice


class StopRequest:
    """While in use, the first signal that asks to end is noted in ``signum``; a second one acts as usual, but for SIGHUP.

    They are SIGTERM, SIGINT, SIGHUP (a terminal that closes) and SIGUSR1 (a scheduler's early warning). Outside the main
    thread, where Python takes no signals, none is noted.

    Args:
        launched: The process was started by torchrun. Then further signals change nothing: scheduler and torchrun both send
            SIGTERM, and the second must not cut the save.
        tell: Is told at once that the wish was heard.
    """

    def __init__(self, launched: bool = False, tell: Callable[[str], None] = lambda message: None) -> None:
        self.signum: int | None = None
        self.launched, self.tell = launched, tell
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            for signum in _ENDS:
                if signum != _HANGS_UP or signal.getsignal(signum) != signal.SIG_IGN:  # as nohup wants it
                    self._before[signum] = signal.signal(signum, self._note)
        return self

    def _note(self, signum: int, frame: FrameType | None) -> None:
        if self.signum is None:
            with suppress(Exception):  # a message is no reason to lose the run
                self.tell(f"{signal.Signals(signum).name}: stopping after this step")
        self.signum = signum
        if not self.launched:
            self._restore(but=_HANGS_UP)  # which the system sends, and then the shell once more

    def _restore(self, but: int | None = None) -> None:
        for signum in self._before.keys() - {but}:
            signal.signal(signum, self._before.pop(signum))

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
