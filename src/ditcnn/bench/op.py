"""The form alone, forward and backward: rivals, our backends, the bound."""

import json
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ditcnn.bench.bound import bound_calls
from ditcnn.bench.rivals import RIVALS, published
from ditcnn.bench.timing import interleave, peak_mib, peak_of_call
from ditcnn.ops import quadratic_form
from ditcnn.ops.native import native_available
from ditcnn.system.devices import DTYPES

__all__ = ["GROWTH_CASES", "OP_CASES", "bench_growth", "bench_op"]

Form = Callable[[Tensor, Tensor], Tensor]
Case = tuple[int, int, int]

OP_CASES: list[Case] = [(96, 96, 25_088), (32, 32, 32_768), (784, 10, 1_000)]  # C, O, positions
GROWTH_CASES: list[Case] = [
    (c, o, t) for c in (1, 4, 16, 64, 256) for o in (1, 16, 256) for t in (1, 32, 1_024, 32_768, 1_000_000)
]
RIVALS_LIMIT = 4 << 30  # bytes of products
RIVALS_LIMIT_MS = 10_000.0


def _ours() -> dict[str, Form]:
    names = ["auto", "native", "packed"] if native_available() else ["auto", "packed"]
    return {name: _with_backend(name) for name in names}


def _with_backend(name: Any) -> Form:
    return lambda x, weight: quadratic_form(x, weight, backend=name)


def bench_op(case: Case, rounds: int, precision: str = "fp32") -> dict[str, Any]:
    """Return times in ms of forward and backward, and peak MiB, of each form; with the bound.

    Args:
        case: C, O and the number of positions.
        rounds: Times that each is measured.
        precision: Of x and A, fp32 or bf16.
    """
    channels, outputs, positions = case
    rivals, left_out = _affordable(case, precision)
    forms = _ours() | rivals
    steps: dict[str, Callable[[], object]] = {name: _step(form, case, precision) for name, form in forms.items()}
    bound = bound_calls(channels, outputs, positions, DTYPES[precision])
    for part, calls in bound.items():
        steps |= {f"bound: {part} by {name}": call for name, call in calls.items()}
    times = interleave(steps, rounds)
    parts = {part: min(times[f"bound: {part} by {name}"] for name in calls) for part, calls in bound.items()}
    memory = {name: peak_mib(__name__, {"form": name, "case": case, "precision": precision}) for name in forms}
    return {
        "channels": channels,
        "outputs": outputs,
        "positions": positions,
        "precision": precision,
        "rounds": rounds,
        "time_ms": {name: times[name] for name in forms},
        "peak_mib": memory,
        "left_out_estimate_ms": left_out,
        "bound_ms": sum(parts.values()),
        "bound_parts_ms": parts,
    }


def _affordable(case: Case, precision: str) -> tuple[dict[str, Form], dict[str, float]]:
    """Return the rivals to measure, and for those that would take too long what a sixteenth of the positions says."""
    channels, outputs, positions = case
    if 4 * positions * channels**2 > RIVALS_LIMIT:
        return {}, {}
    part = (channels, outputs, max(1, positions // 16))
    probe = {name: interleave({name: _step(form, part, precision)}, rounds=1)[name] for name, form in RIVALS.items()}
    estimate = {name: time_ms * positions / part[2] for name, time_ms in probe.items()}
    left_out = {name: time_ms for name, time_ms in estimate.items() if time_ms > RIVALS_LIMIT_MS}
    return {name: form for name, form in RIVALS.items() if name not in left_out}, left_out


def bench_growth(case: Case, rounds: int) -> dict[str, Any] | None:
    """Return times in ms of the published form and of ours, forward and backward; None where the former has no memory."""
    channels, outputs, positions = case
    if 4 * positions * channels**2 > RIVALS_LIMIT:
        return None
    steps: dict[str, Callable[[], object]] = {
        "published": _step(published, case),
        "auto": _step(_with_backend("auto"), case),
    }
    times = interleave(steps, rounds, warmup=2)
    return {"channels": channels, "outputs": outputs, "positions": positions, "rounds": rounds, "time_ms": times}


def _step(form: Form, case: Case, precision: str = "fp32") -> Callable[[], object]:
    channels, outputs, positions = case
    drawn = partial(torch.randn, generator=torch.Generator().manual_seed(0), dtype=DTYPES[precision])
    x, weight = drawn(positions, channels).requires_grad_(), drawn(outputs, channels, channels).requires_grad_()
    grad = drawn(positions, outputs)
    return lambda: torch.autograd.grad(form(x, weight), (x, weight), grad)


def _print_peak(arguments: dict[str, Any]) -> None:
    """Print the peak memory of a form beyond its inputs, its results included."""
    forms = _ours() | RIVALS
    form = forms[arguments["form"]]
    small = _step(form, (4, 4, 20_000), arguments["precision"])
    small()  # libraries and compiled code are loaded
    channels, outputs, positions = arguments["case"]
    print(peak_of_call(_step(form, (channels, outputs, positions), arguments["precision"])))


if __name__ == "__main__":
    _print_peak(json.loads(sys.argv[1]))
