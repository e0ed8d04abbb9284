"""What torch, timm, torchvision, peft and torchao do with a layer that has a term: right, or an error or a warning."""

import copy
import io
import pickle
import warnings

import pytest
import timm
import torch
import torchvision
from timm.utils import reparameterize_model
from timm.utils.onnx import onnx_export
from torch import nn
from torch.nn.utils import fusion, parametrizations, prune
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.feature_extraction import create_feature_extractor

import ditcnn
from ditcnn import QuadraticConv2d, QuadraticLinear, add_quadratic, quadratic_terms, remove_quadratic
from ditcnn.cost import cost_of, thop_counters
from ditcnn.layers import beside_pixelwise
from ditcnn.models.cifar_resnet import CifarResNet

LOST = "whose quadratic term is lost"


def alive(model):
    """Return a model whose terms matter."""
    for _, term in quadratic_terms(model):
        for p in term.parameters(recurse=False):
            nn.init.normal_(p, std=0.1)
    return model.eval()


def conv():
    torch.manual_seed(0)
    return alive(QuadraticConv2d(3, 4, 3))


def linear():
    torch.manual_seed(0)
    return alive(QuadraticLinear(8, 8))


def in_place():
    torch.manual_seed(0)
    return alive(add_quadratic(nn.Sequential(nn.Conv2d(3, 4, 3)), "0"))[0]


def pixelwise():
    layer = nn.Conv2d(4, 4, 3, groups=4)
    beside_pixelwise(layer)
    return alive(layer)


IMAGES, VECTORS = torch.randn(2, 3, 8, 8), torch.randn(5, 8)
LAYERS = [(conv, IMAGES), (linear, VECTORS), (in_place, IMAGES), (pixelwise, torch.randn(2, 4, 8, 8))]


def relative(a, b):
    return ((a - b).norm() / b.norm()).item()


# torch's encoder, which reads weights on its fast path


