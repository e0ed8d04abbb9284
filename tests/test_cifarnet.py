"""The small fast network against its formula, its whitening as mathematics, and both as timm's users expect them."""

import copy
import pickle

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F

import ditcnn
from ditcnn.cost import cost_of
from ditcnn.models.cifarnet import EPS, whitening
from tests.conftest import write_idx
from tests.forks import run_forks

PLACES = ["whiten", *(f"block{i}.conv{j}" for i in (1, 2, 3) for j in (1, 2))]


def count(model):
    return sum(p.numel() for p in model.parameters())


def shaken(name, **kwargs):
    """Return a model in eval mode with random numbers wherever it starts with zeros and ones."""
    torch.manual_seed(0)
    model = timm.create_model(name, **kwargs).double().eval()
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point() and tensor.ndim != 4:
            tensor.data += 0.1 * torch.rand_like(tensor)
    return model


def photographs(count=40, channels=3, size=12):
    """Return images whose neighbours are alike, channels too."""
    noise = torch.randn(count, channels, size + 4, size + 4, generator=torch.Generator().manual_seed(1))
    smooth = F.avg_pool2d(noise, 5, 1)
    return 3 * smooth + noise.mean(1, keepdim=True)[..., 2:-2, 2:-2] + 0.2 * noise[..., 2:-2, 2:-2] + 0.5


def patches_of(images):
    """Return each 2x2 patch of images as a row, float64."""
    return torch.stack(
        [
            images[:, :, i : i + 2, j : j + 2].flatten(1).double()
            for i in range(images.shape[2] - 1)
            for j in range(images.shape[3] - 1)
        ]
    ).flatten(0, 1)


@pytest.mark.parametrize(
    ("name", "parameters", "macs"), [("cifarnet", 312_616, 40_719_184), ("dit_cifarnet", 315_432, 43_425_360)]
)
def test_parameters_and_multiplications_are_the_docstrings(name, parameters, macs):
    cost = cost_of(timm.create_model(name), (3, 32, 32), 2)
    assert (cost.parameters, cost.macs) == (parameters, macs)
    assert cost.parameters <= 320_000
    hundred = timm.create_model(name, num_classes=100)
    assert count(hundred) == parameters + 88 * 90
    assert count(hundred) <= 350_000
    assert sum(p.numel() for p in hundred.parameters() if not p.requires_grad) == 768


def test_network_is_the_formula():
    model = shaken("dit_cifarnet")
    state = model.state_dict()
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    y = F.gelu(F.conv2d(x, state["whiten.weight"], state["whiten.bias"]))
    for block in ("block1", "block2", "block3"):
        for i in (1, 2):
            z = F.conv2d(y, state[f"{block}.conv{i}.weight"], padding=1)
            if f"{block}.conv{i}.quadratic.u" in state:
                u, v = (state[f"{block}.conv{i}.quadratic.{name}"] for name in "uv")
                z = z + torch.einsum("or,nrhw->nohw", v, torch.einsum("rc,nchw->nrhw", u, y).square())
            z = F.max_pool2d(z, 2) if i == 1 else z
            weight, bias, mean, var = (
                state[f"{block}.norm{i}.{key}"] for key in ("weight", "bias", "running_mean", "running_var")
            )
            y = F.gelu(F.batch_norm(z, mean, var, weight, bias))
    assert y.shape == (2, 88, 3, 3)
    torch.testing.assert_close(model(x), y.amax((2, 3)) @ state["head.weight"].T / 9)


def test_twins_start_equal_to_the_bit_and_from_the_same_weights():
    torch.manual_seed(3)
    plain = timm.create_model("cifarnet")
    torch.manual_seed(3)
    dit = timm.create_model("dit_cifarnet", quadratic_at=PLACES, quadratic_norm="batch")
    assert all(torch.equal(value, dit.state_dict()[key]) for key, value in plain.state_dict().items())
    x = torch.randn(4, 3, 32, 32)
    assert torch.equal(plain(x), dit(x))
    assert torch.equal(ditcnn.remove_quadratic(dit.eval())(x), plain.eval()(x))
    assert dit.state_dict().keys() == plain.state_dict().keys()


