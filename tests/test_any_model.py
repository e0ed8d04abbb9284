"""The term in models that others wrote: timm's and torchvision's."""

import pytest
import timm
import torch
import torchvision
from timm.scheduler import CosineLRScheduler
from torch import nn
from torch.nn.utils import parametrize

import ditcnn
from ditcnn import add_quadratic, candidate_places, parameter_groups, quadratic_terms, remove_quadratic
from ditcnn.groups import scaled_groups

MODELS = {
    "resnet50": (lambda: timm.create_model("resnet50", num_classes=5), ["layer2.0.conv2", "layer1.*.conv2"], 64),
    "convnext_tiny": (lambda: timm.create_model("convnext_tiny", num_classes=5), ["stages.0.blocks.2.conv_dw"], 64),
    "mobilenetv3_large_100": (
        lambda: timm.create_model("mobilenetv3_large_100", num_classes=5),
        ["blocks.1.0.conv_dw", "conv_stem"],
        64,
    ),
    "efficientnet_b0": (lambda: timm.create_model("efficientnet_b0", num_classes=5), ["blocks.0.0.conv_dw"], 64),
    "vit_tiny_patch16_224": (
        lambda: timm.create_model("vit_tiny_patch16_224", num_classes=5, img_size=64),
        ["patch_embed.proj"],
        64,
    ),
    "torchvision resnet18": (lambda: torchvision.models.resnet18(num_classes=5), ["layer1.0.conv1", "layer3.0.conv1"], 64),
    "torchvision mobilenet_v2": (lambda: torchvision.models.mobilenet_v2(num_classes=5), ["features.2.conv.1.0"], 64),
}


def build(name):
    """Return a model that is as alive as a trained one, the places for its terms, and an input."""
    torch.manual_seed(0)
    make, where, size = MODELS[name]
    model, x = make(), torch.randn(2, 3, size, size)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0  # take the statistics of the one batch below; a small one would scale up noise
    for p in model.parameters():
        if p.ndim == 1:
            p.data += 0.1 * torch.rand_like(p)  # scales that begin at zero hide what they scale
    with torch.no_grad():
        model.train()(torch.randn(16, 3, size, size))
    return model.eval(), where, x


def with_random_terms(name):
    """Return a model whose terms matter, and an input."""
    model, where, x = build(name)
    add_quadratic(model, where)
    for _, term in quadratic_terms(model):
        nn.init.normal_(term.weight, std=0.1 / term.in_features)
    return model, x


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("kwargs", [{}, {"rank": 4}, {"norm": "batch"}])
def test_a_model_computes_the_same_to_the_bit_and_keeps_its_keys(name, kwargs):
    model, where, x = build(name)
    before, keys = model(x), list(model.state_dict())
    assert add_quadratic(model, where, **kwargs) is model
    assert torch.equal(model(x), before)
    assert [key for key in model.state_dict() if ".quadratic." not in key] == keys
    assert torch.equal(remove_quadratic(model)(x), before)
    assert list(model.state_dict()) == keys
    assert list(quadratic_terms(model)) == []


@pytest.mark.parametrize("name", MODELS)
def test_gradients_reach_each_term_on_the_first_step(name):
    model, where, x = build(name)
    add_quadratic(model, where).train()
    model(x).square().sum().backward()
    assert all(term.weight.grad.abs().sum() > 0 for _, term in quadratic_terms(model))


@pytest.mark.parametrize("name", MODELS)
def test_a_trained_term_survives_the_state_dict_and_compiles(name):
    model, x = with_random_terms(name)
    trained = model(x)
    assert (trained - build(name)[0](x)).abs().max() > 1e-4 * trained.abs().max()
    again, where, _ = build(name)
    add_quadratic(again, where).load_state_dict(model.state_dict())
    assert torch.equal(again(x), trained)
    compiled = torch.compile(again, fullgraph=True, backend="eager")(x)  # by the op, where eager takes the plain form
    assert (compiled - trained).abs().max() < 1e-4 * trained.abs().max()