def encoder_layer(**kwargs):
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True, **kwargs)
    layer.linear1, layer.linear2 = QuadraticLinear(32, 64), QuadraticLinear(64, 32)
    return alive(layer).train()


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("copied", [lambda x: x, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_an_encoder_layer_evaluates_as_it_trains(norm_first, copied):
    layer, x = copied(encoder_layer(norm_first=norm_first)), torch.randn(2, 5, 32)
    trained = layer(x).detach()
    with torch.no_grad():
        assert relative(layer.eval()(x), trained) < 1e-5
        plain = remove_quadratic(layer)(x)
        assert relative(plain, trained) > 1e-2
        assert not plain.requires_grad
    assert not layer.linear1._forward_pre_hooks  # the fast path is open again


def test_a_whole_encoder_with_padding_evaluates_as_it_trains():
    encoder = nn.TransformerEncoder(encoder_layer(), 2)
    x, padding = torch.randn(3, 6, 32), torch.arange(6) >= torch.tensor([[6], [4], [1]])
    trained = encoder(x, src_key_padding_mask=padding).detach()
    with torch.no_grad():
        evaluated = encoder.eval()(x, src_key_padding_mask=padding)  # by way of nested tensors
    assert relative(evaluated[~padding], trained[~padding]) < 1e-5


def test_a_projection_that_attention_multiplies_by_itself_is_refused_or_warned_of():
    with pytest.raises(ValueError, match="MultiheadAttention multiplies by the weights of out_proj itself"):
        nn.MultiheadAttention(8, 2).out_proj = QuadraticLinear(8, 8)
    beit = timm.create_model("beit_base_patch16_224", depth=1, embed_dim=24, num_heads=2).blocks[0].attn
    with pytest.warns(UserWarning, match=r"Attention\.forward\(\) multiplies by the weights of qkv itself"):
        beit.qkv = QuadraticLinear(24, 72)
    swin = torchvision.models.swin_t().features[1][0].attn
    with pytest.warns(UserWarning, match=r"ShiftedWindowAttention\.forward\(\) multiplies by the weights of proj itself"):
        swin.proj = QuadraticLinear(96, 96, rank=2)


def test_a_place_where_the_forward_is_called_is_not_warned_of():
    vit = timm.create_model("vit_tiny_patch16_224", depth=1, embed_dim=24, num_heads=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        vit.blocks[0].attn.proj = QuadraticLinear(24, 24)
        vit.blocks[0].mlp.fc1 = QuadraticLinear(24, 96)
        add_quadratic(vit, "patch_embed.proj", rank=2)
        add_quadratic(timm.create_model("resnet18"), "layer*conv*", rank=2)
        remove_quadratic(vit)


# fusers


@pytest.mark.parametrize(
    ("fuse", "layer", "norm"),
    [
        (fusion.fuse_conv_bn_eval, conv, nn.BatchNorm2d(4)),
        (fusion.fuse_conv_bn_eval, in_place, nn.BatchNorm2d(4)),
        (fusion.fuse_linear_bn_eval, linear, nn.BatchNorm1d(8)),
    ],
)
def test_folding_a_norm_into_a_layer_is_refused_and_changes_nothing(fuse, layer, norm):
    layer = layer()
    before = copy.deepcopy(layer.state_dict())
    with pytest.raises(ValueError, match=f"{fuse.__name__}.. folds a norm into the weights"):
        fuse(layer, norm.eval())
    assert all(torch.equal(value, before[key]) for key, value in layer.state_dict().items())
    fuse(remove_quadratic(layer), norm.eval())


def test_torchs_quantisers_know_the_class_and_leave_the_layer():
    from torch.ao.quantization import fuse_modules, quantize_dynamic
    from torch.fx.experimental.optimization import fuse

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net = nn.Sequential(conv(), nn.BatchNorm2d(4)).eval()
        with pytest.raises((AssertionError, NotImplementedError)):
            fuse_modules(net, [["0", "1"]])
        torch.testing.assert_close(fuse(net)(IMAGES), net(IMAGES))
        layer = nn.Sequential(linear())
        torch.testing.assert_close(quantize_dynamic(layer, {nn.Linear})(VECTORS), layer(VECTORS))


@pytest.mark.parametrize("name", ["repvit_m0_9", "lcnetv2_base", "fastvit_t8", "levit_128s"])
def test_timms_reparameterisers_lose_no_term_without_a_warning(name):
    model = timm.create_model(name)
    model(torch.randn(2, 3, 224, 224))  # levit keeps a table of its map's size
    convs = [place for place, module in model.named_modules() if isinstance(module, nn.Conv2d)]
    silent = []
    for place in convs:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            add_quadratic(model, [place], rank=1)
        if not any("drop the term" in str(warning.message) for warning in told):
            silent.append(place)
    assert len(silent) < len(convs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fused = reparameterize_model(model.eval())
    left = {place for place, _ in quadratic_terms(fused)}
    assert len(left) < len(convs)
    assert {f"{place}.quadratic" for place in silent} <= left


def test_a_layer_that_is_replaced_is_warned_of():
    net = nn.Sequential(conv(), linear())
    for at, plain in ((0, nn.Conv2d(3, 4, 3)), (1, nn.Linear(8, 8))):
        with pytest.warns(UserWarning, match=f"a {type(plain).__name__} takes the place of {at}, a Quadratic.*{LOST}"):
            net[at] = plain
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        net[0] = conv()
        net[0] = conv()
        remove_quadratic(net)
        net[0] = nn.Identity()


# what builds by a layer's class, and what wraps it


@pytest.mark.parametrize(("layer", "_"), LAYERS)
def test_the_class_of_a_layer_with_a_term_builds_the_plain_one(layer, _):
    layer = layer()
    for cls in (type(layer), type(copy.deepcopy(layer)), type(pickle.loads(pickle.dumps(layer)))):
        plain = cls(6, 4, bias=False) if isinstance(layer, nn.Linear) else cls(6, 4, 3, padding=1, bias=False)
        assert type(plain) in (nn.Conv2d, nn.Linear)
        assert list(plain.state_dict()) == ["weight"]
    assert isinstance(layer, type(layer).plain_class)
    assert type(layer).__name__ in ("QuadraticConv2d", "QuadraticLinear", "PixelwiseConv2d")


def test_layers_that_the_user_builds_are_of_the_public_classes():
    assert isinstance(conv(), QuadraticConv2d)
    assert isinstance(in_place(), QuadraticConv2d)
    assert isinstance(linear(), QuadraticLinear)


@pytest.mark.parametrize(("layer", "x"), LAYERS)
@pytest.mark.parametrize(
    "change",
    [
        parametrizations.weight_norm,
        lambda layer: prune.identity(layer, "weight"),
        lambda layer: layer.load_state_dict(layer.state_dict(), assign=True),
    ],
)
def test_parametrisation_pruning_and_assignment_keep_the_term(layer, x, change):
    layer = layer()
    expected = layer(x)
    change(layer)
    torch.testing.assert_close(layer(x), expected)


def adapted(config, linear_too=True):
    """Return a net with terms, adapted and moved from where it began, with the warnings on the way."""
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), QuadraticConv2d(8, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), QuadraticLinear(8, 8)
    )
    alive(net)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        model = peft.get_peft_model(net, config(peft))
    for p in model.parameters():
        if p.requires_grad:
            p.data += 0.3 * torch.randn_like(p)
    return model.eval(), [str(warning.message) for warning in told if "quadratic term" in str(warning.message)]


ADDITIVE = {
    "lora": lambda peft: peft.LoraConfig(r=2, target_modules=["2", "5"]),
    "loha": lambda peft: peft.LoHaConfig(r=2, target_modules=["2", "5"]),
    "lokr": lambda peft: peft.LoKrConfig(r=2, target_modules=["2", "5"]),
    "adalora": lambda peft: peft.AdaLoraConfig(r=2, target_modules=["5"], total_step=100),
    "vera": lambda peft: peft.VeraConfig(r=2, target_modules=["5"]),
    "randlora": lambda peft: peft.RandLoraConfig(r=2, target_modules=["5"]),
    "vblora": lambda peft: peft.VBLoRAConfig(target_modules=["5"], num_vectors=8, vector_length=4, r=2),
    "fourierft": lambda peft: peft.FourierFTConfig(n_frequency=10, target_modules=["5"]),
    "waveft": lambda peft: peft.WaveFTConfig(n_frequency=10, target_modules=["5"]),
    "c3a": lambda peft: peft.C3AConfig(block_size=4, target_modules=["5"]),
    "delora": lambda peft: peft.DeloraConfig(r=2, target_modules=["5"]),
}


@pytest.mark.parametrize("tuner", ADDITIVE)
def test_adapters_that_add_merge_exactly_and_train_no_term(tuner):
    model, told = adapted(ADDITIVE[tuner])
    assert not told
    assert all("quadratic" not in name for name, p in model.named_parameters() if p.requires_grad)
    x = torch.randn(4, 3, 12, 12)
    expected = model(x).detach()
    merged = model.merge_and_unload()
    torch.testing.assert_close(merged(x), expected, rtol=1e-4, atol=1e-5)
    assert len(list(quadratic_terms(merged))) == 2


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (lambda peft: peft.IA3Config(target_modules=["2", "5"], feedforward_modules=[]), "peft's ia3 may lose"),
        (lambda peft: peft.BOFTConfig(boft_block_size=4, target_modules=["5"]), "peft's boft may lose"),
        (lambda peft: peft.LoraConfig(r=2, use_dora=True, target_modules=["2"]), "peft's DoRA scales"),
    ],
)
def test_adapters_that_scale_are_warned_of(config, message):
    _, told = adapted(config)
    assert any(text.startswith(message) for text in told)


