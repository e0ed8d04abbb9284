"""A picture of how cost grows."""

from pathlib import Path
from typing import Any

__all__ = ["draw_growth"]


def draw_growth(records: list[dict[str, Any]], picture: Path) -> None:
    """Draw time against positions, a panel for each number of channels, published form and ours."""
    from matplotlib.figure import Figure  # slow to import

    channels = sorted({record["channels"] for record in records})
    outputs = sorted({record["outputs"] for record in records})
    figure = Figure(figsize=(3.2 * len(channels), 3.4), layout="constrained")
    panels = figure.subplots(1, len(channels), sharey=True, squeeze=False)[0]
    markers = dict(zip(outputs, "osD^v", strict=False))
    for axes, count in zip(panels, channels, strict=True):
        for output in outputs:
            chosen = [r for r in records if r["channels"] == count and r["outputs"] == output]
            for name, label, style, colour in (
                ("published", "published", "--", "tab:orange"),
                ("auto", "ditcnn", "-", "tab:blue"),
            ):
                axes.plot(
                    [r["positions"] for r in chosen],
                    [r["time_ms"][name] for r in chosen],
                    style,
                    color=colour,
                    marker=markers[output],
                    markersize=4,
                    label=f"{label}, O = {output}",
                )
        axes.set(title=f"C = {count}", xlabel="positions", xscale="log", yscale="log")
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("forward and backward [ms]")
    panels[0].legend(fontsize=7)
    figure.savefig(picture, dpi=120)
