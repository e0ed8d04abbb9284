"""Each backend of the quadratic form against the definition in float64, and the op around them."""

import subprocess
import sys

import pytest
import torch

from ditcnn import quadratic_form
from ditcnn.ops import custom_op, reference_quadratic_form
from ditcnn.ops import native as native_module
from ditcnn.ops.native import build, native_available

native = pytest.param(
    "native", marks=pytest.mark.skipif(not native_available(), reason="no C compiler, or not Linux: no compiled code")
)
CPU_BACKENDS = ["packed", native]
# channels, outputs, shape of the positions: one of each; odd and even; more than a tile; blocks and panels with a rest
SIZES = [
    (1, 1, (1,)),
    (2, 1, (3,)),
    (3, 5, (7,)),
    (8, 3, (2, 5, 5)),
    (17, 33, (101,)),
    (40, 16, (3, 49)),
    (35, 7, (2, 13, 5)),
    (33, 18, (1500,)),
]


def draw(channels, outputs, shape, dtype=torch.float32):
    generator = torch.Generator().manual_seed(channels)
    x = torch.randn(*shape, channels, generator=generator)
    weight = torch.randn(outputs, channels, channels, generator=generator)
    grad = torch.randn(*shape, outputs, generator=generator)
    return x.to(dtype), weight.to(dtype), grad.to(dtype)


def results(form, x, weight, grad):
    """Return the value and both gradients."""
    x, weight = x.detach().requires_grad_(), weight.detach().requires_grad_()
    y = form(x, weight)
    return (y.detach(), *torch.autograd.grad(y, (x, weight), grad.to(y.dtype)))


def truth(x, weight, grad):
    return results(reference_quadratic_form, x.double(), weight.double(), grad.double())


def error(got, exact):
    return max(((a.double() - b).norm() / b.norm()).item() for a, b in zip(got, exact, strict=True))


def with_backend(backend):
    return lambda x, weight: quadratic_form(x, weight, backend=backend)


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize("size", SIZES)
def test_float32_errs_at_most_twice_as_much_as_the_plain_formula(backend, size):
    inputs = draw(*size)
    exact = truth(*inputs)
    plain = error(results(reference_quadratic_form, *inputs), exact)
    assert error(results(with_backend(backend), *inputs), exact) <= 2 * max(plain, 1e-7)


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize("size", SIZES)
def test_bfloat16_is_as_near_to_the_truth_as_its_digits_allow(backend, size):
    inputs = draw(*size, torch.bfloat16)
    exact = truth(*inputs)
    limit = 2**-8 if backend == "native" else 2**-6  # one rounding of the result, or of products and partial sums too
    assert error(results(with_backend(backend), *inputs), exact) < limit


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize(
    "layout",
    [
        lambda x: x.movedim(1, -1).contiguous().movedim(-1, 1),  # channels in the middle of memory
        lambda x: x.transpose(1, 2).contiguous().transpose(1, 2),
        lambda x: torch.cat([x, x], -1)[..., : x.shape[-1]],
        lambda x: torch.cat([x, x])[:3],
        lambda x: x[:, :1].expand_as(x),
    ],
)
def test_strides_change_no_bit(backend, layout):
    x, weight, grad = draw(17, 18, (3, 4, 50))
    strided, strided_grad = layout(x), layout(grad)
    expected = results(with_backend(backend), strided.contiguous(), weight, strided_grad.contiguous())
    got = results(with_backend(backend), strided, weight, strided_grad)
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


def test_a_map_with_channels_first_comes_out_so():
    x = torch.randn(2, 16, 20, 20).movedim(1, -1)
    y = quadratic_form(x, torch.randn(8, 16, 16))
    assert y.movedim(-1, 1).is_contiguous()
    assert quadratic_form(x.contiguous(), torch.randn(8, 16, 16)).is_contiguous()


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_the_same_input_gives_the_same_bits_and_a_symmetric_gradient(backend):
    inputs = draw(33, 18, (1500,))
    first, second = (results(with_backend(backend), *inputs) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert torch.equal(first[2], first[2].mT)


@pytest.mark.skipif(not native_available(), reason="no compiled code here")
@pytest.mark.parametrize(("lanes", "rows"), [(4, 6), (8, 6), (16, 12)])
def test_compiled_code_is_right_for_vectors_of_any_width(lanes, rows, tmp_path, monkeypatch):
    """Other processors' vectors, which the compiler makes of this one's."""
    path = build.compile_kernel(build.find_compiler(), tmp_path / "native.so", f"-DV={lanes}", f"-DROWS={rows}")
    library = build.open_library(path)
    monkeypatch.setattr(native_module, "load_library", lambda: library)
    for size in SIZES:
        inputs = draw(*size)
        assert error(results(with_backend("native"), *inputs), truth(*inputs)) < 1e-6


@pytest.mark.skipif(not native_available(), reason="no compiled code here")
def test_native_bits_do_not_depend_on_the_number_of_threads():
    inputs = draw(33, 18, (1500,))
    threads = torch.get_num_threads()
    by_count = []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        by_count.append(results(with_backend("native"), *inputs))
    torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for other in by_count[1:] for a, b in zip(by_count[0], other, strict=True))


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_infinities_and_nans_stay_at_their_positions(backend):
    x, weight, _ = draw(17, 18, (300,))
    clean = quadratic_form(x, weight, backend=backend)
    x[7, 3], x[100, 16] = torch.inf, torch.nan
    y = quadratic_form(x, weight, backend=backend)
    assert not y[7].isfinite().any()
    assert y[100].isnan().all()
    kept = torch.ones(300, dtype=torch.bool)
    kept[[7, 100]] = False
    assert torch.equal(y[kept], clean[kept])


