"""What a person sees while a run works."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from ditcnn.system.text import visible

__all__ = ["Display"]


class Display:
    """A progress bar on a terminal, and lines anywhere; both on stderr.

    Args:
        unit: What the bar counts, ``"steps"``; None where it measures work that people do not count.
        quiet: Show nothing.
    """

    def __init__(self, unit: str | None = "steps", quiet: bool = False) -> None:
        self._quiet = quiet
        self.console = Console(stderr=True, highlight=False, emoji=False, soft_wrap=True, quiet=quiet)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            *([MofNCompleteColumn(), TextColumn(unit)] if unit else []),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self.console,
            disable=not self.console.is_terminal,
            transient=True,
            speed_estimate_period=30.0 if unit else 3600.0,  # uncounted work advances in large steps
        )

    @contextmanager
    def bar(self, total: float, done: float, description: str = "training") -> Iterator[None]:
        """Show the bar meanwhile."""
        self._task = self._progress.add_task(description, total=total, completed=done)  # type: ignore[arg-type]
        with self._progress:
            yield

    def step(self, description: str) -> None:
        """Advance the bar by one step."""
        self._progress.update(self._task, advance=1, description=description)

    def at(self, done: float, description: str) -> None:
        """Set the bar to the work that is done."""
        self._progress.update(self._task, completed=done, description=description)

    def say(self, message: str) -> None:
        """Print a line."""
        self._progress.console.print(visible(message), markup=False)

    def warn(self, message: str) -> None:
        """Print a warning."""
        self._progress.console.print(f"warning: {visible(message)}", style="yellow", markup=False)

    def alert(self, message: str) -> None:
        """Print a warning in any case: of what only this process knows."""
        self.console.quiet = False
        self.warn(message)
        self.console.quiet = self._quiet
