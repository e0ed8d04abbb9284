"""Figures, made without matplotlib's global state; it is slow to import and read only when something is drawn."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

__all__ = ["Axes", "Figure", "Figures", "new_figure", "plain_picture"]

Axes: TypeAlias = "matplotlib.axes.Axes"
Figure: TypeAlias = "matplotlib.figure.Figure"
Figures = Mapping[str, "matplotlib.figure.Figure"]


def new_figure(
    width: float, height: float, rows: int = 1, columns: int = 1, **options: Any
) -> tuple[Figure, "np.ndarray[Any, Any]"]:
    """Return a figure of so many inches, and its panels, ``[rows, columns]``."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def plain_picture(axes: Axes, picture: Any, **options: Any) -> None:
    """Show an image, pixel by pixel, without ticks, grid or frame."""
    axes.imshow(picture, interpolation="nearest", **options)
    axes.set(xticks=[], yticks=[])
    axes.grid(False)
    axes.spines[:].set_visible(False)
