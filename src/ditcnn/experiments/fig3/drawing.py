"""The schematic of figure 3, drawn on a sheet whose unit is a tenth of an inch."""

from collections.abc import Sequence
from typing import Any

from ditcnn.analysis.figures import COLOURS
from ditcnn.experiments.engine.drawing import Axes, Figures
from ditcnn.experiments.engine.experiment import Row, Summary

__all__ = ["draw"]

WIDTH, HEIGHT = 72.0, 76.0
Point = tuple[float, float]

_TERM = "#FBE3D3"  # what the quadratic term does; a light tint of vermilion that stays light in grey
_PLAIN = "#FFFFFF"
_FORM = r"x^{\mathsf{T}} A x"
_EDGE = "#333333"
# In grey the three kinds of cone are told apart by their letters.
_CONES = {"L": "#E8A08A", "M": "#A9D3B5", "S": "#9DBBE3"}
_MOSAIC = ("LMLSML", "MLMLLM", "SLMLMS", "LMSMLL")


def draw(summary: Summary, rows: Sequence[Row]) -> Figures:
    """Return the schematic."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH / 10, HEIGHT / 10))
    figure.set_layout_engine("none")  # every place is given
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, WIDTH), ylim=(0, HEIGHT), aspect="equal")
    axes.axis("off")
    sheet = _Sheet(axes)
    _retina(sheet)
    _resnet_block(sheet, summary["resnet"])
    _convnext_block(sheet, summary["convnext"])
    return {"": figure}


class _Sheet:
    """Boxes, discs and arrows."""

    def __init__(self, axes: Axes) -> None:
        self.axes = axes

    def text(self, at: Point, words: str, size: float = 8, **kwargs: Any) -> None:
        style: dict[str, Any] = {"ha": "center", "va": "center", "linespacing": 1.25} | kwargs
        self.axes.text(*at, words, fontsize=size, **style)

    def heading(self, y: float, letter: str, words: str) -> None:
        self.text((1, y), letter, 10, weight="bold", ha="left")
        self.text((3.4, y), words, 9, ha="left")

    def box(
        self, centre: Point, words: str, width: float, height: float = 4.2, *, size: float = 8, term: bool = False
    ) -> None:
        """Draw a box that holds a computation; a term's has a tint and a heavier edge."""
        from matplotlib.patches import FancyBboxPatch

        corner = (centre[0] - width / 2, centre[1] - height / 2)
        colour, line = (_TERM, 1.6) if term else (_PLAIN, 0.9)
        edge = COLOURS[1] if term else _EDGE
        style = "round,pad=0,rounding_size=0.7"
        self.axes.add_patch(
            FancyBboxPatch(corner, width, height, boxstyle=style, facecolor=colour, edgecolor=edge, linewidth=line, zorder=2)
        )
        self.text(centre, words, size, zorder=3)

    def disc(self, centre: Point, radius: float, words: str = "", colour: str = _PLAIN, **kwargs: Any) -> None:
        from matplotlib.patches import Circle

        style = {"edgecolor": _EDGE, "linewidth": 0.9, "zorder": 2} | kwargs
        self.axes.add_patch(Circle(centre, radius, facecolor=colour, **style))
        if words:
            self.text(centre, words, 8 if radius > 1.2 else 6, zorder=4)

    def line(self, *points: Point, heavy: bool = False, arrow: bool = True) -> None:
        """Draw straight pieces from point to point, with an arrow at the end."""
        colour, width = (COLOURS[1], 1.5) if heavy else (_EDGE, 0.9)
        if arrow:
            style = {"arrowstyle": "-|>,head_width=0.18,head_length=0.36", "color": colour, "linewidth": width}
            style |= {"shrinkA": 0, "shrinkB": 0}
            self.axes.annotate("", points[-1], points[-2], arrowprops=style | {"mutation_scale": 11}, zorder=1)
        path = points[:-1] if arrow else points
        self.axes.plot(*zip(*path, strict=True), color=colour, linewidth=width, linestyle="-", marker="", zorder=1)


def _retina(sheet: _Sheet) -> None:
    sheet.heading(74, "a", "What a ganglion cell adds up: its inputs, and their products")
    _mosaic(sheet, (2.6, 53.3))
    sheet.text((9.0, 66.6), "cones", 9)
    sheet.text((9.0, 48.0), "three colours\nat many positions", 7.5)
    inputs = {"L": 66.0, "M": 59.6, "S": 53.2}
    sheet.text((24.2, 71.0), "receptive fields,\none channel each", 9)
    sheet.text((24.2, 48.0), "a linear\nconvolution", 7.5)
    for number, (kind, y) in enumerate(inputs.items(), start=1):
        sheet.line((16.2, 59.6), (21.4, y))
        sheet.disc((24.2, y), 2.7)
        sheet.disc((24.2, y), 1.35, "+", colour=_CONES[kind])
        for side in (-2.05, 2.05):
            sheet.text((24.2 + side, y), "\u2212", 7, zorder=4)
        sheet.line((26.9, y), (30.4, y))
        sheet.disc((32.0, y), 1.6, f"$x_{number}$")
    _dendrites(sheet, dict(enumerate(inputs.values(), start=1)))


