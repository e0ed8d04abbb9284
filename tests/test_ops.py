"""Laws of the quadratic form."""

import pytest
import torch
import torch.nn.functional as F

from ditcnn import quadratic_form
from ditcnn.ops import reference_quadratic_form

# One channel, odd sizes, one block of channels exactly, several with a rest; no position, one, more than a tile.
SIZES = [(1, 1, 1), (1, 3, 7), (5, 2, 33), (16, 16, 40), (17, 1, 9), (35, 6, 2500), (32, 4, 0)]


def draw(channels, outputs, positions, dtype=torch.float64):
    generator = torch.Generator().manual_seed(channels + outputs + positions)
    x = torch.randn(positions, channels, generator=generator, dtype=torch.float64)
    weight = torch.randn(outputs, channels, channels, generator=generator, dtype=torch.float64)
    return x.to(dtype), weight.to(dtype)


def by_hand(x, weight):
    return torch.einsum("...i,oij,...j->...o", x, weight, x)


def test_two_channels_worked_by_hand():
    # [1 2] [[1 2] [3 4]] [1 2]' = 1*1 + 2*1*2 + 3*2*1 + 4*2*2
    result = quadratic_form(torch.tensor([1.0, 2.0]), torch.tensor([[[1.0, 2.0], [3.0, 4.0]]]))
    assert result.tolist() == [27.0]


@pytest.mark.parametrize("form", [quadratic_form, reference_quadratic_form])
@pytest.mark.parametrize("size", SIZES)
def test_form_is_the_double_sum(form, size):
    x, weight = draw(*size)
    torch.testing.assert_close(form(x, weight), by_hand(x, weight))


@pytest.mark.parametrize("size", SIZES)
def test_gradients_are_those_of_the_double_sum(size):
    x, weight = (t.requires_grad_() for t in draw(*size))
    grad = torch.randn(size[2], size[1], dtype=torch.float64)
    grad_x, grad_weight = torch.autograd.grad(quadratic_form(x, weight), (x, weight), grad)
    expected_x, expected_weight = torch.autograd.grad(by_hand(x, weight), (x, weight), grad)
    torch.testing.assert_close(grad_x, expected_x)
    torch.testing.assert_close(grad_weight, expected_weight)


def test_gradcheck_in_float64():
    x, weight = draw(5, 3, 4)
    assert torch.autograd.gradcheck(quadratic_form, (x.requires_grad_(), weight.requires_grad_()))


def test_agrees_with_bilinear():
    x, weight = draw(6, 4, 10)
    torch.testing.assert_close(quadratic_form(x, weight), F.bilinear(x, x, weight))


def test_form_is_even_and_of_second_degree():
    x, weight = draw(9, 4, 20)
    torch.testing.assert_close(quadratic_form(-x, weight), quadratic_form(x, weight))
    torch.testing.assert_close(quadratic_form(3 * x, weight), 9 * quadratic_form(x, weight))


def test_form_is_linear_in_the_weight_and_sees_its_symmetric_part_only():
    x, weight = draw(9, 4, 20)
    other = torch.randn_like(weight)
    both = quadratic_form(x, weight) + 2 * quadratic_form(x, other)
    torch.testing.assert_close(quadratic_form(x, weight + 2 * other), both)
    torch.testing.assert_close(quadratic_form(x, weight.mT), quadratic_form(x, weight))
    torch.testing.assert_close(quadratic_form(x, weight - weight.mT), torch.zeros(20, 4, dtype=torch.float64))


def test_weight_gradient_is_symmetric_to_the_bit():
    x, weight = draw(35, 3, 500, torch.float32)
    quadratic_form(x, weight.requires_grad_()).square().sum().backward()
    assert torch.equal(weight.grad, weight.grad.mT)


def test_leading_dimensions_are_positions():
    x, weight = draw(5, 3, 24)
    shaped = quadratic_form(x.view(2, 3, 4, 5), weight)
    assert torch.equal(shaped, quadratic_form(x, weight).view(2, 3, 4, 3))
    assert quadratic_form(x[0], weight).shape == (3,)


