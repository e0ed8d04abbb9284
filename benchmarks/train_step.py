"""Time a CIFAR training step in each precision, memory format and with torch.compile, and the input's share of it.

    python benchmarks/train_step.py [--rounds N] [--batch-size N] [--models NAME ...]

All variants are warmed up, then run in turn, N rounds; reported are medians in ms and ratios to the plain network's fp32
step with channels first. A line of JSON goes to benchmarks/train_step.jsonl. Let nothing else run beside it.
"""

import dataclasses
import datetime
import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
import tyro
from rich.console import Console
from rich.table import Table

from ditcnn.bench.timing import interleave
from ditcnn.data import ImageSet
from ditcnn.data.batches import normalise, train_batches
from ditcnn.recipes import make_recipe
from ditcnn.system.devices import autocast
from ditcnn.system.environment import describe_environment
from ditcnn.train import build_model
from ditcnn.train.optim import make_optimizer

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Flags:
    """Time CIFAR training steps."""

    rounds: int = 10
    batch_size: int = 128
    models: tuple[str, ...] = ("resnet20", "dit_resnet20")


@dataclass(frozen=True)
class Variant:
    """One way to run a step."""

    model: str
    precision: str
    channels_last: bool
    compile: bool


def make_step(variant: Variant, batch_size: int) -> Callable[[], None]:
    """Return a function that makes one training step on random images."""
    torch.manual_seed(0)
    layout = torch.channels_last if variant.channels_last else torch.contiguous_format
    model = build_model(variant.model, (3, 32, 32), 10).to(memory_format=layout)
    optimizer = make_optimizer(model, make_recipe("cifar10", variant.model))
    forward = torch.compile(model) if variant.compile else model
    images = torch.randn(batch_size, 3, 32, 32).contiguous(memory_format=layout)
    labels = torch.randint(10, (batch_size,))

    def step() -> None:
        with autocast(CPU, variant.precision):
            logits = forward(images)
        F.cross_entropy(logits.float(), labels).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def make_input(batch_size: int) -> Callable[[], None]:
    """Return a function that makes one augmented and normalised batch of CIFAR's size."""
    data = ImageSet(torch.randint(0, 256, (50_000, 3, 32, 32), dtype=torch.uint8), torch.zeros(50_000, dtype=torch.long))
    recipe = make_recipe("cifar10")
    batches = itertools.chain.from_iterable(
        train_batches(data, batch_size=batch_size, seed=0, epoch=e, crop_padding=4, flip=True) for e in itertools.count()
    )

    def step() -> None:
        images, _ = next(batches)
        normalise(images, recipe.mean, recipe.std)

    return step


def main(flags: Flags) -> None:
    """Measure, print, record."""
    variants = [
        Variant(*choice) for choice in itertools.product(flags.models, ("fp32", "bf16"), (False, True), (False, True))
    ]
    steps: dict[Variant | str, Callable[[], None]] = {v: make_step(v, flags.batch_size) for v in variants}
    times = interleave(steps | {"input": make_input(flags.batch_size)}, flags.rounds, warmup=3)
    base = times[variants[0]]
    table = Table("model", "precision", "channels last", "compile", "ms", f"ratio to {flags.models[0]} fp32")
    for v in variants:
        yes_no = ["yes" if x else "no" for x in (v.channels_last, v.compile)]
        table.add_row(v.model, v.precision, *yes_no, f"{times[v]:.0f}", f"{times[v] / base:.2f}")
    console = Console(width=120)
    console.print(table)
    fastest = min(times[v] for v in variants)
    console.print(f"input: {times['input']:.2f} ms a batch, {100 * times['input'] / fastest:.1f}% of the fastest step")
    record = {
        "benchmark": "train_step",
        "date": datetime.date.today().isoformat(),
        "batch_size": flags.batch_size,
        "rounds": flags.rounds,
        "median_ms": [dataclasses.asdict(v) | {"ms": round(times[v], 2)} for v in variants],
        "input_ms": round(times["input"], 3),
        "environment": {k: v for k, v in describe_environment(CPU).items() if k not in ("command", "started")},
    }
    with Path(__file__).with_suffix(".jsonl").open("a") as file:
        file.write(json.dumps(record) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Flags))
