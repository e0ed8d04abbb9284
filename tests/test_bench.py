"""``ditcnn bench``: what it compares is right; how fast, no test can say."""

import json
import time

import pytest
import torch

from ditcnn.bench import bench_op
from ditcnn.bench import op as bench_op_module
from ditcnn.bench.bound import bound_calls
from ditcnn.bench.rivals import RIVALS, published
from ditcnn.bench.timing import interleave, peak_of_call
from ditcnn.cli import main
from ditcnn.ops import reference_quadratic_form
from ditcnn.system.devices import DTYPES


@pytest.mark.parametrize("name", RIVALS)
def test_rivals_compute_the_form(name):
    x, weight = torch.randn(7, 5, dtype=torch.float64), torch.randn(3, 5, 5, dtype=torch.float64)
    torch.testing.assert_close(RIVALS[name](x, weight), reference_quadratic_form(x, weight))


def test_steps_run_in_turn_and_slow_ones_drop_out():
    calls = []
    steps = {name: (lambda name=name: (calls.append(name), time.sleep(0.003))) for name in "ab"}
    assert interleave(steps, rounds=3).keys() == {"a", "b"}
    assert calls == ["a", "b"] * 4
    calls.clear()
    interleave(steps, rounds=3, budget_s=0.0)
    assert calls == ["a", "b"] * 2


def test_a_short_step_runs_often_enough_for_the_clock():
    calls = []
    time_ms = interleave({"short": lambda: calls.append(1)}, rounds=2)["short"]
    assert len(calls) > 100
    assert time_ms < 1


def test_peak_memory_is_what_a_call_takes():
    assert 95 < peak_of_call(lambda: torch.ones(100 << 18)) < 120


@pytest.mark.parametrize("case", [(8, 4, 100), (784, 10, 600)])
def test_the_bound_has_three_multiplications(case):
    parts = bound_calls(*case)
    assert len(parts) == 3
    for calls in parts.values():
        for call in calls.values():
            call()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_record_has_every_form_and_the_bound(precision, monkeypatch):
    dtypes = set()
    monkeypatch.setattr(bench_op_module, "peak_mib", lambda module, arguments: 1.0)
    monkeypatch.setitem(RIVALS, "seen", lambda x, weight: dtypes.add((x.dtype, weight.dtype)) or published(x, weight))
    record = bench_op((8, 4, 2_000), rounds=1, precision=precision)
    assert dtypes == {(DTYPES[precision],) * 2}
    assert record["precision"] == precision
    assert {"auto", "packed", *RIVALS} <= record["time_ms"].keys()
    assert record["bound_ms"] == pytest.approx(sum(record["bound_parts_ms"].values()))


def test_growth_is_printed_recorded_and_drawn(tmp_path, capsys):
    assert main(["bench", "growth", "--quick", "--rounds", "1", "--out", str(tmp_path)]) == 0
    lines = [json.loads(line) for line in (tmp_path / "growth.jsonl").read_text().splitlines()]
    assert all(line["time_ms"].keys() == {"published", "auto"} and line["environment"]["threads"] for line in lines)
    assert (tmp_path / "growth.png").stat().st_size > 1000
    assert "ratio to published" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["op", "--rounds", "0"], "--rounds must be above 0"),
        (["speed"], "speed"),
        (["growth", "--precision", "bf16"], "--precision has no effect on bench growth"),
    ],
)
def test_bad_input_is_told(arguments, message, capsys):
    assert main(["bench", *arguments]) == 2
    assert message in capsys.readouterr().err
