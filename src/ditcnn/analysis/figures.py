"""The style that all figures share, and figures as bytes."""

import io
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["COLOURS", "figure_bytes", "figure_style", "line_style"]

# Okabe and Ito (2008): told apart by people of every colour vision. blue, vermilion, green, purple, orange, sky, black
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_LINES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)))
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")


def figure_style() -> AbstractContextManager[None]:
    """Return the context in which matplotlib has the style of ``print.mplstyle``."""
    import matplotlib.style  # slow to import

    style: AbstractContextManager[None] = matplotlib.style.context(Path(__file__).with_name("print.mplstyle"))
    return style


def line_style(index: int) -> dict[str, Any]:
    """Return colour, line and marker number ``index`` as arguments of ``plot``, so that a method looks alike in all panels.

    >>> line_style(1)
    {'color': '#D55E00', 'linestyle': '--', 'marker': 's'}
    """
    return {"color": COLOURS[index], "linestyle": _LINES[index], "marker": _MARKERS[index]}


def figure_bytes(figure: "Figure", ending: str) -> bytes:
    """Return a figure as a file of the kind ``ending``, ``"png"`` or ``"svg"``: the same figure gives the same bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format=ending, metadata={"Date": None} if ending == "svg" else {"Software": None})
    return buffer.getvalue()
