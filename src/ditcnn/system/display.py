"""What a person sees while a run works: a bar on a terminal and in a notebook, elsewhere a line now and then."""

import contextlib
import importlib.util
import io
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Any, cast

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from ditcnn.system.text import visible

__all__ = ["Display", "duration"]

SECONDS_A_LINE = 30.0


def duration(seconds: float) -> str:
    """Return a time for people: ``40 s``, ``12 min``, ``3.5 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


class _StandardError(io.TextIOBase):
    """Standard error as it is at the time, which may be gone: a terminal that closes must not end a run that then saves."""

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError, ValueError):
            self._file.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._file.flush()

    def isatty(self) -> bool:
        return bool(self._file.isatty())

    def fileno(self) -> int:
        return int(self._file.fileno())

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return str(self._file.encoding)

    @property
    def _file(self) -> Any:
        return getattr(sys.stderr, "rich_proxied_file", sys.stderr)  # what rich itself puts in its place meanwhile


_STDERR = cast(IO[str], _StandardError())


class Display:
    """A progress bar on a terminal, a line every 30 seconds elsewhere, and messages anywhere; all on stderr.

    Args:
        unit: What the bar counts, ``"steps"``; None where it measures work that people do not count.
        quiet: Show nothing.
        words: Makes of a message what is shown, as the command line's flags of settings' names.
    """

    def __init__(
        self, unit: str | None = "steps", quiet: bool = False, words: Callable[[str], str] = lambda message: message
    ) -> None:
        self._quiet, self._unit, self._words = quiet, unit, words
        self.console = Console(file=_STDERR, highlight=False, soft_wrap=True, quiet=quiet)
        notebook = self.console.is_jupyter and importlib.util.find_spec("ipywidgets") is not None
        self.drawn = notebook or self.console.file.isatty()
        if not self.drawn:  # else FORCE_COLOR, as CI sets it, brings escape codes into a log
            self.console = Console(
                file=_STDERR, highlight=False, soft_wrap=True, quiet=quiet, force_terminal=False, no_color=True,
                force_jupyter=False,
            )  # fmt: skip
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            *([MofNCompleteColumn(), TextColumn(unit)] if unit else []),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self.console,
            disable=not self.drawn,
            transient=True,
            speed_estimate_period=30.0 if unit else 3600.0,  # uncounted work advances in large steps
        )

    @contextmanager
    def bar(self, total: float, done: float, description: str = "training") -> Iterator[None]:
        """Show the bar meanwhile."""
        self._task = self._progress.add_task(description, total=total, completed=done)  # type: ignore[arg-type]
        self._total, self._first, self._done = total, done, done
        self._began = self._told = time.monotonic()
        with self._progress:
            yield

    def step(self, description: str, images_per_s: float = 0.0) -> None:
        """Advance the bar by one step."""
        speed = f", {images_per_s:,.0f} images/s" if images_per_s else ""
        self._advance(self._done + 1, description, speed)

    def at(self, done: float, description: str) -> None:
        """Set the bar to the work that is done."""
        self._advance(done, description, "")

    def _advance(self, done: float, description: str, speed: str) -> None:
        self._done = done
        if self.drawn:
            self._progress.update(self._task, completed=done, description=description)
        elif (now := time.monotonic()) - self._told >= SECONDS_A_LINE and done > self._first:
            self._told = now
            left = (now - self._began) / (done - self._first) * (self._total - done)
            count = f", {self._unit} {done:,.0f} of {self._total:,.0f}" if self._unit else ""
            self.say(f"{description}{count}{speed}, {duration(left)} left")

    def say(self, message: str) -> None:
        """Print a line."""
        self._progress.console.print(self._words(visible(message)), markup=False, emoji=False)

    def warn(self, message: str) -> None:
        """Print a warning."""
        text = self._words(f"warning: {visible(message)}")
        self._progress.console.print(text, style="yellow", markup=False, emoji=False)

    def alert(self, message: str) -> None:
        """Print a warning in any case: of what only this process knows."""
        self.console.quiet = False
        self.warn(message)
        self.console.quiet = self._quiet