@pytest.mark.parametrize("places", ["block1.conv1", ("whiten", "block2.conv1"), "block?.conv2"])
def test_terms_stand_where_they_are_wanted(places):
    model = timm.create_model("dit_cifarnet", quadratic_at=places, quadratic_rank=0, quadratic_norm="instance")
    wanted = {"block1.conv1": 1, "block?.conv2": 3}.get(places, 2)
    terms = list(ditcnn.quadratic_terms(model))
    assert len(terms) == wanted
    assert all(term.rank is None and type(term.norm).__name__ == "InstanceNorm" for _, term in terms)


def test_a_place_that_is_not_there_is_answered_with_the_nearest():
    with pytest.raises(ValueError, match=r"no convolution is called block1.conv3.*Did you mean block1.conv"):
        timm.create_model("dit_cifarnet", quadratic_at="block1.conv3")


def test_convolutions_start_as_the_identity_on_their_inputs():
    model = timm.create_model("cifarnet")
    x = torch.randn(2, 64, 5, 5)
    assert torch.equal(model.block2.conv1(x)[:, :64], x)
    rest = model.block2.conv1.weight[64:]
    assert rest.std() > 0.01


def test_whitened_patches_have_mean_zero_and_covariance_one():
    images = photographs()
    model = timm.create_model("cifarnet")
    model.prepare_on_images(images)
    maps = F.conv2d(images.double(), model.whiten.weight.double(), model.whiten.bias.double()).transpose(0, 1).flatten(1)
    assert torch.equal(maps[:12], -maps[12:])
    covariance = torch.cov(maps[:12], correction=0)
    variances = torch.linalg.eigvalsh(torch.cov(patches_of(images).T, correction=0)).flip(0)
    torch.testing.assert_close(covariance, (variances / (variances + EPS)).diag(), rtol=0, atol=1e-5)
    torch.testing.assert_close(covariance, torch.eye(12, dtype=torch.float64), rtol=0, atol=0.05)
    torch.testing.assert_close(maps.mean(1), torch.zeros(24, dtype=torch.float64), rtol=0, atol=1e-5)


def test_whitening_is_a_function_of_the_images_alone():
    images = photographs(300)
    torch.manual_seed(0)
    first = whitening(images)
    torch.manual_seed(1)
    again = whitening(images.flip(0).flip(0))
    for one, other in zip(first, again, strict=True):
        assert torch.equal(one, other)
    shuffled = whitening(images[torch.randperm(300)])[0]  # sums in another order
    torch.testing.assert_close(shuffled, first[0])
    assert (first[0].flatten(1).max(1).values == first[0].flatten(1).abs().max(1).values).all()


def test_grey_images_of_one_value_are_whitened_without_infinities():
    model = timm.create_model("cifarnet", in_chans=1)
    model.prepare_on_images(torch.full((3, 1, 9, 9), 0.7))
    assert model.whiten.weight.isfinite().all()
    assert model.whiten.out_channels == 8
    assert model(torch.randn(2, 1, 28, 28)).shape == (2, 10)


def test_a_network_that_has_trained_keeps_its_whitening():
    model = timm.create_model("cifarnet")
    model(torch.randn(2, 3, 32, 32))  # in training mode, which moves the norms' statistics
    before = copy.deepcopy(model.state_dict())
    model.prepare_on_images(photographs())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_whitening_is_frozen_and_its_bias_is_trained():
    model = timm.create_model("dit_cifarnet")
    model(torch.randn(4, 3, 32, 32)).square().sum().backward()
    idle = {name for name, p in model.named_parameters() if p.grad is None}
    assert idle == {"whiten.weight", *(f"block{i}.norm{j}.weight" for i in (1, 2, 3) for j in (1, 2))}
    assert model.whiten.bias.grad.abs().sum() > 0
    assert model.block1.conv1.quadratic.v.grad.abs().sum() > 0


# As timm's users expect it


def test_classifier_can_be_replaced_and_left_out():
    model = timm.create_model("dit_cifarnet")
    model.reset_classifier(7)
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 7)
    assert model.get_classifier().out_features == model.num_classes == 7
    model.reset_classifier(0)
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 88) == (2, model.head_hidden_size)
    model.reset_classifier(5, "catavgmax")
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 5)
    features = timm.create_model("dit_cifarnet", num_classes=0, global_pool="")
    assert features(torch.randn(2, 3, 32, 32)).shape == (2, 88, 3, 3)
    with pytest.raises(ValueError, match="num_classes=0"):
        timm.create_model("dit_cifarnet", global_pool="")


