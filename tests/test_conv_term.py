"""Where the term beside a convolution looks, and what the convolution keeps."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from timm.layers import Conv2dSame, StdConv2dSame
from torch import nn

from ditcnn import QuadraticConv2d, QuadraticLinear, add_quadratic, remove_quadratic
from ditcnn.layers import beside

# kernel, stride, padding, dilation, padding mode; maps are 9 rows by 12 columns
GEOMETRIES = [
    (1, 1, 0, 1, "zeros"),
    (3, 1, 1, 1, "zeros"),
    (3, 2, 1, 1, "zeros"),
    (3, 1, 0, 1, "zeros"),
    (5, 3, 2, 1, "zeros"),
    (3, 2, 2, 2, "zeros"),
    (3, 1, 4, 2, "zeros"),  # the centre begins on the padding
    (1, 2, 3, 1, "reflect"),
    (1, 1, 2, 1, "circular"),
    (4, 4, 0, 1, "zeros"),
    (2, 2, 0, 1, "zeros"),
    ((3, 5), (2, 1), (1, 2), (1, 2), "replicate"),
    (3, 1, "same", 2, "zeros"),
    (4, 1, "same", 1, "zeros"),
    (3, 2, "valid", 1, "zeros"),
]


def random_term(conv):
    nn.init.normal_(conv.quadratic.weight)
    return conv


def at_centres(conv, x):
    """Copy x by a convolution of the same geometry that is one at its centre; dilation is spelled out in its kernel."""
    reach = [d * (k - 1) for d, k in zip(conv.dilation, conv.kernel_size, strict=True)]
    picker = nn.Conv2d(
        x.shape[1],
        x.shape[1],
        [r + 1 for r in reach],
        conv.stride,
        conv.padding,
        groups=x.shape[1],
        bias=False,
        padding_mode=conv.padding_mode,
        dtype=x.dtype,
    )
    with torch.no_grad():
        picker.weight.zero_()
        picker.weight[:, :, reach[0] // 2, reach[1] // 2] = 1
    return picker(x)


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("groups", [1, 3])
def test_term_is_taken_where_the_kernels_centre_stands(geometry, groups):
    kernel, stride, padding, dilation, mode = geometry
    conv = random_term(QuadraticConv2d(3, 6, kernel, stride, padding, dilation, groups, padding_mode=mode).double())
    x = torch.randn(2, 3, 9, 12, dtype=torch.float64)
    z = at_centres(conv, x)
    expected = torch.einsum("nihw,oij,njhw->nohw", z, conv.quadratic.weight, z)
    torch.testing.assert_close(conv(x) - nn.Conv2d.forward(conv, x), expected)


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_an_impulse_comes_out_where_a_centred_kernel_puts_it(stride):
    conv = QuadraticConv2d(1, 1, 3, stride, 1, bias=False).double()
    with torch.no_grad():
        conv.weight.zero_()
        conv.weight[0, 0, 1, 1] = 1
        conv.quadratic.weight.fill_(10)
    x = torch.zeros(1, 1, 9, 12, dtype=torch.float64)
    x[0, 0, 6, 6] = 1
    y = conv(x)
    assert y[0, 0, 6 // stride, 6 // stride] == 11  # the identity kernel's one, and the term's ten, at one place
    assert y.sum() == 11


@pytest.mark.parametrize("cls", [Conv2dSame, StdConv2dSame])
@pytest.mark.parametrize("size", [(9, 12), (8, 7)])
def test_tensorflows_padding_is_followed(cls, size):
    conv = cls(2, 3, 3, stride=2, **({} if cls is Conv2dSame else {"padding": "SAME"})).double()
    beside(conv)
    random_term(conv)
    x = torch.randn(1, 2, *size, dtype=torch.float64)
    before = [max((-(-n // 2) - 1) * 2 + 3 - n, 0) // 2 for n in size]
    centres = x[:, :, 1 - before[0] :: 2, 1 - before[1] :: 2]
    expected = torch.einsum("nihw,oij,njhw->nohw", centres, conv.quadratic.weight, centres)
    torch.testing.assert_close(conv(x) - cls.forward(conv, x), expected)


def test_a_map_without_batch_is_taken_as_conv2d_takes_it():
    conv = random_term(QuadraticConv2d(3, 4, 3, padding=1))
    x = torch.randn(3, 5, 7)
    torch.testing.assert_close(conv(x), conv(x[None])[0])


@pytest.mark.parametrize("conv", [nn.Conv2d(4, 4, 3, padding=1, groups=2), Conv2dSame(4, 4, 3)])
def test_copies_and_pickles_keep_class_term_and_function(conv):
    conv = random_term(add_quadratic(conv, lambda name, module: True))
    x = torch.randn(1, 4, 5, 6)
    for twin in (copy.deepcopy(conv), pickle.loads(pickle.dumps(conv))):
        assert type(twin) is type(conv)
        assert torch.equal(twin(x), conv(x))
        assert type(remove_quadratic(twin)) is type(conv).plain_class


class Doubled(QuadraticConv2d):
    def forward(self, x):
        return 2 * super().forward(x)


def test_a_subclass_stays_itself_when_copied():
    conv = random_term(Doubled(3, 4, 1))
    x = torch.randn(1, 3, 2, 2)
    for twin in (copy.deepcopy(conv), pickle.loads(pickle.dumps(conv))):
        assert type(twin) is Doubled
        assert torch.equal(twin(x), conv(x))


def test_term_follows_the_convolutions_dtype_device_and_mode():
    conv = nn.Conv2d(3, 4, 3, dtype=torch.bfloat16, device="meta").eval()
    beside(conv, norm="batch", rank=2)
    assert {(p.dtype, p.device.type) for p in conv.parameters()} == {(torch.bfloat16, "meta")}
    assert not conv.quadratic.norm.training


def test_float16_autocast_keeps_the_convolutions_dtype_and_saturates():
    conv = QuadraticConv2d(1, 1, 1, bias=False)
    nn.init.zeros_(conv.weight)
    nn.init.ones_(conv.quadratic.weight)
    with torch.autocast("cpu", torch.float16):
        y = conv(torch.tensor([100.0, 1000.0]).view(1, 1, 1, 2))
    assert y.dtype == torch.float16
    assert y.flatten().tolist() == [1e4, 65504]


def test_quadratic_linear_is_the_papers_neuron():
    layer = QuadraticLinear(5, 3).double()
    x = torch.randn(4, 2, 5, dtype=torch.float64)
    assert torch.equal(layer(x), F.linear(x, layer.weight, layer.bias))
    nn.init.normal_(layer.quadratic.weight)
    expected = torch.einsum("...i,oij,...j->...o", x, layer.quadratic.weight, x) + x @ layer.weight.T + layer.bias
    torch.testing.assert_close(layer(x), expected)
    assert QuadraticLinear(5, 3, bias=False).bias is None
    assert list(QuadraticLinear(5, 3, rank=2).state_dict()) == ["weight", "bias", "quadratic.u", "quadratic.v"]


def test_low_rank_is_the_whole_form_of_its_matrices():
    layer = QuadraticLinear(5, 3, rank=2).double()
    nn.init.normal_(layer.quadratic.v)
    whole = QuadraticLinear(5, 3).double()
    whole.load_state_dict({"weight": layer.weight, "bias": layer.bias, "quadratic.weight": layer.quadratic.matrices()})
    x = torch.randn(6, 5, dtype=torch.float64)
    torch.testing.assert_close(layer(x), whole(x))


def test_low_rank_starts_at_zero_and_its_first_gradient_reaches_v():
    layer = QuadraticLinear(5, 3, rank=2)
    x = torch.randn(6, 5)
    assert torch.equal(layer(x), F.linear(x, layer.weight, layer.bias))
    layer(x).square().sum().backward()
    assert layer.quadratic.v.grad.abs().min() > 0


@pytest.mark.parametrize(
    ("kwargs", "message"), [({"rank": 0}, "rank must be above 0; got 0"), ({"rate": -1.0}, "rate must not be negative")]
)
def test_arguments_without_sense_are_told(kwargs, message):
    with pytest.raises(ValueError, match=message):
        QuadraticConv2d(3, 4, 3, **kwargs)