@pytest.mark.parametrize("backend", ["packed", native])
def test_gradients_that_are_not_asked_for_are_not_made(backend, monkeypatch):
    x, weight, grad = draw(17, 18, (300,))
    _, grad_x, grad_weight = results(with_backend(backend), x, weight, grad)
    asked = []
    name, ours = f"{backend}_backward", getattr(custom_op, f"{backend}_backward")
    monkeypatch.setattr(
        custom_op, name, lambda *a: asked.append([v is True or isinstance(v, torch.Tensor) for v in a[3:]]) or ours(*a)
    )
    (only,) = torch.autograd.grad(quadratic_form(x.requires_grad_(), weight, backend=backend), x, grad)
    assert torch.equal(only, grad_x)
    (only,) = torch.autograd.grad(quadratic_form(x.detach(), weight.requires_grad_(), backend=backend), weight, grad)
    assert torch.equal(only, grad_weight)
    assert asked == [[True, False], [False, True]]


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_second_derivatives_are_those_of_the_definition(backend):
    x, weight, grad = draw(5, 3, (4,), torch.float64 if backend == "packed" else torch.float32)

    def penalty(form, x, weight, grad):
        inputs = [t.detach().clone().requires_grad_() for t in (x, weight, grad)]
        first = torch.autograd.grad(form(*inputs[:2]), inputs[:2], inputs[2], create_graph=True)
        return torch.autograd.grad(first[0].square().sum() + first[1].pow(3).sum(), inputs)

    got = penalty(with_backend(backend), x, weight, grad)
    exact = penalty(reference_quadratic_form, x.double(), weight.double(), grad.double())
    for a, b in zip(got, exact, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-4, atol=1e-4 * b.abs().max().item())