def test_forward_is_head_of_features():
    model, x = shaken("dit_cifarnet"), torch.randn(2, 3, 32, 32, dtype=torch.float64)
    features = model.forward_features(x)
    assert features.shape == (2, model.num_features, 3, 3)
    assert torch.equal(model.forward_head(features), model(x))
    assert model.forward_head(features, pre_logits=True).shape == (2, 88)


@pytest.mark.parametrize("feature_cls", ["list", "getter"])
def test_features_only_gives_the_maps_of_whitening_and_blocks(feature_cls):
    whole = shaken("dit_cifarnet")
    kwargs = {} if feature_cls == "list" else {"feature_cls": "getter"}
    model = timm.create_model("dit_cifarnet", features_only=True, **kwargs).double().eval()
    assert model.feature_info.channels() == [24, 64, 88, 88]
    assert model.feature_info.reduction() == [1, 2, 4, 8]
    (model if feature_cls == "list" else model.model).load_state_dict(whole.state_dict(), strict=False)
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    assert torch.equal(model(x)[-1], whole.forward_features(x))
    assert [len(f[0]) for f in timm.create_model("cifarnet", features_only=True, out_indices=(0, 2))(x.float())] == [24, 88]


def test_forward_intermediates_and_pruning_agree():
    model, x = shaken("dit_cifarnet"), torch.randn(2, 3, 32, 32, dtype=torch.float64)
    last, maps = model.forward_intermediates(x)
    assert torch.equal(last, maps[-1])
    assert torch.equal(last, model.forward_features(x))
    assert model.prune_intermediate_layers([2]) == [2]
    (second,) = model.forward_intermediates(x, indices=[2], stop_early=True, intermediates_only=True)
    assert torch.equal(second, maps[2])
    assert not list(model.block3.parameters())


def test_checkpointing_changes_no_gradient():
    gradients = []
    for enable in (False, True):
        torch.manual_seed(0)
        model = timm.create_model("dit_cifarnet").double()
        model.set_grad_checkpointing(enable)
        model(torch.randn(4, 3, 32, 32, dtype=torch.float64)).square().sum().backward()
        gradients.append(model.block1.conv1.quadratic.v.grad)
    assert gradients[0].abs().sum() > 0
    torch.testing.assert_close(*gradients)


def test_model_survives_copy_pickle_and_export():
    model, x = shaken("dit_cifarnet").float(), torch.randn(2, 3, 32, 32)
    assert torch.equal(copy.deepcopy(model)(x), model(x))
    assert torch.equal(pickle.loads(pickle.dumps(model))(x), model(x))
    exported = torch.export.export(model, (x,))
    torch.testing.assert_close(exported.module()(x), model(x), rtol=1e-4, atol=1e-4)


def test_layer_groups_cover_each_parameter():
    groups = timm.optim.param_groups_layer_decay(timm.create_model("dit_cifarnet"), layer_decay=0.5)
    model = timm.create_model("dit_cifarnet")
    assert sum(p.numel() for g in groups for p in g["params"]) == count(model) - 768  # timm leaves out what is frozen
    assert len({g["lr_scale"] for g in groups}) > 3


def test_widths_are_three_numbers():
    assert timm.create_model("cifarnet", widths=(8, 16, 24)).num_features == 24
    with pytest.raises(ValueError, match=r"three numbers of channels, as \(64, 88, 88\); got \(8, 0, 1\)"):
        timm.create_model("cifarnet", widths=(8, 0, 1))


# In training


def coloured(count=48, size=12, seed=0):
    """Return images of two colours that are hard to take for each other, and their labels."""
    draw = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    images = draw.integers(0, 120, (count, 3, size, size)) + 100 * labels[:, None, None, None]
    return images.astype(np.uint8), labels


def train(out, **settings):
    defaults = {"epochs": 2, "batch_size": 16, "precision": "fp32", "views": 1} | settings
    model = defaults.pop("model", "dit_cifarnet")
    kwargs = ("widths=(8, 8, 8)",) if isinstance(model, str) else ()
    return ditcnn.fit(model, coloured(), recipe="cifar10-fast", out=out, model_kwargs=kwargs, **defaults)


