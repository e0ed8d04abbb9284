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
from torchvision.transforms.v2.functional import pil_to_tensor

from ditcnn.cli.parsing import parse
from ditcnn.data import decode_image
from ditcnn.data.batches import normalise
from ditcnn.errors import InputError
from ditcnn.train import TrainedModel, choose_device, load_model

__all__ = ["predict_command"]

BATCH = 64


@dataclass(frozen=True)
class PredictFlags:
    """Classify images with a run's model. Images are resized to what it was trained on."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder of a run."""
    inputs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="INPUT ...")]
    """Image files, or folders of them."""
    topk: int = 1
    """How many classes to name for each image."""
    format: Literal["table", "csv", "json"] = "table"
    """Form of the output."""
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
    trained = load_model(flags.run)
    paths = [path for given in flags.inputs for path in _images(given)]
    rows = _predict(trained, paths, min(flags.topk, len(trained.classes)), device)
    {"table": _print_table, "csv": _print_csv, "json": _print_json}[flags.format](rows)


def _images(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise InputError(f"{path}: no such file or folder.")
    found = sorted(p for p in path.rglob("*") if p.suffix.lower() in IMG_EXTENSIONS and p.is_file())
    if not found:
        raise InputError(f"{path} holds no images.")
    return found


@torch.no_grad()
def _predict(trained: TrainedModel, paths: list[Path], topk: int, device: torch.device) -> list[dict[str, Any]]:
    """Return a row for each image: its path and its ``topk`` classes, the likeliest first."""
    model = trained.model.to(device)
    rows = []
    for start in range(0, len(paths), BATCH):
        batch = paths[start : start + BATCH]
        images = torch.stack([_load(path, trained.image_shape) for path in batch])
        probabilities = model(normalise(images.to(device), trained.mean, trained.std)).float().softmax(1).cpu()
        for path, values, labels in zip(batch, *probabilities.topk(topk), strict=True):
            top = [
                {"class": trained.classes[label], "probability": round(value, 6)}
                for value, label in zip(values.tolist(), labels.tolist(), strict=True)
            ]
            rows.append({"path": str(path), "top": top})
    return rows


def _load(path: Path, image_shape: tuple[int, int, int]) -> Tensor:
    """Return an image as uint8 ``[C, H, W]`` of the shape that the model was trained on."""
    channels, height, width = image_shape
    image = Image.fromarray(decode_image(path.read_bytes(), str(path))).convert("L" if channels == 1 else "RGB")
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    pixels: Tensor = pil_to_tensor(image)
    return pixels


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