@pytest.mark.parametrize("view", [lambda x: x[::2, ::2], lambda x: x.mT[:3].mT, lambda x: x[:1, :3].expand(7, 3)])
def test_strided_input_and_its_gradient(view):
    x, weight = (t.requires_grad_() for t in draw(6, 3, 20))
    strided, part = view(x), weight[:, :3, 1:4]
    assert not strided.is_contiguous()
    result, expected = quadratic_form(strided, part), by_hand(strided, part)
    torch.testing.assert_close(result, expected)
    grad = torch.randn_like(result)
    for a, b in zip(
        torch.autograd.grad(result, (x, weight), grad), torch.autograd.grad(expected, (x, weight), grad), strict=True
    ):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_low_precision_is_near_the_truth(dtype, tolerance):
    x, weight = draw(32, 8, 500, dtype)
    truth = by_hand(x.double(), weight.double())
    error = (quadratic_form(x, weight).double() - truth).abs().max() / truth.abs().max()
    assert error < tolerance


def test_bfloat16_gradients_are_near_the_truth():
    x, weight = (t.requires_grad_() for t in draw(32, 8, 500, torch.bfloat16))
    grad = torch.randn(500, 8).bfloat16()
    got = torch.autograd.grad(quadratic_form(x, weight), (x, weight), grad)
    exact = [t.detach().double().requires_grad_() for t in (x, weight)]
    truth = torch.autograd.grad(by_hand(*exact), exact, grad.double())
    for a, b in zip(got, truth, strict=True):
        assert (a.double() - b).abs().max() < 2e-2 * b.abs().max()


def test_autocast_runs_bfloat16_and_keeps_float16_finite():
    x, weight = draw(32, 8, 50, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        assert quadratic_form(x, weight).dtype == torch.bfloat16
    with torch.autocast("cpu", torch.float16):
        large = quadratic_form((1000 * x).half(), weight)
    assert large.dtype == torch.float32
    torch.testing.assert_close(large, by_hand((1000 * x).half().float(), weight), rtol=1e-4, atol=1e3)


def test_float16_outside_autocast_does_not_overflow_in_the_products():
    x = torch.full((1, 1), 300.0, dtype=torch.float16)
    assert quadratic_form(x, torch.full((1, 1, 1), 1e-3, dtype=torch.float16)).item() == pytest.approx(90, rel=1e-2)


def test_memory_does_not_grow_with_the_products():
    # 65,536 positions of 64 channels: 1 GiB of products in float32, 16 MiB of input.
    from torch.profiler import ProfilerActivity, profile

    x = torch.randn(65536, 64)
    weight = torch.randn(4, 64, 64)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        quadratic_form(x, weight)
    largest = max(event.self_cpu_memory_usage for event in profiled.events())
    assert largest < 32 << 20


def test_custom_op_keeps_torchs_rules():
    x, weight = draw(17, 3, 9, torch.float32)
    torch.library.opcheck(torch.ops.ditcnn.quadratic_form, (x.requires_grad_()[None], weight.requires_grad_(), "auto"))


def test_compiles_as_one_graph_with_the_op_in_it_and_trains():
    x, weight = draw(8, 3, 20, torch.float32)
    weight.requires_grad_()
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph.print_readable(print_output=False))
        return graph

    torch.compile(quadratic_form, fullgraph=True, backend=backend)(x, weight)
    assert "ditcnn.quadratic_form" in graphs[0]
    compiled = torch.compile(quadratic_form, fullgraph=True, backend="aot_eager")
    compiled(x, weight).sum().backward()
    (expected,) = torch.autograd.grad(quadratic_form(x, weight).sum(), weight)
    torch.testing.assert_close(weight.grad, expected)


def test_numbers_that_are_not_real_or_elsewhere_are_told():
    x, weight = torch.randn(5000, 32), torch.randn(4, 32, 32)  # more than the plain form takes
    with pytest.raises(ValueError, match="on one device; got cpu and meta"):
        quadratic_form(x, weight.to("meta"))
    for other in (torch.complex64, torch.int64):
        with pytest.raises(ValueError, match="floating point, and real"):
            quadratic_form(x.to(other), weight.to(other))


def test_wrong_shapes_are_told_with_both_sides():
    with pytest.raises(ValueError, match=r"\[O, 32, 32\].*32 channels; got \[64, 32, 16\]"):
        quadratic_form(torch.zeros(4, 32), torch.zeros(64, 32, 16))
    with pytest.raises(ValueError, match="scalar"):
        quadratic_form(torch.tensor(1.0), torch.zeros(1, 1, 1))
    with pytest.raises(ValueError, match="one dtype"):
        quadratic_form(torch.zeros(4, 2).double(), torch.zeros(1, 2, 2))