@pytest.mark.parametrize("name", MODELS)
def test_export_and_onnx_agree(name, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    model, x = with_random_terms(name)
    expected = model(x).detach()
    exported = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    assert not any("ditcnn" in str(node.target) for node in exported.graph.nodes)
    torch.testing.assert_close(exported.module()(x[:1]), expected[:1], rtol=1e-3, atol=1e-5 * expected.abs().max().item())
    torch.onnx.export(exported, verbose=False).save(tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    (result,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    truth = model.double()(x.double()).detach()
    by_onnx, by_torch = ((y.double() - truth).abs().max() / truth.abs().max() for y in (torch.from_numpy(result), expected))
    # 1e-5, or where rounding alone takes a deep network with random scales further from the truth, as far as that
    assert by_onnx < max(1e-5, 2 * by_torch.item())


def test_globs_names_and_functions_choose_the_same_convolutions():
    by_glob = add_quadratic(timm.create_model("resnet18"), "layer3.*.conv?")
    by_name = add_quadratic(timm.create_model("resnet18"), [f"layer3.{b}.conv{c}" for b in (0, 1) for c in (1, 2)])
    by_function = add_quadratic(
        timm.create_model("resnet18"), lambda name, conv: name.startswith("layer3") and conv.kernel_size == (3, 3)
    )
    names = [[name for name, _ in quadratic_terms(model)] for model in (by_glob, by_name, by_function)]
    assert names[0] == names[1] == names[2] == [f"layer3.{b}.conv{c}.quadratic" for b in (0, 1) for c in (1, 2)]


def test_a_convolution_used_twice_keeps_being_one():
    conv = nn.Conv2d(3, 3, 1)
    model = nn.Sequential(conv, nn.ReLU(), conv)
    add_quadratic(model, "0")
    assert model[0] is model[2]
    assert len(list(quadratic_terms(model))) == 1


def test_optimisers_built_before_keep_their_parameters():
    model = nn.Sequential(nn.Conv2d(3, 3, 1))
    parameters = list(model.parameters())
    add_quadratic(model, "0")
    assert all(any(p is q for q in model.parameters()) for p in parameters)
    remove_quadratic(model)
    assert [id(p) for p in model.parameters()] == [id(p) for p in parameters]


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("layer1.0.conv3", r"no convolution is called layer1.0.conv3. Did you mean layer1\.\d.conv"),
        (["layer1.0.conv1", "layer9.*"], r"layer9\.\*.*candidate_places"),
        ("layer1.0", r"layer1.0 is a BasicBlock.*Inside it are layer1.0.conv1, layer1.0.conv2"),
        ("fc", "fc is a Linear; the term goes beside an nn.Conv2d"),
        ([], "names no place"),
        (lambda name, module: False, "none of the model's 20 convolutions"),
    ],
)
def test_a_place_that_is_not_there_is_told_and_nothing_changes(where, message):
    model = timm.create_model("resnet18")
    with pytest.raises(ValueError, match=message):
        add_quadratic(model, where)
    assert list(quadratic_terms(model)) == []


def test_places_that_cannot_take_a_term_are_told():
    model = add_quadratic(timm.create_model("resnet18"), "layer1.0.conv1")
    with pytest.raises(ValueError, match=r"layer1.0.conv1 has a quadratic term already"):
        add_quadratic(model, "layer1.*.conv1")
    assert len(list(quadratic_terms(model))) == 1
    with pytest.raises(ValueError, match="wrapped in OptimizedModule"):
        add_quadratic(torch.compile(model), "*conv2")
    parametrize.register_parametrization(model.layer2[0].conv1, "weight", nn.Identity())
    with pytest.raises(ValueError, match=r"layer2.0.conv1 is parametrized"):
        add_quadratic(model, "layer2.0.conv1")
    parametrize.register_parametrization(model.layer1[0].conv1, "weight", nn.Identity())
    with pytest.raises(ValueError, match=r"layer1.0.conv1 is parametrized"):
        remove_quadratic(model)
    with pytest.raises(ValueError, match="one size of map"):
        add_quadratic(model, "layer3.0.conv1", norm="spatial")


def test_candidate_places_are_priced_by_the_formula_and_leave_the_model_alone():
    model = timm.create_model("resnet18").train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    places = {place.name: place for place in candidate_places(model, torch.randn(2, 3, 64, 64))}
    assert model.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert len(places) == 20
    strided = places["layer2.0.conv1"]
    assert (strided.in_channels, strided.out_channels, strided.map_size) == (64, 128, (8, 8))
    assert (strided.parameters, strided.macs) == (128 * 64**2, 8 * 8 * 128 * 64**2)
    add_quadratic(model, "layer2.0.conv1")
    assert sum(p.numel() for _, t in quadratic_terms(model) for p in t.parameters()) == strided.parameters
    left = candidate_places(model, (torch.randn(1, 3, 64, 64),), rank=3)
    assert "layer2.0.conv1" not in [place.name for place in left]
    assert left[0].parameters == 3 * (3 + 64)


def test_rate_and_scale_multiply_in_the_groups():
    model = add_quadratic(timm.create_model("resnet18"), "layer1.0.conv1", rate=3.0, norm="batch")
    add_quadratic(model, "layer2.0.conv1")
    groups = parameter_groups(model, 0.1, term_lr_scale=10)
    assert [group["lr_scale"] for group in scaled_groups(model, 10)] == [1.0, 30.0, 10.0]
    assert [group["lr"] for group in groups] == pytest.approx([0.1, 3.0, 1.0])
    assert [len(group["params"]) for group in groups[1:]] == [3, 1]
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
    optimizer = torch.optim.SGD(groups, lr=0.1)
    scheduler = CosineLRScheduler(optimizer, t_initial=10)
    scheduler.step(5)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.05, 1.5, 0.5])  # timm's scales them alike


