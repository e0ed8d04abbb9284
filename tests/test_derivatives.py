"""Derivatives of every mode against ``F.bilinear``'s in float64, where the op alone would be wrong without a word."""

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import func
from torch.autograd import forward_ad

from ditcnn import quadratic_form
from ditcnn.ops import custom_op
from ditcnn.ops.native import native_available

pytestmark = pytest.mark.filterwarnings("ignore:There is a performance drop")  # of F.bilinear, under vmap
POSITIONS, CHANNELS, OUTPUTS = 600, 16, 4  # more than the plain form would take by itself
DTYPES = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 2e-3}
NAMED = ["packed", pytest.param("native", marks=pytest.mark.skipif(not native_available(), reason="no compiled code"))]


def bilinear(x, weight):
    return F.bilinear(x, x, weight)


def draw(dtype=torch.float64):
    """Return x and A, and a direction for each; numbers that every dtype has."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(POSITIONS, CHANNELS), (OUTPUTS, CHANNELS, CHANNELS)] * 2
    return [torch.randn(shape, generator=generator).bfloat16().to(dtype) for shape in shapes]


def forward_mode(form, x, weight, v, u):
    with forward_ad.dual_level():
        return forward_ad.unpack_dual(form(forward_ad.make_dual(x, v), forward_ad.make_dual(weight, u))).tangent


def gradients_of_a_graph_from_outside(form, x, weight, v, u):
    """Differentiate forwards a backward pass whose graph was recorded outside the level."""
    leaves = [x.clone().requires_grad_(), weight.clone().requires_grad_()]
    y = form(*leaves)
    with forward_ad.dual_level():
        grad = forward_ad.make_dual(y.detach(), 2 * y.detach())
        gradients = torch.autograd.grad(y, leaves, grad)
        return torch.cat([forward_ad.unpack_dual(g).tangent.flatten() for g in gradients])


def many_gradients(form, x, weight, v, u):
    leaves = [x.clone().requires_grad_(), weight.clone().requires_grad_()]
    y = form(*leaves)
    gradients = torch.autograd.grad(y, leaves, torch.stack([y, 1 - y, 2 * y]).detach(), is_grads_batched=True)
    return torch.cat([g.flatten() for g in gradients])


def many_second_derivatives(form, x, weight, v, u):
    leaves = [x.clone().requires_grad_(), weight.clone().requires_grad_()]
    y = form(*leaves)
    first = torch.autograd.grad(y, leaves, torch.stack([y, 1 - y]).detach(), is_grads_batched=True, create_graph=True)
    second = torch.autograd.grad(sum(g.square().mean() for g in first), leaves)
    return torch.cat([g.flatten() for g in second])


MODES = {
    "jvp": lambda form, x, weight, v, u: func.jvp(form, (x, weight), (v, u))[1],
    "jvp of x": lambda form, x, weight, v, u: func.jvp(lambda x: form(x, weight), (x,), (v,))[1],
    "linearize": lambda form, x, weight, v, u: func.linearize(form, x, weight)[1](v, u),
    "forward mode": forward_mode,
    "forward mode through a graph from outside": gradients_of_a_graph_from_outside,
    "is_grads_batched": many_gradients,
    "is_grads_batched, twice": many_second_derivatives,
    "vjp": lambda form, x, weight, v, u: func.vjp(lambda x: form(x, weight), x)[1](form(v, weight))[0],
    "grad": lambda form, x, weight, v, u: func.grad(lambda w: form(x, w).square().mean())(weight),
    "per-sample gradients": lambda form, x, weight, v, u: func.vmap(
        func.grad(lambda w, x: form(x, w).square().mean()), (None, 0)
    )(weight, x[:64].view(4, 16, CHANNELS)),
    "vmap of jvp": lambda form, x, weight, v, u: func.vmap(lambda v: func.jvp(lambda x: form(x, weight), (x,), (v,))[1])(
        torch.stack([v, 2 * v, x])
    ),
    "jvp of vmap": lambda form, x, weight, v, u: func.jvp(func.vmap(lambda x: form(x, weight)), (x,), (v,))[1],
    "jvp of grad": lambda form, x, weight, v, u: func.jvp(func.grad(lambda x: form(x, weight).pow(2).mean()), (x,), (v,))[1],
    "grad of jvp": lambda form, x, weight, v, u: func.grad(
        lambda w: func.jvp(lambda x: form(x, w), (x,), (v,))[1].square().mean()
    )(weight),
    "jacfwd": lambda form, x, weight, v, u: func.jacfwd(lambda x: form(x, weight))(x[:3]),
    "jacrev": lambda form, x, weight, v, u: func.jacrev(lambda x: form(x, weight))(x[:3]),
    "hessian": lambda form, x, weight, v, u: func.hessian(lambda x: form(x, weight).pow(2).sum())(x[:3]),
    "jacobian(vectorize)": lambda form, x, weight, v, u: torch.autograd.functional.jacobian(
        lambda x: form(x.repeat(200, 1), weight)[:3], x[:3], vectorize=True
    ),
    "functional.jvp": lambda form, x, weight, v, u: torch.autograd.functional.jvp(form, (x, weight), (v, u))[1],
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_derivatives_of_each_mode_are_those_of_the_bilinear_form(mode, dtype):
    got, exact = MODES[mode](quadratic_form, *draw(dtype)), MODES[mode](bilinear, *draw())
    assert exact.norm() > 0
    assert (got.double() - exact).norm() < DTYPES[dtype] * exact.norm()


@pytest.mark.parametrize("backend", [*NAMED, "reference"])
@pytest.mark.parametrize("mode", MODES)
def test_a_backend_by_name_is_right_or_refuses(mode, backend):
    dtype = torch.float32 if backend == "native" else torch.float64
    exact = MODES[mode](bilinear, *draw())
    try:
        got = MODES[mode](lambda x, weight: quadratic_form(x, weight, backend=backend), *draw(dtype))
    except RuntimeError as error:
        if backend == "reference" or f"backend='{backend}' has no rule" not in str(error):
            raise
    else:
        assert (got.double() - exact).norm() < 1e-5 * exact.norm()


@pytest.mark.parametrize("backend", NAMED)
def test_vmap_alone_needs_no_plain_form_over_gradients_either(backend):
    dtype = torch.float32 if backend == "native" else torch.float64
    x, weight, _, _ = draw(dtype)
    grads = torch.randn(3, 1, POSITIONS, OUTPUTS, dtype=dtype)
    got = torch.vmap(lambda g: custom_op._form_backward(g, x[None], weight, backend, True, True))(grads)
    leaves = [x.clone().requires_grad_(), weight.clone().requires_grad_()]
    exact = torch.autograd.grad(bilinear(*leaves), leaves, grads[:, 0], is_grads_batched=True)
    for a, b in zip(got, exact, strict=True):
        torch.testing.assert_close(a.view(b.shape), b, rtol=1e-4, atol=1e-3)


def test_gradcheck_of_all_modes():
    x, weight = (t.requires_grad_() for t in (torch.randn(3, 4).double(), torch.randn(2, 4, 4).double()))
    checks = dict(check_forward_ad=True, check_batched_grad=True, check_batched_forward_grad=True)
    assert torch.autograd.gradcheck(quadratic_form, (x, weight), **checks)
    assert torch.autograd.gradgradcheck(quadratic_form, (x, weight), check_fwd_over_rev=True, check_rev_over_rev=True)


@pytest.mark.parametrize("mode", ["jvp", "grad", "vmap of jvp", "forward mode"])
def test_compiled_derivatives_are_right(mode):
    x, weight, v, u = draw(torch.float32)
    compiled = torch.compile(lambda x, weight, v, u: MODES[mode](quadratic_form, x, weight, v, u), backend="aot_eager")
    torch.testing.assert_close(compiled(x, weight, v, u), MODES[mode](bilinear, x, weight, v, u), rtol=1e-4, atol=1e-3)


def test_a_compiled_form_is_right_inside_a_transform_and_after_it():
    x, weight, v, u = draw(torch.float32)
    compiled = torch.compile(quadratic_form, backend="aot_eager")
    for form in (compiled, compiled):  # the second time from dynamo's cache
        torch.testing.assert_close(form(x, weight), bilinear(x, weight), rtol=1e-4, atol=1e-3)
        for mode in ("jvp", "forward mode"):
            torch.testing.assert_close(
                MODES[mode](form, x, weight, v, u), MODES[mode](bilinear, x, weight, v, u), rtol=1e-4, atol=1e-3
            )


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    model = timm.create_model("dit_resnet20").double().eval()
    torch.nn.init.normal_(model.layer2[0].quadratic.weight, std=0.05)
    return model, torch.randn(2, 3, 32, 32).double(), torch.randn(2, 3, 32, 32).double()


def test_a_whole_networks_tangent_is_its_finite_difference(network):
    model, x, v = network
    step = 1e-7  # a longer one would pass corners of ReLUs
    with torch.no_grad():
        difference = (model(x + step * v) - model(x - step * v)) / (2 * step)
    tangent = func.jvp(model, (x,), (v,))[1]
    assert (tangent - difference).norm() < 1e-5 * difference.norm()


def test_a_whole_networks_per_sample_gradients_are_those_of_a_loop(network):
    model, x, _ = network
    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def loss(parameters, image):
        return func.functional_call(model, parameters, (image[None],)).square().sum()

    together = func.vmap(func.grad(loss), (None, 0))(parameters, x)["layer2.0.quadratic.weight"]
    for image, gradient in zip(x, together, strict=True):
        (alone,) = torch.autograd.grad(model(image[None]).square().sum(), model.layer2[0].quadratic.weight)
        torch.testing.assert_close(gradient, alone)
