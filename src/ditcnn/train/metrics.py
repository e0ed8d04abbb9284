"""The record of a run: metrics.jsonl, TensorBoard events and a picture of the curves."""

import io
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ditcnn.system.errors import InputError, reason
from ditcnn.system.files import whole_lines, write_atomically

__all__ = ["MetricsLog", "draw_curves", "read_metrics"]


class MetricsLog:
    """Appends epochs to ``metrics.jsonl``, each line synced to disk, and to TensorBoard events beside it.

    Args:
        path: The file; where it does not hold the lines so far it is written anew.
        lines: The lines so far, as the checkpoint has them; later ones are dropped, as the run will write them again.
        warn: Is told of a file that is mended.
    """

    def __init__(self, path: Path, lines: Sequence[Mapping[str, Any]], warn: Callable[[str], None]) -> None:
        from torch.utils.tensorboard import SummaryWriter  # slow to import

        so_far = b"".join(map(_encoded, lines))
        found = path.read_bytes() if path.exists() else b""
        if not found.startswith(so_far):
            warn(f"{path} is damaged or was changed; written anew from the checkpoint.")
        if found != so_far:
            write_atomically(path, so_far)
        self._file = path.open("ab")
        self._events = SummaryWriter(str(path.parent), purge_step=len(lines) + 1)  # type: ignore[no-untyped-call]

    def write(self, line: dict[str, Any]) -> None:
        """Append a line; its numbers go to TensorBoard at step ``epoch``."""
        self._file.write(_encoded(line))
        self._file.flush()
        os.fsync(self._file.fileno())
        for name, value in line.items():
            if isinstance(value, float):
                self._events.add_scalar(name, value, line["epoch"])  # type: ignore[no-untyped-call]

    def close(self) -> None:
        """Write what is buffered."""
        self._file.close()
        self._events.close()  # type: ignore[no-untyped-call]


def _encoded(line: Mapping[str, Any]) -> bytes:
    return (json.dumps(line) + "\n").encode()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a ``metrics.jsonl``, without a last one that was being written when its process died.

    Raises:
        InputError: A line is no JSON object; or the file cannot be read.
    """
    try:
        lines = [json.loads(line) for line in whole_lines(path.read_bytes()).splitlines()]
    except OSError as error:
        raise InputError(f"{reason(error)}: a run's metrics cannot be read.") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is damaged: {error}. Go on with its run, which mends it.") from None
    if not all(isinstance(line, dict) for line in lines):
        raise InputError(f"{path} is damaged: a line is no JSON object. Go on with its run, which mends it.")
    return lines


def draw_curves(metrics: Path, picture: Path) -> None:
    """Draw loss, accuracy and learning rate against epochs."""
    from matplotlib.figure import Figure  # slow to import

    lines = [line for line in read_metrics(metrics) if "train_loss" in line]
    if not lines:
        return
    epochs = [line["epoch"] for line in lines]
    figure = Figure(figsize=(11, 3.5), layout="constrained")
    panels = figure.subplots(1, 3)
    for axes, quantity, unit in ((panels[0], "loss", "nats"), (panels[1], "top1", "%")):
        for part, style in (("train", "--"), ("holdout", "-"), ("test", "-"), ("val", "-"), ("val_ema", ":")):
            if f"{part}_{quantity}" in lines[0]:
                values = [line[f"{part}_{quantity}"] for line in lines]
                axes.plot(epochs, values, style, marker=".", markersize=3, label=part)
        axes.set(xlabel="epoch", ylabel=f"{'top-1 accuracy' if quantity == 'top1' else quantity} [{unit}]")
        axes.legend()
    rates = [line["lr"] for line in lines]
    steps = len(set(rates)) <= 4  # a rate lowered by factors; a smooth one ends near zero, and would fill a log axis
    panels[2].plot(epochs, rates, drawstyle="steps-mid" if steps else "default")
    panels[2].set(xlabel="epoch", ylabel="base learning rate", yscale="log" if steps else "linear")
    for axes in panels:
        axes.grid(alpha=0.3)
    image = io.BytesIO()
    figure.savefig(image, dpi=120, format="png")
    write_atomically(picture, image.getvalue())