def test_vectors_terms_are_found_and_taken_out_too():
    net = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), ditcnn.QuadraticLinear(8, 4))
    x, plain = torch.randn(5, 3), nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 4))
    plain.load_state_dict({key: value for key, value in net.state_dict().items() if "quadratic" not in key})
    nn.init.ones_(net[2].quadratic.weight)
    assert [name for name, _ in quadratic_terms(net)] == ["2.quadratic"]
    assert torch.equal(remove_quadratic(net)(x), plain(x))
    assert list(net.state_dict()) == list(plain.state_dict())


class Doubled(ditcnn.QuadraticConv2d):
    def forward(self, x):
        return 2 * super().forward(x)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (ditcnn.QuadraticForm2d(3, 3), "1 is a form of its own"),
        (Doubled(3, 3, 1), "1 is a Doubled, a class derived from one with a term"),
    ],
)
def test_a_term_that_cannot_be_taken_out_is_told_and_nothing_changes(module, message):
    net = nn.Sequential(ditcnn.QuadraticConv2d(3, 3, 1), module)
    keys = list(net.state_dict())
    with pytest.raises(ValueError, match=message):
        remove_quadratic(net)
    assert list(net.state_dict()) == keys


@pytest.mark.parametrize("wrapper", ["DistributedDataParallel", "FSDPModule", "DDP"])
def test_what_a_wrapper_would_not_synchronise_is_refused_inside_a_model_too(wrapper):
    wrapped = type(wrapper, (nn.Sequential,), {})(nn.Conv2d(3, 3, 1))
    for model, place in ((wrapped, "0"), (nn.Sequential(wrapped), "0.0")):
        with pytest.raises(ValueError, match=f"wrapped in {wrapper}"):
            add_quadratic(model, place)
        with pytest.raises(ValueError, match=f"wrapped in {wrapper}"):
            remove_quadratic(model)


def test_a_shared_convolution_answers_to_each_of_its_names_and_gets_one_term():
    for where in ("1", ["0", "1"], "*", lambda name, conv: True):
        conv = nn.Conv2d(3, 3, 1)
        net = add_quadratic(nn.Sequential(conv, conv), where)
        assert len(list(quadratic_terms(net))) == 1


