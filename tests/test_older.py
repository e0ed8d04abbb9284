"""Older quadratic layers and networks, the pixel-wise term, and plain networks of equal cost."""

import copy
import itertools
import pickle

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

import ditcnn
from ditcnn.cost import cost_of
from ditcnn.layers import PixelwiseForm2d, QResConv2d, QuadraLibConv2d, ReLinearConv2d, beside_pixelwise
from ditcnn.models import widths_of_equal_cost
from ditcnn.models.cifar_resnet import BasicBlock

WIDTHS = {"parameters": (17, 34, 68), "macs": (18, 35, 70)}  # of the registered comparison
FAMILIES = {"fan": ReLinearConv2d, "quadralib": QuadraLibConv2d, "qres": QResConv2d}


def count(model):
    return sum(p.numel() for p in model.parameters())


def shaken(module):
    """Return the module in float64 with random numbers in every tensor, in eval mode."""
    torch.manual_seed(0)
    module.double().eval()
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.is_floating_point():
            tensor.data = torch.rand_like(tensor) - 0.3
    for norm in (m for m in module.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.running_var += 1
    return module


def maps(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def neuron(x, weight, bias, o, row, column, stride=1):
    """One linear sum of a 3x3 convolution with padding 1, number by number."""
    weight = weight.detach()
    total = 0.0 if bias is None else bias[o].item()
    for c, i, j in itertools.product(range(x.shape[0]), range(3), range(3)):
        h, w = row * stride + i - 1, column * stride + j - 1
        if 0 <= h < x.shape[1] and 0 <= w < x.shape[2]:
            total += float(weight[o, c, i, j] * x[c, h, w])
    return total


def test_relinear_is_its_formula_number_by_number():
    conv, x = shaken(ReLinearConv2d(2, 3, 3, 2, 1)), maps(1, 2, 5, 4)
    y = conv(x).detach()
    assert y.shape == (1, 3, 3, 2)
    for o, row, column in itertools.product(range(3), range(3), range(2)):
        r, g = (neuron(x[0], part.weight, part.bias, o, row, column, 2) for part in (conv.r, conv.g))
        b = neuron(x[0] ** 2, conv.b.weight, conv.b.bias, o, row, column, 2)
        assert float(y[0, o, row, column]) == pytest.approx(r * g + b)


def test_qres_is_its_formula_number_by_number():
    conv, x = shaken(QResConv2d(2, 3, 3, 1, 1)), maps(1, 2, 3, 4)
    y = conv(x).detach()
    for o, row, column in itertools.product(range(3), range(3), range(4)):
        first, second = (neuron(x[0], part.weight, None, o, row, column) for part in (conv.w1, conv.w2))
        assert float(y[0, o, row, column]) == pytest.approx(first * second + first)


def test_quadralib_is_its_formula_with_the_batchs_own_statistics():
    conv, x = shaken(QuadraLibConv2d(2, 3, 3, 1, 1)).train(), maps(4, 2, 3, 5)

    def part(sequence):
        y = F.conv2d(x, sequence[0].weight, padding=1)
        mean, var = y.mean((0, 2, 3), keepdim=True), y.var((0, 2, 3), correction=0, keepdim=True)
        scale, shift = (v[None, :, None, None] for v in (sequence[1].weight, sequence[1].bias))
        return (y - mean) / (var + 1e-5).sqrt() * scale + shift

    torch.testing.assert_close(conv(x), part(conv.a) * part(conv.b) + part(conv.c))


def test_quadratic_parts_grow_with_the_square_of_the_input():
    x = maps(2, 2, 5, 5)
    qres = shaken(QResConv2d(2, 3, 3, 1, 1))
    torch.testing.assert_close(qres(3 * x) - qres.w1(3 * x), 9 * (qres(x) - qres.w1(x)))
    fan = shaken(ReLinearConv2d(2, 3, 3, 1, 1))
    for part in (fan.r, fan.g, fan.b):
        nn.init.zeros_(part.bias)
    torch.testing.assert_close(fan(-3 * x), 9 * fan(x))
    quadralib = shaken(QuadraLibConv2d(2, 3, 3, 1, 1)).train()  # its norms take the scale away, all but epsilon
    torch.testing.assert_close(quadralib(50 * x), quadralib(20 * x), rtol=1e-4, atol=1e-4)


def test_a_fan_network_starts_as_the_linear_network():
    fan = timm.create_model("fan_resnet20").eval()
    plain = copy.deepcopy(fan)
    for block in (m for m in plain.modules() if isinstance(m, BasicBlock)):
        block.conv1, block.conv2 = block.conv1.r, block.conv2.r
    assert not any(isinstance(m, ReLinearConv2d) for m in plain.modules())
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(fan(x), plain(x))
    nn.init.constant_(fan.layer2[0].conv1.g.weight, 0.01)
    assert not torch.equal(fan(x), plain(x))


def test_fans_g_and_b_train_at_a_ten_thousandth_of_the_rate_whatever_their_names():
    groups = ditcnn.parameter_groups(timm.create_model("fan_resnet20"), lr=0.1, term_lr_scale=10)
    assert [g["lr"] for g in groups] == pytest.approx([0.1, 1e-5])
    slow = sum(p.numel() for p in groups[1]["params"])
    convs = [conv for conv in timm.create_model("fan_resnet20").modules() if isinstance(conv, ReLinearConv2d)]
    assert len(convs) == 18
    assert slow == sum(count(conv.g) + count(conv.b) for conv in convs)
    for name in ("quadralib_resnet20", "qres_resnet20"):
        assert len(ditcnn.parameter_groups(timm.create_model(name), lr=0.1)) == 1


@pytest.mark.parametrize("depth", [20, 32, 56, 110])
def test_parameters_of_the_older_networks_by_hand(depth):
    blocks = (depth - 2) // 6
    convs = [(16, 16)] * 2 * blocks
    convs += [(16, 32)] + [(32, 32)] * (2 * blocks - 1) + [(32, 64)] + [(64, 64)] * (2 * blocks - 1)
    weights, channels = sum(9 * i * o for i, o in convs), sum(o for _, o in convs)
    plain = count(timm.create_model(f"resnet{depth}"))
    assert count(timm.create_model(f"fan_resnet{depth}")) == plain + 2 * weights + 3 * channels
    assert count(timm.create_model(f"quadralib_resnet{depth}")) == plain + 2 * weights + 6 * channels
    assert count(timm.create_model(f"qres_resnet{depth}")) == plain + weights


@pytest.mark.parametrize("family", FAMILIES)
def test_older_networks_are_models_as_any_other_of_timms(family):
    model = timm.create_model(f"{family}_resnet32", num_classes=7)
    assert sum(isinstance(m, FAMILIES[family]) for m in model.modules()) == 30
    logits = model(torch.randn(2, 3, 32, 32))
    assert logits.shape == (2, 7)
    logits.sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    features = timm.create_model(f"{family}_resnet20", features_only=True)(torch.randn(2, 3, 32, 32))
    assert [tuple(f.shape[1:]) for f in features] == [(16, 32, 32), (16, 32, 32), (32, 16, 16), (64, 8, 8)]


def windows_form(x, weight, kernel, stride, padding, dilation):
    """The pixel-wise form by its sum, number by number."""
    images, channels, height, width = x.shape
    axes = zip((height, width), padding, dilation, kernel, stride, strict=True)
    rows, columns = ((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, p, d, k, s in axes)
    y = torch.zeros(images, channels, rows, columns, dtype=x.dtype)
    window = list(itertools.product(range(kernel[0]), range(kernel[1])))

    def pixel(n, c, row, column, place):
        h = row * stride[0] - padding[0] + place[0] * dilation[0]
        w = column * stride[1] - padding[1] + place[1] * dilation[1]
        return float(x[n, c, h, w]) if 0 <= h < height and 0 <= w < width else 0.0

    for n, c, row, column in itertools.product(range(images), range(channels), range(rows), range(columns)):
        for a, b in itertools.product(range(len(window)), repeat=2):
            y[n, c, row, column] += (
                float(weight[c, a, b]) * pixel(n, c, row, column, window[a]) * pixel(n, c, row, column, window[b])
            )
    return y


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation"),
    [((3, 3), (1, 1), (1, 1), (1, 1)), ((2, 3), (2, 1), (0, 2), (1, 2)), ((1, 1), (1, 1), (0, 0), (1, 1))],
)
def test_the_pixelwise_form_is_its_sum_over_pairs_of_pixels(kernel, stride, padding, dilation):
    form = shaken(PixelwiseForm2d(2, kernel, stride=stride, padding=padding, dilation=dilation))
    x = maps(2, 2, 5, 6)
    y = form(x)
    assert y.shape[-2:] == F.conv2d(x[:, :1], x.new_zeros(1, 1, *kernel), None, stride, padding, dilation).shape[-2:]
    torch.testing.assert_close(y, windows_form(x, form.weight.detach(), kernel, stride, padding, dilation))


def test_no_two_channels_meet_in_the_pixelwise_form():
    form, x = shaken(PixelwiseForm2d(3, (3, 3), padding=(1, 1))), maps(1, 3, 4, 5)
    other = x.clone()
    other[:, 1] += 1
    same = (form(x) == form(other)).flatten(2).all(2)[0]
    assert same.tolist() == [True, False, True]
    torch.testing.assert_close(form(-2 * x), 4 * form(x))


def test_the_pixelwise_form_does_not_overflow_in_half_precision():
    form = PixelwiseForm2d(1, (1, 2)).half()
    nn.init.constant_(form.weight, 1e-3)
    y = form(torch.full((1, 1, 2, 2), 300.0, dtype=torch.float16))  # a product is 90,000, above float16's largest
    assert y.dtype == torch.float16
    assert y.flatten().tolist() == pytest.approx([360.0] * 2, rel=2e-3)


@pytest.fixture
def convnext():
    torch.manual_seed(0)
    small = dict(patch_size=2, depths=(3, 1, 1, 1), dims=(8, 16, 16, 16), num_classes=10)
    return lambda name="dit_convnext_atto", **kwargs: timm.create_model(name, **small, **kwargs).eval()


def test_convnext_takes_the_pixelwise_term_at_the_papers_place(convnext):
    model = convnext(quadratic_pixelwise=True)
    ((name, term),) = ditcnn.quadratic_terms(model)
    assert (name, tuple(term.weight.shape)) == ("stages.0.blocks.2.conv_dw.quadratic", (8, 49, 49))
    plain = convnext("convnext_atto")
    plain.load_state_dict({key: value for key, value in model.state_dict().items() if "quadratic" not in key})
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(model(x), plain(x))
    nn.init.normal_(term.weight, std=0.1)
    conv, place = model.stages[0].blocks[2].conv_dw, torch.randn(2, 8, 8, 8)
    torch.testing.assert_close(conv(place), plain.stages[0].blocks[2].conv_dw(place) + term(place))
    for again in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(again(x), model(x))
    removed = ditcnn.remove_quadratic(copy.deepcopy(model))
    assert torch.equal(removed(x), plain(x))


def test_the_pixelwise_term_has_its_rate_and_its_cost(convnext):
    model = convnext(quadratic_pixelwise=True)
    with_term, without = cost_of(model, (3, 32, 32), 2), cost_of(convnext("convnext_atto"), (3, 32, 32), 2)
    assert with_term.parameters - without.parameters == 8 * 49**2
    executed = with_term.macs_executed - without.macs_executed  # makes no use of the symmetry
    assert (
        executed == with_term.macs - without.macs == 8 * 8 * 8 * 49**2
    )  # timm's first stage halves the map once more at patch_size=2
    assert [g["lr"] for g in ditcnn.parameter_groups(model, lr=1.0, term_lr_scale=10)] == [1, 10]


def test_the_pixelwise_term_refuses_what_it_cannot_stand_beside():
    with pytest.raises(ValueError, match="depthwise"):
        ditcnn.add_quadratic(nn.Sequential(nn.Conv2d(4, 4, 3)), "0", pixelwise=True)
    with pytest.raises(ValueError, match="zero padding"):
        beside_pixelwise(nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular", groups=4))
    with pytest.raises(ValueError, match="no rank"):
        ditcnn.add_quadratic(nn.Sequential(nn.Conv2d(4, 4, 3, groups=4)), "0", pixelwise=True, rank=2)


@pytest.mark.parametrize("cost", ["parameters", "macs"])
def test_the_widened_plain_network_costs_nearest_to_its_rival(cost):
    widths = widths_of_equal_cost(
        lambda: timm.create_model("dit_resnet20"), cost, plain=lambda widths: timm.create_model("resnet20", widths=widths)
    )
    assert widths == WIDTHS[cost]

    def of(name, **kwargs):
        return getattr(cost_of(timm.create_model(name, **kwargs), (3, 32, 32), 2), cost)

    wanted, found = of("dit_resnet20"), of("resnet20", widths=widths)
    assert abs(found / wanted - 1) < 0.015
    for last in (widths[2] - 1, widths[2] + 1):
        neighbour = of("resnet20", widths=(round(last / 4), round(last / 2), last))
        assert abs(neighbour - wanted) >= abs(found - wanted)


def test_widths_reach_the_network():
    assert timm.create_model("resnet20", widths=(17, 34, 68))(torch.zeros(1, 3, 32, 32)).shape == (1, 10)
    with pytest.raises(ValueError, match="three numbers"):
        timm.create_model("resnet20", widths=(16, 32))


@pytest.mark.parametrize(("stage", "channels", "size"), [(1, 16, 28), (2, 32, 14), (3, 64, 7)])
def test_the_term_can_stand_in_any_stage(stage, channels, size):
    model = timm.create_model("dit_resnet20", quadratic_stage=stage, img_size=28)
    ((name, term),) = ditcnn.quadratic_terms(model)
    assert name == f"layer{stage}.0.quadratic"
    assert tuple(term.weight.shape) == (channels, channels, channels)
    assert term.norm.normalized_shape == (size, size)
    assert model(torch.zeros(1, 3, 28, 28)).shape == (1, 10)
    with pytest.raises(ValueError, match="1, 2 or 3"):
        timm.create_model("dit_resnet20", quadratic_stage=4)
