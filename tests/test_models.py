"""The CIFAR networks against independent formulas, and as timm's users expect them."""

import copy
import pickle

import pytest
import timm
import torch
import torch.nn.functional as F

import ditcnn

PARAMETERS = {20: (307_674, 330_804), 32: (502_106, 525_236), 56: (890_970, 914_100), 110: (1_765_914, 1_789_044)}


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


@pytest.mark.parametrize("depth", PARAMETERS)
def test_parameter_counts_are_the_papers(depth):
    ten, hundred = PARAMETERS[depth]
    assert count(timm.create_model(f"dit_resnet{depth}")) == ten
    assert count(timm.create_model(f"dit_resnet{depth}", num_classes=100)) == hundred
    assert count(timm.create_model(f"resnet{depth}")) == ten - 33_280


def block_by_formula(state, prefix, x, stride):
    """The block of the paper from a state dict, in plain functions."""

    def norm(x, name):
        get = lambda key: state[f"{prefix}.{name}.{key}"]  # noqa: E731
        return F.batch_norm(x, get("running_mean"), get("running_var"), get("weight"), get("bias"))

    h = norm(F.conv2d(x, state[f"{prefix}.conv1.weight"], stride=stride, padding=1), "bn1").relu()
    y = norm(F.conv2d(h, state[f"{prefix}.conv2.weight"], padding=1), "bn2")
    if f"{prefix}.quadratic.weight" in state:
        weight, bias = state[f"{prefix}.quadratic.norm.weight"], state[f"{prefix}.quadratic.norm.bias"]
        mean, var = h.mean((2, 3), keepdim=True), h.var((2, 3), correction=0, keepdim=True)
        z = (h - mean) / (var + 1e-5).sqrt() * weight + bias
        y = (y + torch.einsum("nihw,oij,njhw->nohw", z, state[f"{prefix}.quadratic.weight"], z)) / 2
    if f"{prefix}.downsample.0.weight" in state:
        x = norm(F.conv2d(x, state[f"{prefix}.downsample.0.weight"], stride=stride), "downsample.1")
    return (y + x).relu()


@pytest.mark.parametrize("name", ["resnet20", "dit_resnet20", "dit_resnet32"])
def test_network_is_the_papers_formula(name):
    model = shaken(name)
    state = model.state_dict()
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    y = F.conv2d(x, state["conv1.weight"], padding=1)
    y = F.batch_norm(y, *(state[f"bn1.{k}"] for k in ("running_mean", "running_var", "weight", "bias"))).relu()
    for stage in (1, 2, 3):
        for block in range((int(name[-2:]) - 2) // 6):
            y = block_by_formula(state, f"layer{stage}.{block}", y, stride=2 if stage > 1 and block == 0 else 1)
    y = F.avg_pool2d(y, 4).flatten(1) @ state["fc.weight"].T + state["fc.bias"]
    torch.testing.assert_close(model(x), y)


def test_one_term_stands_in_the_first_block_of_the_second_stage():
    names = [name for name, _ in timm.create_model("dit_resnet110").named_parameters() if "quadratic" in name]
    assert {name.partition(".quadratic")[0] for name in names} == {"layer2.0"}


def test_twins_start_from_the_same_weights():
    torch.manual_seed(3)
    plain = timm.create_model("resnet20").state_dict()
    torch.manual_seed(3)
    dit = timm.create_model("dit_resnet20").state_dict()
    assert all(torch.equal(value, dit[key]) for key, value in plain.items())


def test_spatial_transpose_reaches_the_term():
    right, published = shaken("dit_resnet20"), shaken("dit_resnet20", spatial_transpose=True)
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    assert not torch.allclose(right(x), published(x))


@pytest.mark.parametrize("kwargs", [{"img_size": 28}, {"quadratic_norm": "batch"}, {"quadratic_norm": "none"}])
def test_one_channel_and_other_sizes_work(kwargs):
    model = timm.create_model("dit_resnet20", in_chans=1, **kwargs)
    assert model(torch.randn(2, 1, 28, 28)).shape == (2, 10)


@pytest.mark.parametrize("size", [(8, 8), (9, 15), (4, 4), (64, 48)])
def test_img_size_builds_the_norm_for_the_map(size):
    assert timm.create_model("dit_resnet20", img_size=size)(torch.randn(2, 3, *size)).shape == (2, 10)
    assert timm.create_model("resnet20")(torch.randn(2, 3, *size)).shape == (2, 10)


def test_a_wrong_size_names_the_choice():
    with pytest.raises(ValueError, match=r"16x16 and got 14x14.*img_size.*quadratic_norm='instance'"):
        timm.create_model("dit_resnet20")(torch.zeros(1, 3, 28, 28))


def test_an_argument_without_effect_is_refused():
    with pytest.raises(TypeError, match="quadratic_norm"):
        timm.create_model("resnet20", quadratic_norm="batch")
    with pytest.raises(ValueError, match=r"6n \+ 2"):
        ditcnn.models.CifarResNet(21)


def test_classifier_can_be_replaced_and_left_out():
    model = timm.create_model("dit_resnet20")
    model.reset_classifier(7)
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 7)
    assert model.get_classifier().out_features == model.num_classes == 7
    model.reset_classifier(0)
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 256) == (2, model.head_hidden_size)
    features = timm.create_model("dit_resnet20", num_classes=0, global_pool="")
    assert features(torch.randn(2, 3, 32, 32)).shape == (2, 64, 8, 8)
    with pytest.raises(ValueError, match="num_classes=0"):
        timm.create_model("dit_resnet20", global_pool="")