def test_fit_whitens_the_training_images_and_saves_that(tmp_path):
    first, again = train(tmp_path / "a"), train(tmp_path / "b", seed=5)
    weight = first.model.whiten.weight
    assert torch.equal(weight, again.model.whiten.weight)  # of the images, not of the seed
    recipe = timm.create_model(f"local-dir:{tmp_path / 'a'}", pretrained=True)
    assert torch.equal(recipe.whiten.weight, weight)
    assert not weight.requires_grad
    scaled = weight.flatten(1).square().sum(1)
    assert scaled.max() > 4 * scaled.min()  # by the patches' variances, where fresh filters are of one size


def test_whitening_is_not_computed_anew_where_weights_are_loaded(tmp_path, monkeypatch):
    seen = []
    prepare = ditcnn.models.CifarNet.prepare_on_images

    def counted(model, images):
        seen.append(images)
        prepare(model, images)

    monkeypatch.setattr(ditcnn.models.CifarNet, "prepare_on_images", counted)
    whole = train(tmp_path / "whole")
    assert len(seen) == 1
    assert seen[0].shape == (44, 3, 12, 12)  # without those held out
    assert seen[0].mean().abs() < 0.1
    again = train(tmp_path / "whole", resume=True)  # a finished run
    assert torch.equal(again.model.whiten.weight, whole.model.whiten.weight)
    ditcnn.fit("dit_cifarnet", coloured(), recipe="cifar10-fast", out=tmp_path / "next", epochs=1, batch_size=16,
               pretrained=str(tmp_path / "whole"), precision="fp32", views=1)  # fmt: skip
    assert len(seen) == 1


def test_a_module_of_ones_own_may_look_at_the_images_too(tmp_path):
    class Own(torch.nn.Sequential):
        def prepare_on_images(self, images):
            self.seen = images

    model = Own(torch.nn.Flatten(), torch.nn.Linear(3 * 12 * 12, 2))
    train(tmp_path / "own", model=model, bias_lr_scale=1)
    assert model.seen.dtype == torch.float32
    assert model.seen.std() == pytest.approx(1, abs=0.1)


def test_a_trained_network_handed_over_keeps_its_whitening(tmp_path):
    model = ditcnn.load(train(tmp_path / "first").folder)
    before = model.whiten.weight.clone()
    bright = coloured(seed=1)[0] // 2
    ditcnn.fit(model, (bright, coloured()[1]), recipe="cifar10-fast", out=tmp_path / "second", epochs=1, batch_size=16,
               precision="fp32", views=1)  # fmt: skip
    assert torch.equal(model.whiten.weight, before)


@pytest.mark.parametrize("opt", ["sgd", "muon"])
def test_a_run_that_was_stopped_goes_on_to_the_same_bits(tmp_path, opt):
    class Enough(Exception):
        pass

    def stop(line):
        if line["epoch"] == 2:
            raise Enough

    settings = {"opt": opt, "lr": 0.01, "crop_padding": 2}
    whole = train(tmp_path / "whole", **settings)
    with pytest.raises(Enough):
        train(tmp_path / "stopped", callbacks=[stop], **settings)
    resumed = train(tmp_path / "stopped", resume=True, **settings)
    for key, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[key]), key


def test_processes_start_from_one_whitening_and_end_as_one_process(tmp_path):
    write_idx(tmp_path / "idx", size=12)
    arguments = [
        "train", "digits", "--data", "idx", "--model", "dit_cifarnet", "--model-kwargs", "widths=(8,8,8)", "--epochs", "1",
        "--warmup-epochs", "0", "--batch-size", "20", "--lr", "0.01", "--flip", "--flip-mode", "alternating", "--views", "6",
        "--padding-mode", "reflect", "--label-smoothing", "0.2", "--bias-lr-scale", "8",
    ]  # fmt: skip
    assert [status for status, _ in run_forks(tmp_path, 2, [*arguments, "--out", "two"])] == [0, 0]
    ((status, told),) = run_forks(tmp_path, 1, [*arguments, "--out", "one"])
    assert status == 0, told
    assert "with 6 views" in told
    one, two = (timm.create_model(f"local-dir:{tmp_path / out}", pretrained=True).state_dict() for out in ("one", "two"))
    assert torch.equal(one["whiten.weight"], two["whiten.weight"])
    for key, value in one.items():
        torch.testing.assert_close(two[key], value, rtol=1e-3, atol=1e-4, msg=key)
