"""``ditcnn info``."""

import dataclasses
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from ditcnn.cli.parsing import parse
from ditcnn.system.errors import InputError
from ditcnn.system.text import one_line, plain_console, visible

if TYPE_CHECKING:
    from ditcnn.cost import Cost

__all__ = ["info_command"]


@dataclass(frozen=True)
class InfoFlags:
    """Print what a model costs, against its plain twin: computed from its shapes, in float32."""

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """A name of timm's registry, or the folder of a run."""
    image_size: int | None = None
    """Height and width of the images. Default: the model's own."""
    batch_size: int = 64
    """Images in a training step."""
    tflops: float | None = None
    """TFLOP/s that all devices sustain together: adds the images a second in training that they allow, and the days of
    the paper's 300 epochs of ImageNet-1K."""
    model_kwargs: tuple[str, ...] = ()
    """Arguments of the model as name=value."""
    json: bool = False
    """Print JSON."""


def info_command(argv: list[str]) -> None:
    """Print the costs."""
    flags = parse(InfoFlags, argv, "ditcnn info")
    for name in ("image_size", "batch_size"):
        if getattr(flags, name) is not None and getattr(flags, name) < 1:
            raise InputError(f"--{name.replace('_', '-')} must be above 0; got {getattr(flags, name)}.")
    if flags.tflops is not None and not 0 < flags.tflops < float("inf"):
        raise InputError(f"--tflops must be above 0 and finite; got {flags.tflops}.")
    import torch

    from ditcnn.cost import cost_of, terms_and_twin
    from ditcnn.recipes import parse_arguments
    from ditcnn.train.build import fresh_model, input_shape

    arguments = parse_arguments(flags.model_kwargs)
    shape = input_shape(flags.model, arguments, flags.image_size)
    with torch.device("meta"):
        model = fresh_model(flags.model, arguments, shape)
    terms, twin = terms_and_twin(model)
    try:
        cost, plain = cost_of(model, shape, flags.batch_size), cost_of(twin, shape, flags.batch_size)
    except (ValueError, RuntimeError, TypeError, OverflowError) as error:  # as batch normalisation of a single number
        told = f"{flags.model} cannot train on {flags.batch_size} images of {shape}: {one_line(error)}"
        raise InputError(told) from None
    if flags.json:
        values = {"model": flags.model, "image_shape": shape, "terms": terms}
        print(json.dumps(values | _values(cost, flags.tflops) | {"plain_twin": _values(plain, flags.tflops)}))
    else:
        _print(flags, shape, terms, cost, plain)


def _values(cost: "Cost", tflops: float | None) -> dict[str, Any]:
    from ditcnn.cost import IMAGENET_EPOCHS, IMAGENET_IMAGES

    values = dataclasses.asdict(cost)
    if tflops is not None:
        values["training"] = {
            "tflops": tflops,
            "images_per_s": cost.training_images_per_s(tflops),
            "epochs": IMAGENET_EPOCHS,
            "images": IMAGENET_IMAGES,
            "days": cost.imagenet_days(tflops),
        }
    return values


def _print(flags: InfoFlags, shape: tuple[int, int, int], terms: int, cost: "Cost", plain: "Cost") -> None:
    from rich.table import Table

    from ditcnn.cost import IMAGENET_EPOCHS, IMAGENET_IMAGES

    size = "x".join(map(str, shape))
    print(f"{visible(flags.model)}: images {size}, {terms or 'no'} quadratic term{'' if terms == 1 else 's'}")
    table = Table("", "model", "plain twin", "the terms' share", box=None, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    for label, name, unit in (
        ("parameters", "parameters", ""),
        ("MACs an image, as the paper counts", "macs", "G"),
        ("MACs an image, symmetry used", "macs_executed", "G"),
        ("weights", "weights_mib", "MiB"),
        ("gradients", "gradients_mib", "MiB"),
        ("optimiser state of AdamW", "optimizer_mib", "MiB"),
        (f"activations kept, batch of {cost.batch_size}", "activations_mib", "MiB"),
        ("all that a training step holds", "step_mib", "MiB"),
    ):
        whole, twin = getattr(cost, name), getattr(plain, name)
        share = 100 * (whole - twin) / whole if whole else 0.0
        table.add_row(label, _amount(whole, unit), _amount(twin, unit), f"{share:.1f}%")
    if flags.tflops is not None:
        rates = [c.training_images_per_s(flags.tflops) for c in (cost, plain)]
        table.add_row(f"images a second in training, at {flags.tflops:g} TFLOP/s", *(f"{rate:,.1f}" for rate in rates))
        days = [c.imagenet_days(flags.tflops) for c in (cost, plain)]
        table.add_row(f"days for {IMAGENET_EPOCHS} epochs of {IMAGENET_IMAGES:,} images", *(f"{d:,.2f}" for d in days))
    plain_console(110).print(table)


def _amount(value: float, unit: str) -> str:
    if unit == "G":
        return f"{value / 1e9:.3f} G"
    return f"{value:,.1f} {unit}" if unit else f"{value:,}"