def test_forward_is_head_of_features():
    model, x = shaken("dit_resnet20"), torch.randn(2, 3, 32, 32, dtype=torch.float64)
    features = model.forward_features(x)
    assert features.shape == (2, model.num_features, 8, 8)
    assert torch.equal(model.forward_head(features), model(x))
    assert model.forward_head(features, pre_logits=True).shape == (2, 256)


@pytest.mark.parametrize("feature_cls", ["list", "getter"])
def test_features_only_gives_the_maps_of_stem_and_stages(feature_cls):
    whole = shaken("dit_resnet20")
    kwargs = {} if feature_cls == "list" else {"feature_cls": "getter"}
    model = timm.create_model("dit_resnet20", features_only=True, **kwargs).double().eval()
    assert model.feature_info.channels() == [16, 16, 32, 64]
    assert model.feature_info.reduction() == [1, 1, 2, 4]
    (model if feature_cls == "list" else model.model).load_state_dict(whole.state_dict(), strict=False)
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    assert torch.equal(model(x)[-1], whole.forward_features(x))
    assert [len(f[0]) for f in timm.create_model("resnet20", features_only=True, out_indices=(1, 2))(x.float())] == [16, 32]


def test_forward_intermediates_and_pruning_agree():
    model, x = shaken("dit_resnet20"), torch.randn(2, 3, 32, 32, dtype=torch.float64)
    last, maps = model.forward_intermediates(x)
    assert torch.equal(last, maps[-1])
    assert torch.equal(last, model.forward_features(x))
    assert model.prune_intermediate_layers([2]) == [2]
    (second,) = model.forward_intermediates(x, indices=[2], stop_early=True, intermediates_only=True)
    assert torch.equal(second, maps[2])
    assert len(model.layer3) == 0


def test_checkpointing_changes_no_gradient():
    gradients = []
    for enable in (False, True):
        torch.manual_seed(0)
        model = timm.create_model("dit_resnet20").double()
        model.set_grad_checkpointing(enable)
        model(torch.randn(4, 3, 32, 32, dtype=torch.float64)).square().sum().backward()
        gradients.append(model.layer2[0].quadratic.weight.grad)
    assert gradients[0].abs().sum() > 0
    torch.testing.assert_close(*gradients)


def test_gradient_reaches_the_term_on_the_first_step():
    model = timm.create_model("dit_resnet20")
    model(torch.randn(4, 3, 32, 32)).square().sum().backward()
    assert model.layer2[0].quadratic.weight.grad.abs().sum() > 0


def test_model_survives_copy_pickle_and_export():
    model, x = shaken("dit_resnet20").float(), torch.randn(2, 3, 32, 32)
    assert torch.equal(copy.deepcopy(model)(x), model(x))
    assert torch.equal(pickle.loads(pickle.dumps(model))(x), model(x))
    exported = torch.export.export(model, (x,))
    assert not any("ditcnn" in str(node.target) for node in exported.graph.nodes)
    torch.testing.assert_close(exported.module()(x), model(x), rtol=1e-4, atol=1e-4)


def test_layer_groups_cover_each_parameter():
    from timm.optim import param_groups_layer_decay

    model = timm.create_model("dit_resnet20")
    groups = param_groups_layer_decay(model, layer_decay=0.5)
    assert sum(len(g["params"]) for g in groups) == len(list(model.parameters()))
    assert len({g["lr_scale"] for g in groups}) > 3


def test_pretrained_weights_are_refused_as_there_are_none():
    with pytest.raises(RuntimeError, match=r"[Nn]o pretrained weights"):
        timm.create_model("dit_resnet20", pretrained=True)


def test_importing_leaves_timms_own_models_alone():
    assert "resnet50" in timm.list_models()
    assert timm.create_model("convnext_atto").__class__.__module__ == "timm.models.convnext"
    ours = set(timm.list_models(module="cifar_resnet"))
    assert ours == {f"{p}resnet{d}" for p in ("", "dit_") for d in PARAMETERS}
