"""Laws of the layers."""

import pytest
import torch

from ditcnn import QuadraticForm2d


def random_form(in_channels=3, out_channels=4, **kwargs):
    layer = QuadraticForm2d(in_channels, out_channels, **kwargs).double()
    torch.nn.init.normal_(layer.weight, generator=torch.Generator().manual_seed(0))
    return layer


def random_map(height=5, width=7, channels=3):
    return torch.randn(2, channels, height, width, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_layer_is_zero_at_the_start():
    layer = QuadraticForm2d(3, 4)
    assert dict(layer.named_parameters()).keys() == {"weight"}
    assert torch.equal(layer(torch.randn(2, 3, 5, 7)), torch.zeros(2, 4, 5, 7))


def test_each_position_holds_the_form_of_its_own_channels():
    layer, x = random_form(), random_map()
    expected = torch.einsum("nihw,oij,njhw->nohw", x, layer.weight, x)
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize("dims", [(2,), (3,), (2, 3)])
def test_layer_commutes_with_flips_of_a_map_that_is_not_square(dims):
    layer, x = random_form(), random_map()
    torch.testing.assert_close(layer(x.flip(dims)), layer(x).flip(dims))


def test_memory_format_changes_nothing():
    layer, x = random_form(), random_map()
    torch.testing.assert_close(layer(x.contiguous(memory_format=torch.channels_last)), layer(x))


def test_spatial_transpose_swaps_height_and_width_of_square_maps():
    right, published = random_form(), random_form(spatial_transpose=True)
    x = random_map(6, 6)
    assert torch.equal(published(x), right(x).transpose(2, 3))
    assert not torch.allclose(published(x), right(x))


def test_spatial_transpose_refuses_other_maps():
    with pytest.raises(ValueError, match="square map; got 5x7"):
        random_form(spatial_transpose=True)(random_map())


@pytest.mark.parametrize("shape", [(2, 4, 5, 7), (4, 5, 7), (5, 7), (1, 2, 3, 5, 7)])
def test_wrong_input_is_told(shape):
    with pytest.raises(ValueError, match=r"\[N, 3, H, W\]; got"):
        random_form()(torch.zeros(shape, dtype=torch.float64))


def test_one_sgd_step_leaves_the_weight_symmetric():
    layer, x = QuadraticForm2d(3, 4).double(), random_map(90, 120)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        (layer(x) - 1).square().sum().backward()
        optimizer.step()
    assert layer.weight.abs().sum() > 0
    assert torch.equal(layer.weight, layer.weight.mT)


def test_spatial_norm_has_mean_zero_and_unit_variance_over_positions():
    term = QuadraticForm2d(3, 4, norm="spatial", map_size=(5, 7)).double()
    y = term.norm(3 + 2 * random_map())
    torch.testing.assert_close(y.mean((2, 3)), torch.zeros(2, 3, dtype=torch.float64))
    torch.testing.assert_close(y.var((2, 3), correction=0), torch.ones(2, 3, dtype=torch.float64), rtol=1e-4, atol=0)
    assert term.norm.weight.shape == (5, 7)


def test_instance_norm_is_the_spatial_one_at_any_size():
    spatial = QuadraticForm2d(3, 4, norm="spatial", map_size=(5, 7)).double().norm
    instance = QuadraticForm2d(3, 4, norm="instance").double().norm
    torch.testing.assert_close(instance(random_map()), spatial(random_map()))
    assert instance(random_map(2, 3)).shape == (2, 3, 2, 3)


def test_instance_norm_takes_a_single_image_of_one_position():
    layer = QuadraticForm2d(3, 2, norm="instance").eval()
    torch.nn.init.normal_(layer.norm.bias)
    torch.testing.assert_close(layer.norm(torch.randn(1, 3, 1, 1)).flatten(), layer.norm.bias, rtol=0, atol=1e-4)


@pytest.mark.parametrize("norm", ["batch", "none"])
def test_other_norms_take_any_size(norm):
    assert QuadraticForm2d(3, 4, norm=norm).double()(random_map(3, 2)).shape == (2, 4, 3, 2)


def test_norm_of_a_wrong_size_or_name_is_told():
    term = QuadraticForm2d(3, 4, norm="spatial", map_size=(4, 4))
    with pytest.raises(ValueError, match=r"built for maps of 4x4 and got 5x7.*quadratic_norm='instance'"):
        term(torch.zeros(2, 3, 5, 7))
    with pytest.raises(ValueError, match="map_size"):
        QuadraticForm2d(3, 4, norm="spatial")
    with pytest.raises(ValueError, match="norm must be one of spatial, instance, batch, none; got 'layer'"):
        QuadraticForm2d(3, 4, norm="layer")
