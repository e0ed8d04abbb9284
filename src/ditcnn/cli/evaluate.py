"""``ditcnn eval``."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from ditcnn.cli.parsing import parse
from ditcnn.cli.settings import stored_settings
from ditcnn.data import DataName, open_data
from ditcnn.errors import InputError
from ditcnn.recipes import RECIPES
from ditcnn.train import RunFolder, choose_device, evaluate, load_model

__all__ = ["evaluate_command"]


@dataclass(frozen=True)
class EvalFlags:
    """Test a run's model on the test part of a data set."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder of a run."""
    data: Path | None = None
    """Images, as for ditcnn train. Default: the data that the run was trained on."""
    json: bool = False
    """Print JSON."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Arithmetic of the forward pass."""
    batch_size: int = 500
    """Images at a time."""


def evaluate_command(argv: list[str]) -> None:
    """Print accuracy and loss."""
    flags = parse(EvalFlags, argv, "ditcnn eval")
    if flags.batch_size < 1:
        raise InputError(f"--batch-size must be above 0; got {flags.batch_size}.")
    device = choose_device(flags.device)
    trained = load_model(flags.run)
    path, name = _data_of(flags, len(trained.classes))
    data = open_data(path, name)
    if data.classes != trained.classes:
        raise InputError(
            f"{flags.run} knows {len(trained.classes)} classes ({', '.join(trained.classes[:3])}, ...), the data has "
            f"{len(data.classes)} ({', '.join(data.classes[:3])}, ...); they must be the same."
        )
    if data.image_shape != trained.image_shape:
        raise InputError(f"{flags.run} takes images of (C, H, W) = {trained.image_shape}; the data has {data.image_shape}.")
    scores: dict[str, Any] = evaluate(
        trained.model.to(device),
        data.test,
        mean=trained.mean,
        std=trained.std,
        device=device,
        precision=flags.precision,
        batch_size=flags.batch_size,
        topk=(1, 5) if len(data.classes) > 5 else (1,),
    )
    if flags.json:
        print(json.dumps({"run": str(flags.run), "data": str(path or name), "images": len(data.test)} | scores))
    else:
        accuracies = ", ".join(f"top-{k[3:]} {v:.2f}%" for k, v in scores.items() if k.startswith("top"))
        print(f"{accuracies}, loss {scores['loss']:.4f} on {len(data.test)} test images")


def _data_of(flags: EvalFlags, classes: int) -> tuple[Path | None, DataName]:
    """Return path and name of the data: as asked, or as in the run's settings."""
    if flags.data is not None:
        return flags.data, "cifar100" if classes == 100 else "cifar10"  # where both lie at the path
    config = RunFolder(flags.run).config
    settings = stored_settings(config) if config.is_file() else None
    if settings is None or settings.recipe not in RECIPES:
        raise InputError(f"{flags.run} does not say what it was trained on; name images with --data PATH.")
    name = RECIPES[settings.recipe].data
    if name == "imagenet":
        raise InputError(f"{flags.run} was trained on a streamed set; name images with --data PATH.")
    return settings.data, name