def test_torchao_quantises_the_weights_alone_and_a_swap_is_warned_of():
    quantization = pytest.importorskip("torchao.quantization")
    net = nn.Sequential(linear())
    expected = net(VECTORS)
    quantization.quantize_(net, quantization.Int8WeightOnlyConfig())
    assert relative(net(VECTORS), expected) < 0.02
    assert isinstance(net[0], QuadraticLinear)
    from torchao.float8 import convert_to_float8_training

    with pytest.warns(UserWarning, match=LOST):
        convert_to_float8_training(nn.Sequential(QuadraticLinear(16, 16)))


# tracers, exporters, counters


NETS = {
    "dit_resnet20": lambda: timm.create_model("dit_resnet20"),
    "dit_convnext_atto": lambda: timm.create_model("dit_convnext_atto", exportable=True),
    "resnet18": lambda: add_quadratic(torchvision.models.resnet18(), ["layer1.0.conv1", "layer2.0.conv1"], norm="batch"),
    "low rank": lambda: add_quadratic(torchvision.models.resnet18(), ["layer1.0.conv1"], rank=3, norm="instance"),
    "linear": lambda: nn.Sequential(nn.Flatten(), QuadraticLinear(3072, 4, rank=2), QuadraticLinear(4, 40)),
    "pixelwise": lambda: add_quadratic(timm.create_model("convnext_atto"), "stages.0.blocks.1.conv_dw", pixelwise=True),
}
PHOTOS = torch.randn(3, 3, 32, 32)


