"""The figures of a report."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ditcnn.analysis.figures import COLOURS
from ditcnn.report.runs import Group

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["curves_figure", "matrices_figure"]

SHOWN = 6  # matrices of a term, the largest ones


def curves_figure(groups: Sequence[Group]) -> "Figure":
    """Draw training loss and accuracy on the watched images against epochs: the mean over seeds, and their range.

    Runs of fewer epochs than the group's longest are no part of these; each is a thin line of its own.
    """
    from matplotlib.figure import Figure  # slow to import

    figure = Figure(figsize=(9, 3.2 + 0.16 * len(groups)))
    panels = figure.subplots(1, 2)
    for axes, quantity, label in (
        (panels[0], "train_loss", "training loss [nats]"),
        (panels[1], "top1", "top-1 accuracy, images watched [%]"),
    ):
        for index, group in enumerate(groups):
            colour = COLOURS[index % len(COLOURS)]
            style = ("-", "--", ":")[index // len(COLOURS) % 3]
            keys = [(run, f"{run.watched}_top1" if quantity == "top1" else quantity) for run in group.runs]
            all_curves = ([line[key] for line in run.epochs if key in line] for run, key in keys)
            curves = [curve for curve in all_curves if curve]  # without runs that have not finished an epoch
            if not curves:
                continue
            longest = max(map(len, curves))
            values, epochs = np.array([curve for curve in curves if len(curve) == longest]), np.arange(1, longest + 1)
            axes.plot(epochs, values.mean(0), label=group.name, color=colour, linestyle=style, marker=".")
            axes.fill_between(epochs, values.min(0), values.max(0), color=colour, alpha=0.2, linewidth=0)
            for curve in (curve for curve in curves if len(curve) < longest):
                axes.plot(
                    epochs[: len(curve)], curve, color=colour, linestyle=style, linewidth=0.7, marker=".", markersize=3
                )
        axes.set(xlabel="epoch", ylabel=label)
        axes.xaxis.get_major_locator().set_params(integer=True)  # no half epochs on the axis of a short run
    handles, labels = panels[0].get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside lower left", ncols=1)
    return figure


@torch.no_grad()
def matrices_figure(matrices: Tensor) -> "Figure":
    """Draw the largest of a term's symmetric matrices ``[O, C, C]`` as heat maps, and the spectra of all.

    Colours of a heat map go from minus to plus its largest entry. A spectrum is the eigenvalues in order of size.
    """
    from matplotlib.figure import Figure  # slow to import

    matrices = matrices.double().cpu()
    sizes = torch.linalg.matrix_norm(matrices)
    largest = sizes.argsort(descending=True)[:SHOWN].tolist()
    figure = Figure(figsize=(9, 5.6))
    above, below = figure.subfigures(2, 1, squeeze=False, height_ratios=(1, 1.3))[:, 0]
    panels = above.subplots(1, SHOWN, squeeze=False)[0]
    for axes, output in zip(panels, largest, strict=False):
        limit = float(matrices[output].abs().max()) or 1.0
        axes.imshow(matrices[output].numpy(), cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
        axes.set_title(f"output {output}, ±{limit:.2g}", fontsize=8)
    for axes in panels:
        axes.set_axis_off()
    axes = below.subplots()
    eigenvalues = torch.linalg.eigvalsh(matrices).flip(-1)
    rank = range(1, matrices.shape[-1] + 1)
    for output, spectrum in enumerate(eigenvalues.tolist()):
        if output not in largest:
            axes.plot(rank, spectrum, color="0.75", linewidth=0.6, linestyle="-", marker="")
    for index, output in enumerate(largest):
        own = eigenvalues[output].tolist()
        axes.plot(rank, own, label=f"output {output}", color=COLOURS[index], linestyle="-", marker=".", markersize=3)
    axes.axhline(0, color="0.4", linewidth=0.8, linestyle="-", marker="")
    axes.set(xlabel="eigenvalue, by size", ylabel="eigenvalue of A")
    axes.legend(ncols=2)
    return figure
