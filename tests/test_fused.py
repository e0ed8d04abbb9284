"""Laws of the fused form: in Triton's interpreter on a CPU, or on the GPU where there is one."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import ditcnn.ops
from ditcnn.ops.fused import fused_backward, fused_forward

if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed", allow_module_level=True)

BENCHMARK = Path(__file__).parent.parent / "benchmarks" / "fused_compile.py"
PTXAS = Path(importlib.util.find_spec("triton").origin).parent / "backends" / "nvidia" / "bin" / "ptxas"
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# One of everything; less than a block of channels and outputs; more than one; whole blocks; no position, no output.
SIZES = [(1, 1, 1), (33, 5, 3), (40, 17, 9), (70, 32, 16), (65, 3, 33), (0, 4, 3), (5, 4, 0)]
# Relative to the largest value. float32 is exact but for rounding; a GPU cuts products of float16 to TF32 and rounds those
# of bfloat16 to its 8 bits; the interpreter cuts the result off where a GPU rounds.
TOLERANCE = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 2e-2}


@pytest.fixture(autouse=True, scope="module")
def interpreter():
    """Make the kernels for the interpreter if there is no GPU, and take them away so that no other test meets them."""
    with pytest.MonkeyPatch.context() as patch:
        if DEVICE == "cpu":
            patch.setenv("TRITON_INTERPRET", "1")
            forget_kernels()
        yield
        if DEVICE == "cpu":
            forget_kernels()


def forget_kernels():
    sys.modules.pop("ditcnn.ops.fused_kernels", None)
    vars(ditcnn.ops).pop("fused_kernels", None)


def draw(positions, channels, outputs, dtype=torch.float32):
    generator = torch.Generator().manual_seed(positions + channels + outputs)
    shapes = (positions, channels), (outputs, channels, channels), (positions, outputs)
    return [torch.randn(shape, generator=generator).to(DEVICE, dtype) for shape in shapes]


def by_hand(x, weight, grad):
    """Return the double sum and its gradients in float64."""
    x, weight = (t.detach().double().requires_grad_() for t in (x, weight))
    y = torch.einsum("ti,oij,tj->to", x, weight, x)
    return y.detach(), *torch.autograd.grad(y, (x, weight), grad.double())


def assert_near(got, truth, tolerance):
    assert got.shape == truth.shape
    assert got.isfinite().all()
    if truth.numel():
        assert (got.double() - truth).abs().max() <= tolerance * truth.abs().max()


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("size", SIZES)
def test_form_and_gradients_are_those_of_the_double_sum(size, dtype):
    x, weight, grad = draw(*size, dtype)
    got = fused_forward(x, weight), *fused_backward(grad, x, weight)
    for result, truth in zip(got, by_hand(x, weight, grad), strict=True):
        assert result.dtype == dtype
        assert_near(result, truth, TOLERANCE[dtype])


@pytest.mark.parametrize("precision", ["tf32x3", "tf32"])
def test_lower_precision_of_float32_is_near_the_truth(precision):
    x, weight, grad = draw(40, 17, 9)
    got = fused_forward(x, weight, input_precision=precision), *fused_backward(grad, x, weight, input_precision=precision)
    for result, truth in zip(got, by_hand(x, weight, grad), strict=True):
        assert_near(result, truth, {"tf32x3": 1e-5, "tf32": 2e-3}[precision])


def test_float16_of_a_thousand_does_not_overflow_in_the_products():
    x, weight, grad = draw(33, 5, 3, torch.float16)
    x, weight, grad = 1000 * x.sign(), 1e-3 * weight, 1e-3 * grad
    got = fused_forward(x, weight), *fused_backward(grad, x, weight)
    for result, truth in zip(got, by_hand(x, weight, grad), strict=True):
        assert_near(result, truth, 2e-3)


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_weight_gradient_is_symmetric_to_the_bit(dtype):
    x, weight, grad = draw(70, 35, 5, dtype)
    _, grad_weight = fused_backward(grad, x, weight)
    assert torch.equal(grad_weight, grad_weight.mT)


def test_the_same_input_gives_the_same_bits():
    x, weight, grad = draw(100, 17, 3)
    first, second = ((fused_forward(x, weight), *fused_backward(grad, x, weight)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("programs", [5, 25])  # one split; five, of which the last has no positions
def test_weight_gradient_is_the_same_sum_over_any_number_of_splits(programs, monkeypatch):
    monkeypatch.setattr("ditcnn.ops.fused.PROGRAMS", programs)
    x, weight, grad = draw(200, 17, 2)
    assert_near(fused_backward(grad, x, weight)[1], by_hand(x, weight, grad)[2], TOLERANCE[torch.float32])


def test_nothing_depends_on_memory_that_was_not_written():
    x, weight, grad = draw(70, 33, 3)
    torch.use_deterministic_algorithms(True, warn_only=True)  # fills empty memory with NaN
    try:
        assert torch.empty(1).isnan()
        got = fused_forward(x, weight), *fused_backward(grad, x, weight)
    finally:
        torch.use_deterministic_algorithms(False)
    for result, truth in zip(got, by_hand(x, weight, grad), strict=True):
        assert_near(result, truth, TOLERANCE[torch.float32])


def test_form_sees_the_symmetric_part_only_to_the_bit():
    x, weight, grad = draw(33, 5, 3)
    assert torch.equal(fused_forward(x, weight), fused_forward(x, weight.mT))
    assert torch.equal(fused_backward(grad, x, weight)[0], fused_backward(grad, x, weight.mT)[0])


def test_a_position_does_not_depend_on_its_neighbours():
    x, weight, grad = draw(70, 17, 3)
    torch.testing.assert_close(fused_forward(x[66:], weight), fused_forward(x, weight)[66:])
    whole, part = (fused_backward(grad[s:], x[s:], weight)[0] for s in (0, 66))
    torch.testing.assert_close(part, whole[66:])


def test_strided_input_gives_what_its_copy_gives():
    x, weight, _ = draw(40, 12, 6)
    x, weight, grad = x[::2, ::2], weight[:, ::2, ::2], torch.ones((), device=DEVICE).expand(20, 6)
    got = fused_forward(x, weight), *fused_backward(grad, x, weight)
    x, weight, grad = x.contiguous(), weight.contiguous(), grad.contiguous()
    expected = fused_forward(x, weight), *fused_backward(grad, x, weight)
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


def test_float64_is_refused_with_the_way_out():
    x, weight, grad = draw(4, 3, 2, torch.float64)
    with pytest.raises(ValueError, match=r"float32, bfloat16 and float16; got torch\.float64.*packed form"):
        fused_forward(x, weight)
    with pytest.raises(ValueError, match=r"got torch\.float64"):
        fused_backward(grad, x, weight)


def test_unknown_precision_is_refused_with_the_choices():
    x, weight, _ = draw(4, 3, 2)
    with pytest.raises(ValueError, match="ieee, tf32x3, tf32; got 'exact'"):
        fused_forward(x, weight, input_precision="exact")


def run_python(*words, monkeypatch):
    """Run Python in a process of its own, where kernels are made for a GPU."""
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    done = subprocess.run([sys.executable, *map(str, words)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_tensors_on_a_cpu_and_a_missing_triton_are_refused_and_the_package_needs_neither(monkeypatch):
    code = """