@pytest.fixture(params=NETS)
def net(request):
    torch.manual_seed(0)
    return alive(NETS[request.param]())


def test_fx_traces_a_net_with_its_terms_as_leaves(net):
    traced = torch.fx.symbolic_trace(net)
    torch.testing.assert_close(traced(PHOTOS), net(PHOTOS))
    called = [node.target for node in traced.graph.nodes if node.op == "call_module"]
    for name, _ in quadratic_terms(net):
        assert name in called or name.removesuffix(".quadratic") in called


def test_fx_traces_the_forms_as_functions():
    def form(x, a, u, v):
        return ditcnn.quadratic_form(x, a, backend="packed") + ditcnn.low_rank_form(x, u, v)

    traced = torch.fx.symbolic_trace(form)
    inputs = (torch.randn(5, 3), torch.randn(4, 3, 3), torch.randn(2, 3), torch.randn(4, 2))
    assert torch.equal(traced(*inputs), form(*inputs))
    assert {ditcnn.quadratic_form, ditcnn.low_rank_form} <= {node.target for node in traced.graph.nodes}


def test_torchvision_extracts_features_at_a_term_and_behind_it():
    torch.manual_seed(0)
    model = alive(add_quadratic(torchvision.models.resnet18(), ["layer1.0.conv1"]))
    seen = []
    model.layer1[0].conv1.register_forward_hook(lambda module, inputs, output: seen.append(output))
    features = create_feature_extractor(model, ["layer1.0.conv1", "fc"])(PHOTOS)
    torch.testing.assert_close(features["fc"], model(PHOTOS))
    torch.testing.assert_close(features["layer1.0.conv1"], seen[-1])
    model = alive(timm.create_model("dit_resnet20"))
    assert create_feature_extractor(model, ["layer2.0.quadratic"])(PHOTOS)["layer2.0.quadratic"].shape == (3, 32, 16, 16)


def test_a_jit_trace_is_of_plain_operations_and_right_for_other_batches(net):
    traced = torch.jit.trace(net, PHOTOS[:2])
    assert "ditcnn::" not in str(traced.inlined_graph)
    file = io.BytesIO()
    torch.jit.save(traced, file)
    file.seek(0)
    torch.testing.assert_close(torch.jit.load(file)(PHOTOS), net(PHOTOS), rtol=1e-4, atol=1e-4)


def test_the_older_onnx_exporter_gives_the_nets_outputs_for_any_batch(net, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    file = str(tmp_path / "model.onnx")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            net, (PHOTOS[:2],), file, dynamo=False, input_names=["x"], output_names=["y"], dynamic_axes={"x": {0: "batch"}}
        )
    session = onnxruntime.InferenceSession(file)
    for photos in (PHOTOS, PHOTOS[:1]):
        (y,) = session.run(None, {"x": photos.numpy()})
        torch.testing.assert_close(torch.from_numpy(y), net(photos), rtol=1e-3, atol=1e-3)


