"""``ditcnn predict``."""

import csv
import io
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from ditcnn.cli.parsing import parse
from ditcnn.system.errors import InputError
from ditcnn.system.network import ask_hub_early
from ditcnn.system.text import one_line, visible

if TYPE_CHECKING:
    from ditcnn.train import TrainedModel
    from ditcnn.use.predicting import Picture

__all__ = ["predict_command"]

WIDEST = 40  # characters of a column; longer text moves the rest of its line


@dataclass(frozen=True)
class PredictFlags:
    """Classify images. They are oriented, resized, cropped and normalised as the model's config.json says.

    Rows are printed as they are computed.
    """

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL_OR_RUN")]
    """Folder of a run, or of a model that timm has saved; a name of timm's registry; hf-hub:NAME."""
    inputs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="INPUT ...")]
    """Image files, or folders or tars of them."""
    topk: int = 1
    """How many classes to name for each image."""
    format: Literal["table", "csv", "json"] = "table"
    """Form of the output."""
    pretrained: bool = True
    """Load the weights that belong to a name of timm's."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute."""
    skip_bad_images: bool = False
    """Leave out images that cannot be read, name and count them; else the first one ends it, with status 2."""


def predict_command(argv: list[str]) -> None:
    """Print the likeliest classes of each image, with their probabilities."""
    flags = parse(PredictFlags, argv, "ditcnn predict")
    ask_hub_early(flags.model)
    if flags.topk < 1:
        raise InputError(f"--topk must be above 0; got {flags.topk}.")
    if not flags.inputs:
        raise InputError("name at least one image file or folder.")
    from ditcnn.system.devices import choose_device  # loads torch, as the next do
    from ditcnn.train import open_model
    from ditcnn.use.predicting import pictures_at, predictions

    device = choose_device(flags.device)
    trained = open_model(flags.model, pretrained=flags.pretrained)
    if not trained.classes:
        raise InputError(f"{flags.model} has no classes.")
    pictures = [picture for place in flags.inputs for picture in pictures_at(place)]
    printer: Any = {"table": _Table, "csv": _Csv, "json": _Json}[flags.format](trained, pictures)
    bad = _Told() if flags.skip_bad_images else None
    try:
        for row in predictions(trained, pictures, flags.topk, device, bad=bad):
            printer.row(row)
            sys.stdout.flush()
    except InputError as error:
        raise InputError(f"{error} Or go on without it: --skip-bad-images.") from None
    finally:
        printer.end()
    if bad:
        print(f"ditcnn: {len(pictures) - len(bad)} images classified, {len(bad)} left out.", file=sys.stderr)
        if len(bad) == len(pictures):
            raise InputError("no image of all can be read.")


class _Told(dict[str, str]):
    """Messages by image, told when they come."""

    def __setitem__(self, path: str, message: str) -> None:
        super().__setitem__(path, message)
        print(f"ditcnn: left out: {one_line(message)}", file=sys.stderr)


class _Table:
    def __init__(self, trained: "TrainedModel", pictures: "list[Picture]") -> None:
        from ditcnn.data.class_names import describe

        places = [len(visible(picture.path or "")) for picture in pictures]
        self.widths = max([5, *places]), max(5, min(WIDEST, max(len(visible(describe(name))) for name in trained.classes)))
        self._begun = False

    def row(self, row: dict[str, Any]) -> None:
        if not self._begun:
            self._print("image", "class", "probability")
            self._begun = True
        for rank, guess in enumerate(row["top"]):
            self._print(row["path"] if rank == 0 else "", guess["class"], f"{100 * guess['probability']:.1f}%")

    def _print(self, path: str, name: str, probability: str) -> None:
        print(f"{visible(path):<{self.widths[0]}} {visible(name):<{self.widths[1]}} {probability}")

    def end(self) -> None:
        pass


class _Csv:
    def __init__(self, trained: "TrainedModel", pictures: "list[Picture]") -> None:
        self._begun = False

    def row(self, row: dict[str, Any]) -> None:
        if not self._begun:
            self._print("path", "rank", "class", "probability")
            self._begun = True
        for rank, guess in enumerate(row["top"], start=1):
            self._print(visible(row["path"]), rank, visible(guess["class"]), guess["probability"])

    def _print(self, *cells: object) -> None:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerow(cells)
        print(text.getvalue(), end="")

    def end(self) -> None:
        pass


class _Json:
    """A list, complete however it ends."""

    def __init__(self, trained: "TrainedModel", pictures: "list[Picture]") -> None:
        self._begun = False

    def row(self, row: dict[str, Any]) -> None:
        text = "\n".join(f"  {line}" for line in json.dumps(row, indent=2).splitlines())
        print(f"{',' if self._begun else '['}\n{text}", end="")
        self._begun = True

    def end(self) -> None:
        if self._begun:
            print("\n]")
