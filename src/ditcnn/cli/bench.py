"""``ditcnn bench``."""

import datetime
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from ditcnn.cli.parsing import parse
from ditcnn.system.errors import InputError
from ditcnn.system.text import plain_console

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["bench_command"]


@dataclass(frozen=True)
class BenchFlags:
    """Measure the quadratic form and the networks on this machine's CPU; let nothing else run beside it.

    op: the form alone against the published one, nn.Bilinear, einsum, a 1x1 convolution, and the bound: its
    multiplications by the fastest call that torch has here. growth: ours against the published form over sizes.
    models: training steps and inference against the plain twins.
    """

    what: Annotated[Literal["op", "growth", "models"], tyro.conf.Positional]
    """What to measure."""
    quick: bool = False
    """A few small cases, to see that it works: not for figures to be quoted."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Of the form alone (op); models are measured in both."""
    rounds: int | None = None
    """Times that each alternative runs; they run in turn, and medians are reported. Default: 9, or 2 with --quick."""
    out: Path | None = None
    """Folder to add the records to, as WHAT.jsonl; growth.png is drawn there."""


def bench_command(argv: list[str]) -> None:
    """Measure, print, record."""
    flags = parse(BenchFlags, argv, "ditcnn bench")
    rounds = (2 if flags.quick else 9) if flags.rounds is None else flags.rounds
    if rounds < 1:
        raise InputError(f"--rounds must be above 0; got {flags.rounds}.")
    if flags.precision != "fp32" and flags.what != "op":
        raise InputError(f"--precision has no effect on bench {flags.what}; it is for bench op.")
    console = plain_console(150)
    records = []
    for record in _measure(flags, rounds):
        records.append(record)
        console.print(_table(flags.what, record))
        if flags.out is not None:
            _append(flags.out, flags.what, record)
    if flags.what == "growth" and flags.out is not None:
        from ditcnn.bench import draw_growth

        draw_growth(records, flags.out / "growth.png")


def _measure(flags: BenchFlags, rounds: int) -> Iterator[dict[str, Any]]:
    from ditcnn.bench import GROWTH_CASES, MODEL_CASES, OP_CASES, bench_growth, bench_models, bench_op

    if flags.what == "op":
        yield from (bench_op(case, rounds, flags.precision) for case in (OP_CASES if not flags.quick else [(16, 16, 2_000)]))
    elif flags.what == "growth":
        cases = GROWTH_CASES if not flags.quick else [case for case in GROWTH_CASES if max(case) <= 1_024][::4]
        yield from filter(None, (bench_growth(case, rounds) for case in cases))
    else:
        yield from (bench_models(case, rounds) for case in (MODEL_CASES if not flags.quick else MODEL_CASES[:1]))


def _table(what: str, record: dict[str, Any]) -> "Table":
    from rich.table import Table

    times, peaks = record["time_ms"], record.get("peak_mib", {})
    base = "plain" if what == "models" else "published"
    columns = ["", "time [ms]", f"ratio to {base}"]
    columns += ["ratio to the bound"] if "bound_ms" in record else []
    columns += ["peak memory [MiB]"] if peaks else []
    shape = ", ".join(f"{key} {value}" for key, value in record.items() if not isinstance(value, dict | float))
    table = Table(*columns, title=shape, title_justify="left", box=None, pad_edge=False)
    for name, time_ms in times.items():
        row = [name, f"{time_ms:.2f}", f"{time_ms / times[base]:.3f}" if base in times else "-"]
        row += [f"{time_ms / record['bound_ms']:.2f}"] if "bound_ms" in record else []
        row += ["-" if peaks.get(name) is None else f"{peaks[name]:.0f}"] if peaks else []
        table.add_row(*row)
    for name, estimate_ms in record.get("left_out_estimate_ms", {}).items():
        table.add_row(name, f"about {estimate_ms:.0f}, not run whole")
    if "bound_ms" in record:
        table.add_row("bound", f"{record['bound_ms']:.2f}", "", "1.00", "")
    return table


def _append(folder: Path, what: str, record: dict[str, Any]) -> None:
    import torch

    from ditcnn.system.environment import describe_environment

    folder.mkdir(parents=True, exist_ok=True)
    environment = describe_environment(torch.device("cpu"))
    about = {"benchmark": what, "date": datetime.date.today().isoformat(), "environment": environment}
    with (folder / f"{what}.jsonl").open("a") as file:
        file.write(json.dumps(record | about) + "\n")