import sys, torch, ditcnn, ditcnn.ops.fused
assert "ditcnn.ops.fused_kernels" not in sys.modules
def refusal():
    try:
        ditcnn.ops.fused.fused_forward(torch.ones(4, 3), torch.ones(2, 3, 3))
    except RuntimeError as error:
        return str(error)
message = refusal()
assert "CUDA device; got cpu" in message and "packed form" in message, message
del sys.modules["ditcnn.ops.fused_kernels"], ditcnn.ops.fused_kernels
sys.modules["triton"] = None
message = refusal()
assert "needs Triton" in message and "packed form" in message, message
"""
    run_python("-c", code, monkeypatch=monkeypatch)


@pytest.mark.skipif(not (PTXAS.exists() and BENCHMARK.exists()), reason="Triton brings no ptxas here, or no benchmarks")
def test_kernels_compile_for_a_gpu_that_is_not_there_and_use_its_matrix_units(monkeypatch, tmp_path):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))
    record = tmp_path / "record.jsonl"
    run_python(BENCHMARK, "--sizes", 32, "--archs", 80, "--dtypes", "bf16", "--output", record, monkeypatch=monkeypatch)
    kernels = [json.loads(line) for line in record.read_text().splitlines()]
    assert [k["kernel"] for k in kernels] == ["form", "grad_x", "grad_weight"]
    assert all(k["matrix_instructions"] > 0 and k["spilled_bytes"] == 0 for k in kernels)