def test_no_place_is_changed_where_one_cannot_have_the_pixelwise_term():
    net = nn.Sequential(nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 8, 3))
    with pytest.raises(ValueError, match="depthwise"):
        add_quadratic(net, ["0", "1"], pixelwise=True)
    assert not list(quadratic_terms(net))


def test_a_block_that_fuses_its_convolutions_is_warned_of():
    with pytest.warns(UserWarning, match=r"RepVggBlock\.reparameterize\(\) would fuse .* the term beside conv_kxk\.conv"):
        add_quadratic(timm.create_model("repvgg_a0"), "stages.0.0.conv_kxk.conv")


def test_resetting_parameters_sets_the_term_to_zero():
    for layer in (ditcnn.QuadraticConv2d(3, 3, 1), add_quadratic(nn.Sequential(nn.Conv2d(3, 3, 1)), "0")[0]):
        nn.init.ones_(layer.quadratic.weight)
        layer.reset_parameters()
        assert not layer.quadratic.weight.any()


def test_two_processes_train_as_one(tmp_path):
    """DDP over gloo, each process half of the batch: the term's gradient is that of the whole batch."""
    torch.multiprocessing.spawn(_train_half, (str(tmp_path / "store"), str(tmp_path)), nprocs=2)
    halves = [torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1)]
    model, x = _ddp_model_and_input()
    model(x).square().mean().backward()
    (term,) = (term for _, term in quadratic_terms(model))
    assert torch.equal(*halves)
    torch.testing.assert_close(halves[0], term.weight.grad)


def _ddp_model_and_input():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 1)).double()
    return add_quadratic(model, "0"), torch.randn(4, 3, 5, 5, dtype=torch.float64)


def _train_half(rank, store, folder):
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    model, x = _ddp_model_and_input()
    wrapped = nn.parallel.DistributedDataParallel(model)
    wrapped(x[2 * rank : 2 * rank + 2]).square().mean().backward()
    torch.save(model[0].quadratic.weight.grad, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_saved_and_loaded_by_timm_as_a_model_of_its_own(tmp_path):
    kwargs = dict(base="resnet18", where=["layer2.*.conv1"], rank=4, norm="batch", rate=2.0)
    model = timm.create_model("with_quadratic", num_classes=5, **kwargs).eval()
    for _, term in quadratic_terms(model):
        nn.init.normal_(term.v)
    timm.models.save_for_hf(model, tmp_path, safe_serialization=True)
    again = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    x = torch.randn(1, 3, 64, 64)
    assert torch.equal(again(x), model(x))
    assert {term.rate for _, term in quadratic_terms(again)} == {2.0}
    assert timm.create_model(f"local-dir:{tmp_path}", pretrained=True, num_classes=3)(x).shape == (1, 3)
    fresh = timm.create_model(f"local-dir:{tmp_path}").eval()
    assert not torch.equal(fresh(x), model(x))


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"where": ["conv1"]}, "base must name the plain model"),
        ({"base": "resnet18"}, "names no place"),
        ({"base": "resnet18", "where": ["conv1"], "features_only": True}, "features_only renames modules"),
    ],
)
def test_with_quadratic_tells_what_is_missing(kwargs, message):
    with pytest.raises(ValueError, match=message):
        timm.create_model("with_quadratic", **kwargs)


def test_removal_from_a_dit_resnet_leaves_the_function_without_the_term():
    model = timm.create_model("dit_resnet20").double().eval()
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point():
            tensor.data += 0.1 * torch.rand_like(tensor)
    with torch.no_grad():
        model.layer2[0].quadratic.weight.zero_()
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    silent = model(x)
    assert torch.equal(remove_quadratic(model)(x), silent)
    timm.create_model("resnet20").double().load_state_dict(model.state_dict())
    assert ditcnn.remove_quadratic(model) is model
