"""``ditcnn predict``."""

import csv
import io
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torchvision.datasets.folder import IMG_EXTENSIONS

from ditcnn.cli.named import NamedModel, open_named
from ditcnn.cli.parsing import parse
from ditcnn.data import decode_image
from ditcnn.data.batches import normalise
from ditcnn.data.class_names import describe
from ditcnn.data.stream.source import is_hidden
from ditcnn.data.stream.tars import Member, images_in, read_member
from ditcnn.system.devices import choose_device
from ditcnn.system.errors import InputError

__all__ = ["predict_command"]

BATCH = 64


@dataclass(frozen=True)
class PredictFlags:
    """Classify images. They are resized, cropped and normalised as the model wants; an EXIF rotation is applied."""

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


def predict_command(argv: list[str]) -> None:
    """Print the likeliest classes of each image, with their probabilities."""
    flags = parse(PredictFlags, argv, "ditcnn predict")
    if flags.topk < 1:
        raise InputError(f"--topk must be above 0; got {flags.topk}.")
    if not flags.inputs:
        raise InputError("name at least one image file or folder.")
    device = choose_device(flags.device)
    named = open_named(flags.model, pretrained=flags.pretrained)
    if named.outputs < 1:
        raise InputError(f"{flags.model} has no classes.")
    images = [image for given in flags.inputs for image in _images(given)]
    rows = _predict(named, images, min(flags.topk, named.outputs), device)
    {"table": _print_table, "csv": _print_csv, "json": _print_json}[flags.format](rows)


def _images(path: Path) -> list[Path | Member]:
    if path.is_file():
        return list(images_in([path])) if path.suffix.lower() == ".tar" else [path]
    if not path.is_dir():
        raise InputError(f"{path}: no such file or folder.")
    images = (p for p in path.rglob("*") if p.suffix.lower() in IMG_EXTENSIONS and p.is_file())
    found = sorted(p for p in images if not is_hidden(p.relative_to(path).as_posix()))  # such as ._photo.jpg of macOS
    if not found:
        raise InputError(f"{path} holds no images.")
    return list(found)


@torch.no_grad()
def _predict(named: NamedModel, images: list[Path | Member], topk: int, device: torch.device) -> list[dict[str, Any]]:
    """Return a row for each image: its path and its ``topk`` classes, the likeliest first."""
    model = named.model.to(device)
    rows = []
    for start in range(0, len(images), BATCH):
        batch = images[start : start + BATCH]
        pixels = torch.stack([_load(image, named) for image in batch])
        probabilities = model(normalise(pixels.to(device), named.mean, named.std)).float().softmax(1).cpu()
        for image, values, outputs in zip(batch, *probabilities.topk(topk), strict=True):
            top = [
                _name(named, output) | {"probability": round(value, 6)}
                for value, output in zip(values.tolist(), outputs.tolist(), strict=True)
            ]
            rows.append({"path": _place(image), "top": top})
    return rows


def _name(named: NamedModel, output: int) -> dict[str, str]:
    """Return the class of an output in words, and its WordNet id where it has one."""
    name = named.classes[output] if named.classes else str(output)
    words = describe(name)
    return {"class": words} if words == name else {"class": words, "wnid": name}


def _place(image: Path | Member) -> str:
    return f"{image.archive}:{image.name}" if isinstance(image, Member) else str(image)


def _load(image: Path | Member, named: NamedModel) -> Tensor:
    """Return an image as uint8 ``[C, H, W]``, resized and cropped as the model wants."""
    content = read_member(image) if isinstance(image, Member) else image.read_bytes()
    pixels = Image.fromarray(decode_image(content, _place(image)))
    return named.transform(pixels.convert("L" if named.channels == 1 else "RGB"))


def _print_table(rows: list[dict[str, Any]]) -> None:
    table = Table("image", "class", "probability", box=None, pad_edge=False)
    for column in table.columns:
        column.no_wrap = True
    for row in rows:
        for rank, guess in enumerate(row["top"]):
            table.add_row(row["path"] if rank == 0 else "", guess["class"], f"{100 * guess['probability']:.1f}%")
    Console(width=None if sys.stdout.isatty() else 10_000, markup=False).print(table)


def _print_csv(rows: list[dict[str, Any]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["path", "rank", "class", "probability"])
    for row in rows:
        for rank, guess in enumerate(row["top"], start=1):
            writer.writerow([row["path"], rank, guess["class"], guess["probability"]])
    print(text.getvalue(), end="")


def _print_json(rows: list[dict[str, Any]]) -> None:
    print(json.dumps(rows, indent=2))