@pytest.mark.parametrize("zero", ["x", "weight", "grad"])
def test_second_derivatives_at_zero_are_finite_and_right(zero):
    inputs = dict(zip(("x", "weight", "grad"), draw(5, 3, (4,), torch.float64), strict=True))
    inputs[zero] = torch.zeros_like(inputs[zero])

    def twice(form):
        x, weight = (inputs[key].clone().requires_grad_() for key in ("x", "weight"))
        first = torch.autograd.grad(form(x, weight), (x, weight), inputs["grad"], create_graph=True)
        return torch.autograd.grad(sum(t.square().sum() for t in first), (x, weight))

    for a, b in zip(twice(with_backend("packed")), twice(reference_quadratic_form), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_torchs_default_dtype_changes_nothing(dtype):
    inputs = draw(33, 18, (1500,))
    expected = results(quadratic_form, *inputs)
    torch.set_default_dtype(dtype)
    try:
        got = results(quadratic_form, *inputs)
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_second_derivatives_in_bfloat16_keep_their_digits(backend):
    """At positions whose sizes differ by far, where sums in bfloat16 would lose the smaller."""
    x, weight, grad = (t.bfloat16() for t in draw(16, 4, (600,)))
    x *= torch.logspace(-2, 2, 600)[:, None].bfloat16()
    u = torch.randn(600, 16).bfloat16()

    def of_grad(dtype, form):
        leaves = [t.detach().to(dtype).requires_grad_() for t in (x, weight, grad)]
        (grad_x,) = torch.autograd.grad(form(*leaves[:2]), leaves[0], leaves[2], create_graph=True)
        return torch.autograd.grad(grad_x, leaves[2], u.to(dtype))[0].double()

    expected = of_grad(torch.float64, reference_quadratic_form)
    got = of_grad(torch.bfloat16, with_backend(backend))
    assert ((got - expected).norm(dim=1) / expected.norm(dim=1)).max() < 0.02


def test_a_backward_pass_inside_autocast_gives_the_same_bits():
    x, weight, grad = draw(17, 18, (600,))
    packed = with_backend("packed")
    leaves = [t.clone().requires_grad_() for t in (x, weight)]
    expected = torch.autograd.grad(packed(*leaves), leaves, grad)
    y = packed(*leaves)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = torch.autograd.grad(y, leaves, grad)
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


def test_gradgradcheck_in_float64():
    x, weight = torch.randn(3, 2, dtype=torch.float64), torch.randn(2, 2, 2, dtype=torch.float64)
    form = with_backend("packed")
    assert torch.autograd.gradgradcheck(form, (x.requires_grad_(), weight.requires_grad_()), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_vmap_over_vectors_and_over_matrices(backend):
    x, weight, _ = draw(5, 3, (4, 6))
    form = with_backend(backend)
    torch.testing.assert_close(torch.vmap(form, (0, None))(x, weight), form(x, weight))
    stacked = torch.stack([weight, 2 * weight])
    torch.testing.assert_close(torch.vmap(form, (None, 0))(x, stacked)[1], 2 * form(x, weight))


def test_vmap_over_many_vectors_is_one_call(monkeypatch):
    calls = []
    forward = custom_op.packed_forward
    monkeypatch.setattr(custom_op, "packed_forward", lambda *inputs: calls.append(1) or forward(*inputs))
    x, weight, _ = draw(5, 3, (400,), torch.float64)
    torch.testing.assert_close(
        torch.vmap(quadratic_form, (0, None))(x, weight), quadratic_form(x, weight, backend="reference")
    )
    assert len(calls) == 1


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize("layout", [lambda x: x, lambda x: x.transpose(1, 2).contiguous().transpose(1, 2)])
def test_custom_op_keeps_torchs_rules(backend, layout):
    x, weight, grad = draw(17, 3, (2, 9))
    x = layout(x).requires_grad_()
    torch.library.opcheck(torch.ops.ditcnn.quadratic_form, (x, weight.requires_grad_(), backend))
    backward = torch.ops.ditcnn.quadratic_form_backward
    torch.library.opcheck(backward, (grad, x, weight, backend, True, True), test_utils=("test_schema", "test_faketensor"))


def test_compiled_training_is_eager_training():
    x, weight, grad = draw(17, 18, (2, 15, 10))
    eager = results(quadratic_form, x, weight, grad)
    compiled = results(torch.compile(quadratic_form, fullgraph=True), x, weight, grad)
    for a, b in zip(compiled, eager, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_large_float16_stays_finite():
    x = torch.full((300, 4), 1000.0, dtype=torch.float16, requires_grad=True)
    weight = torch.ones(2, 4, 4, requires_grad=True)
    assert quadratic_form(x, weight.half()).eq(torch.finfo(torch.float16).max).all()
    with torch.autocast("cpu", torch.float16):
        y = quadratic_form(x, weight)
    y.sum().backward()
    assert y.eq(16e6).all()
    assert x.grad.isfinite().all()
    assert weight.grad.eq(300 * 1e6).all()


def test_a_backend_asked_for_by_name_never_gives_way():
    x, weight, _ = draw(5, 3, (4,))
    with pytest.raises(ValueError, match="backend must be one of auto, reference, packed, native, fused; got 'fast'"):
        quadratic_form(x, weight, backend="fast")
    with pytest.raises(ValueError, match="backend='native' is for float32 and bfloat16 on a CPU"):
        quadratic_form(x.double(), weight.double(), backend="native")
    if not torch.cuda.is_available():
        with pytest.raises(RuntimeError, match=r"(?i)triton|cuda"):
            quadratic_form(x, weight, backend="fused")


def test_without_a_compiler_auto_takes_the_packed_form_and_says_so():
    code = """
import torch, ditcnn
x, a = torch.randn(5000, 9), torch.randn(3, 9, 9)
y = ditcnn.quadratic_form(x, a)
torch.testing.assert_close(y, ditcnn.quadratic_form(x, a, backend="packed"), rtol=0, atol=0)
try:
    ditcnn.quadratic_form(x, a, backend="native")
except RuntimeError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": "/nonexistent", "HOME": "/nonexistent"},
    )
    assert "no C compiler found" in done.stderr
    assert "needs a C compiler" in done.stdout


@pytest.mark.skipif(not native_available(), reason="no compiled code here")
def test_a_compiler_that_fails_is_told_with_its_message(tmp_path):
    broken = tmp_path / "cc"
    lines = ["#!/bin/sh", '[ "$1" = --version ] && echo 1 && exit 0', 'for last; do :; done; rm "$last"']  # a linker does so
    broken.write_text("\n".join([*lines, "echo strange >&2", "exit 1"]))
    broken.chmod(0o755)
    code = "import torch, ditcnn; ditcnn.quadratic_form(torch.randn(5000, 9), torch.randn(3, 9, 9))"
    environment = {"CC": str(broken), "PATH": "/usr/bin:/bin", "DITCNN_CACHE": str(tmp_path / "cache")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert "could not be compiled" in done.stderr
    assert "strange" in done.stderr
    assert not list((tmp_path / "cache").glob("*.so"))