def test_timms_own_exporter_writes_a_file(tmp_path, capfd):
    pytest.importorskip("onnx")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        onnx_export(NETS["dit_convnext_atto"](), str(tmp_path / "model.onnx"), input_size=(3, 64, 64), batch_size=1)
    assert (tmp_path / "model.onnx").stat().st_size > 1e6


@pytest.mark.parametrize("size", [32, 96])  # below and above where the form is made of plain operations
def test_torchs_counter_counts_what_info_says(net, size):
    if isinstance(net, nn.Sequential | CifarResNet) and size != 32:
        pytest.skip("made for one size")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(torch.randn(1, 3, size, size))
    assert counter.get_total_flops() == 2 * cost_of(net, (3, size, size), 2).macs_executed


def test_torchs_counter_counts_three_times_in_training():
    form, x = ditcnn.QuadraticForm(16, 4), torch.randn(10, 16, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        form(x).sum().backward()
    assert counter.get_total_flops() == 3 * 2 * 10 * 4 * 16 * 17 // 2


def test_thop_counts_what_info_says_with_our_counters():
    thop = pytest.importorskip("thop")
    for name in ("dit_resnet20", "resnet18", "low rank", "linear", "pixelwise"):
        net = NETS[name]()
        macs, _ = thop.profile(net, inputs=(PHOTOS[:1],), custom_ops=thop_counters(net), verbose=False)
        twin = remove_quadratic(copy.deepcopy(net))
        plain, _ = thop.profile(twin, inputs=(PHOTOS[:1],), verbose=False)
        shape = (3, 32, 32)
        norm = 2 * 64 * 8 * 8 * (name in ("resnet18", "low rank"))  # thop counts norms, ours those of terms too
        term = cost_of(net, shape, 2).macs_executed - cost_of(twin, shape, 2).macs_executed
        assert abs(macs - plain - term) <= 2 * norm


def test_a_change_of_the_patches_size_is_warned_of():
    vit = timm.create_model("vit_tiny_patch16_224", depth=1, embed_dim=24, num_heads=2)
    add_quadratic(vit, "patch_embed.proj", rank=2)
    with pytest.warns(UserWarning, match=f"a Conv2d takes the place of proj, a QuadraticConv2d, {LOST}"):
        vit.patch_embed.set_input_size(patch_size=8)


def test_a_first_convolution_with_a_term_refuses_weights_for_other_channels(tmp_path):
    kwargs = dict(base="resnet18", where=["conv1"])
    timm.models.save_for_hf(timm.create_model("with_quadratic", **kwargs), tmp_path, safe_serialization=True)
    with pytest.raises(RuntimeError, match=r"size mismatch for conv1\.quadratic\.weight"):
        timm.create_model(f"local-dir:{tmp_path}", pretrained=True, in_chans=1)


def test_a_term_that_fsdp_shards_by_itself_in_bfloat16_has_the_gradient_of_one_in_bfloat16(tmp_path):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    torch.manual_seed(0)
    model = alive(timm.create_model("dit_resnet20"))
    half = copy.deepcopy(model)
    half.layer2[0].quadratic.bfloat16().register_forward_pre_hook(lambda module, inputs: (inputs[0].bfloat16(),))
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        mesh, policy = init_device_mesh("cpu", (1,)), MixedPrecisionPolicy(torch.bfloat16, torch.float32)
        fully_shard(model.layer2[0].quadratic, mesh=mesh, mp_policy=policy)
        fully_shard(model, mesh=mesh)
        for net in (model, half):
            net(PHOTOS).square().mean().backward()
        gradient = model.layer2[0].quadratic.weight.grad.full_tensor()
        assert torch.equal(gradient, half.layer2[0].quadratic.weight.grad.float())
    finally:
        torch.distributed.destroy_process_group()