def _dendrites(sheet: _Sheet, inputs: dict[int, float]) -> None:
    """Draw the linear sum, the products of pairs and their sum, and the soma; ``inputs`` are the heights of x_1 to x_3."""
    linear, bilinear, soma = 66.4, 53.2, 59.8
    sheet.text((50.0, 72.2), "dendrites of a ganglion cell", 9)
    for y in inputs.values():
        sheet.line((33.6, y), (44.0, linear + (y - inputs[2]) * 0.22))
    for pair, y in {(1, 2): 56.4, (1, 3): 53.2, (2, 3): 50.0}.items():
        for number in pair:
            sheet.line((33.6, inputs[number]), (39.0, y), heavy=True, arrow=False)
        sheet.disc((39.9, y), 1.0, "\u00d7", colour=_TERM, edgecolor=COLOURS[1], linewidth=1.3)
        sheet.line((40.9, y), (44.0, bilinear + (y - bilinear) * 0.5), heavy=True)
    for y, name, formula, term in (
        (linear, "linear sum", "$\\sum_i\\, w_i\\, x_i$", False),
        (bilinear, "bilinear sum", "$\\sum_{ij}\\, A_{ij}\\, x_i\\, x_j$", True),
    ):
        sheet.box((50.0, y), "", 12.0, 7.6, term=term)
        sheet.text((50.0, y + 2.1), name, zorder=3)
        sheet.text((50.0, y - 1.0), formula, 9, zorder=3)
    sheet.text((39.9, 45.9), "products of pairs (squares not drawn)", 7.5)
    sheet.disc((62.4, soma), 2.2, "+")
    sheet.text((62.4, soma + 3.6), "soma", 9)
    sheet.line((56.0, linear), (60.8, soma + 1.6))
    sheet.line((56.0, bilinear), (60.8, soma - 1.6), heavy=True)
    sheet.line((64.6, soma), (68.4, soma))
    sheet.text((70.0, soma), "$y$", 10)
    sheet.text((62.4, 48.6), f"$y = {_FORM}\\, + \\,w^{{\\mathsf{{T}}}} x + b$", 9)
    sheet.text((62.4, 45.9), "at every position", 7.5)


def _mosaic(sheet: _Sheet, corner: Point) -> None:
    for row, kinds in enumerate(_MOSAIC):
        for column, kind in enumerate(kinds):
            x = corner[0] + 2.2 * column + (1.1 if row % 2 else 0)
            sheet.disc((x, corner[1] + 11.0 - 2.2 * row - 1.4), 1.0, kind, colour=_CONES[kind], linewidth=0.5)


def _resnet_block(sheet: _Sheet, about: dict[str, Any]) -> None:
    size = "\u00d7".join(map(str, about["map"]))
    sheet.heading(41.4, "b", f"Dit-ResNet: first block of stage 2, {about['channels']} channels, {size}")
    main, term, skip = 36.0, 29.6, 24.4
    sheet.text((2.0, main), "$x$", 10)
    sheet.line((3.2, main), (6.0, main))
    sheet.box((10.0, main), "conv1 3\u00d73\nbn1", 8.0, 5.0)
    sheet.line((14.0, main), (16.4, main))
    sheet.box((19.0, main), "relu", 5.2)
    sheet.line((21.6, main), (30.4, main))
    sheet.text((24.0, main + 1.5), "$h$", 9)
    sheet.box((34.4, main), "conv2 3\u00d73\nbn2", 8.0, 5.0)
    sheet.line((24.0, main), (24.0, term), (25.8, term), heavy=True)
    sheet.box((28.4, term), "norm", 5.2, term=True)
    sheet.line((31.0, term), (32.8, term), heavy=True)
    sheet.box((36.6, term), f"${_FORM}$".replace("x", "z"), 7.6, size=9, term=True)
    sheet.line((38.4, main), (46.6, main))
    sheet.line((40.4, term), (48.0, term), (48.0, main - 1.4), heavy=True)
    sheet.disc((48.0, main), 1.4, "+")
    sheet.line((49.4, main), (51.6, main))
    sheet.box((53.8, main), "\u00f7 2", 4.4)
    sheet.line((56.0, main), (58.6, main))
    sheet.disc((60.0, main), 1.4, "+")
    sheet.line((61.4, main), (63.4, main))
    sheet.box((66.0, main), "relu", 5.2)
    sheet.line((68.6, main), (71.0, main))
    sheet.line((4.4, main), (4.4, skip), (25.0, skip))
    sheet.box((30.4, skip), "shortcut 1\u00d71, bn", 10.8, 3.4)
    sheet.line((35.8, skip), (60.0, skip), (60.0, main - 1.4))


def _convnext_block(sheet: _Sheet, about: dict[str, Any]) -> None:
    size = "\u00d7".join(map(str, about["map"]))
    sheet.heading(18.8, "c", f"Dit-ConvNeXt: third block of stage 1, {about['channels']} channels, {size}")
    main, term, skip = 13.0, 6.8, 2.2
    sheet.text((2.0, main), "$x$", 10)
    sheet.line((3.2, main), (11.0, main))
    sheet.box((16.0, main), "conv_dw 7\u00d77", 10.0)
    sheet.line((7.6, main), (7.6, term), (12.0, term), heavy=True)
    sheet.box((16.0, term), f"${_FORM}$", 8.0, size=9, term=True)
    sheet.line((21.0, main), (24.2, main))
    sheet.line((20.0, term), (25.6, term), (25.6, main - 1.4), heavy=True)
    sheet.disc((25.6, main), 1.4, "+")
    sheet.line((27.0, main), (29.4, main))
    sheet.box((32.4, main), "norm", 6.0)
    sheet.line((35.4, main), (37.6, main))
    sheet.box((44.6, main), "linear $C \\to 4C$\ngelu\nlinear $4C \\to C$", 14.0, 7.0)
    sheet.line((51.6, main), (53.8, main))
    sheet.box((57.0, main), "scale $\\gamma$", 6.4)
    sheet.line((60.2, main), (63.4, main))
    sheet.disc((64.8, main), 1.4, "+")
    sheet.line((66.2, main), (71.0, main))
    sheet.line((4.4, main), (4.4, skip), (64.8, skip), (64.8, main - 1.4))
