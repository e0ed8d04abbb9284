"""What a person sees while a run works."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

__all__ = ["Display"]


class Display:
    """A progress bar over all steps on a terminal, and a line an epoch anywhere; both on stderr.

    Args:
        quiet: Show nothing.
    """

    def __init__(self, quiet: bool = False) -> None:
        self._quiet = quiet
        self.console = Console(stderr=True, highlight=False, soft_wrap=True, quiet=quiet)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TextColumn("steps"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self.console,
            disable=not self.console.is_terminal,
            transient=True,
        )

    @contextmanager
    def bar(self, total: int, done: int) -> Iterator[None]:
        """Show the bar meanwhile."""
        self._task = self._progress.add_task("training", total=total, completed=done)
        with self._progress:
            yield

    def step(self, description: str) -> None:
        """Advance the bar by one step."""
        self._progress.update(self._task, advance=1, description=description)

    def say(self, message: str) -> None:
        """Print a line."""
        self._progress.console.print(message, markup=False)

    def warn(self, message: str) -> None:
        """Print a warning."""
        self._progress.console.print(f"warning: {message}", style="yellow", markup=False)

    def alert(self, message: str) -> None:
        """Print a warning in any case: of what only this process knows."""
        self.console.quiet = False
        self.warn(message)
        self.console.quiet = self._quiet
