"""Dit-ConvNeXt: timm's ConvNeXt but for the term, as timm's users expect it."""

import copy
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from timm.models import save_for_hf
from timm.optim import param_groups_layer_decay
from torch import nn

from ditcnn import quadratic_terms

SIZES = ["atto", "femto", "pico", "nano", "tiny", "small", "base"]
V1, V2 = ([f"dit_{family}_{size}" for size in SIZES] for family in ("convnext", "convnextv2"))
ATTO = "dit_convnext_atto"
COMMIT = "0" * 40


def on_meta(name, **kwargs):
    with torch.device("meta"):
        return timm.create_model(name, **kwargs)


def trained(name=ATTO, **kwargs):
    """Return a model whose term matters."""
    torch.manual_seed(0)
    model = timm.create_model(name, **kwargs).eval()
    for p in model.parameters():
        if p.ndim == 1:
            p.data += 0.5 * torch.rand_like(p)
    for _, term in quadratic_terms(model):
        nn.init.normal_(term.weight, std=0.1)
    return model


@pytest.mark.parametrize("name", [*V1, *V2])
def test_all_but_the_term_is_timms_network(name):
    ours = {key: value.shape for key, value in on_meta(name).state_dict().items()}
    (key,) = (key for key in ours if "quadratic" in key)
    outputs, channels, _ = ours.pop(key)
    assert ours == {key: value.shape for key, value in on_meta(name.removeprefix("dit_")).state_dict().items()}
    block = 1 if name.endswith(("atto", "femto", "pico", "nano")) else 2  # the last, or the published third
    assert key == f"stages.0.blocks.{block}.conv_dw.quadratic.weight"
    assert outputs == channels == ours["stem.0.weight"][0]


@pytest.mark.parametrize(
    ("size", "count"), [("tiny", 29_473_864), ("small", 50_223_688 + 884_736), ("base", 88_591_464 + 2_097_152)]
)
def test_parameter_counts_are_the_papers(size, count):
    assert sum(p.numel() for p in on_meta(f"dit_convnext_{size}").parameters()) == count


@pytest.mark.parametrize("name", [ATTO, "dit_convnextv2_atto"])
def test_plain_weights_give_the_plain_outputs_to_the_bit(name, tmp_path):
    plain = trained(name.removeprefix("dit_"))
    torch.save({"state_dict": plain.state_dict()}, tmp_path / "plain.pth")
    dit = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=dict(file=str(tmp_path / "plain.pth"))).eval()
    x = torch.randn(2, 3, 64, 64)
    assert torch.equal(dit(x), plain(x))


def test_a_part_of_the_term_is_refused(tmp_path):
    model = trained(quadratic_norm="batch")
    state = model.state_dict()
    del state["stages.0.blocks.1.conv_dw.quadratic.weight"]
    torch.save(state, tmp_path / "part.pth")
    with pytest.raises(RuntimeError, match="Missing key"):
        timm.create_model(
            ATTO, pretrained=True, pretrained_cfg_overlay=dict(file=str(tmp_path / "part.pth")), quadratic_norm="batch"
        )


def test_tags_name_plain_weights_and_the_bare_name_has_none():
    assert timm.get_pretrained_cfg("dit_convnext_tiny.convnext_fb_in1k").hf_hub_id == "timm/convnext_tiny.fb_in1k"
    assert timm.get_pretrained_cfg("dit_convnextv2_atto.convnextv2_fcmae_ft_in1k").hf_hub_id
    assert timm.create_model(ATTO).pretrained_cfg["num_classes"] == 1000
    for name in ("dit_convnext_tiny", "dit_convnextv2_base"):
        assert not timm.is_model_pretrained(name)
    with pytest.raises(
        RuntimeError, match=r"no pretrained weights exist for dit_convnext_atto.*dit_convnext_atto.convnext_d2_in1k"
    ):
        timm.create_model(ATTO, pretrained=True)


def test_weights_without_a_heads_norm_load_by_their_tag_as_they_do_in_timm(tmp_path):
    plain = timm.create_model("convnextv2_atto", num_classes=0)
    state = {key: value for key, value in plain.state_dict().items() if not key.startswith("head.")}
    torch.save(state, tmp_path / "plain.pth")
    overlay = dict(file=str(tmp_path / "plain.pth"))
    name = "dit_convnextv2_atto.convnextv2_fcmae"
    dit = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay)
    assert torch.equal(dit.stem[0].weight, plain.stem[0].weight)


def test_timms_own_names_are_untouched():
    code = "import timm; b = timm.list_pretrained()\n"
    code += "a = {n: timm.get_pretrained_cfg(n) for n in timm.list_models('convnext*')}\n"
    code += "import ditcnn; assert a == {n: timm.get_pretrained_cfg(n) for n in timm.list_models('convnext*')}\n"
    code += "assert [n for n in timm.list_pretrained() if not n.startswith('dit_')] == b\n"
    code += "assert type(timm.create_model('convnext_atto').stages[0].blocks[1].conv_dw).__name__ == 'Conv2d'\n"
    subprocess.run([sys.executable, "-W", "error::UserWarning", "-c", code], check=True)


def test_term_is_added_before_the_blocks_norm():
    model = trained(conv_mlp=False)
    block, x = model.stages[0].blocks[1], torch.randn(2, 40, 9, 12)
    q = torch.einsum("nihw,oij,njhw->nohw", x, block.conv_dw.quadratic.weight, x)
    y = (nn.functional.conv2d(x, block.conv_dw.weight, block.conv_dw.bias, padding=3, groups=40) + q).permute(0, 2, 3, 1)
    y = block.mlp(block.norm(y)).permute(0, 3, 1, 2) * block.gamma[:, None, None] + x
    torch.testing.assert_close(block(x), y, rtol=1e-4, atol=1e-4)


def test_features_and_intermediates_are_the_networks_own():
    model, x = trained(), torch.randn(2, 3, 64, 64)
    last, maps = model.forward_intermediates(x)
    assert [m.shape[1] for m in maps] == [40, 80, 160, 320]
    features = timm.create_model(ATTO, features_only=True).eval()
    assert features.feature_info.channels() == [40, 80, 160, 320]
    renamed = {k.replace("stem.", "stem_").replace("stages.", "stages_"): v for k, v in model.state_dict().items()}
    missing, _ = features.load_state_dict(renamed, strict=False)
    assert not missing
    assert torch.equal(features(x)[0], maps[0])
    assert torch.equal(last, model.forward_features(x))


@pytest.mark.parametrize(
    ("kwargs", "shape"),
    [({"output_stride": 16}, (2, 320, 4, 4)), ({"in_chans": 4}, (2, 320, 2, 2)), ({"conv_mlp": False}, (2, 320, 2, 2))],
)
def test_timms_arguments_reach_the_network(kwargs, shape):
    model = timm.create_model(ATTO, **kwargs).eval()
    assert model.forward_features(torch.randn(2, kwargs.get("in_chans", 3), 64, 64)).shape == shape


def test_places_rank_and_norm_can_be_chosen():
    model = timm.create_model(ATTO, quadratic_at=["stages.1.blocks.0.conv_dw"], quadratic_rank=4, quadratic_norm="batch")
    assert [(name, term.rank) for name, term in quadratic_terms(model)] == [("stages.1.blocks.0.conv_dw.quadratic", 4)]


def test_classifier_checkpointing_layer_groups_and_memory_format():
    model, x = trained(), torch.randn(2, 3, 64, 64)
    expected = model(x)
    torch.testing.assert_close(
        model.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last)), expected, rtol=1e-3, atol=1e-3
    )
    groups = param_groups_layer_decay(model, layer_decay=0.7)
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
    model.train()(x).sum().backward()
    plain = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    model.set_grad_checkpointing()
    model(x).sum().backward()
    assert all(
        torch.allclose(a, p.grad, rtol=1e-3, atol=1e-4 * a.abs().max().item())
        for a, p in zip(plain, model.parameters(), strict=True)
    )
    model.reset_classifier(7)
    assert model(x).shape == (2, 7)


def test_model_survives_copy_pickle_and_meta():
    model, x = trained(), torch.randn(1, 3, 64, 64)
    assert torch.equal(copy.deepcopy(model)(x), model(x))
    assert torch.equal(pickle.loads(pickle.dumps(model))(x), model(x))
    empty = on_meta(ATTO).eval()
    empty.load_state_dict(model.state_dict(), assign=True)
    assert torch.equal(empty(x), model(x))


def test_hub_names_load_from_the_offline_cache(tmp_path):
    """A repository of ours under hf-hub:, and plain weights under their tag; both as the hub's client caches them."""
    ours, plain = trained(num_classes=7, quadratic_norm="batch"), trained("convnext_atto.d2_in1k")
    for repository, model in (("me/dit", ours), ("timm/convnext_atto.d2_in1k", plain)):
        cached = tmp_path / f"models--{repository.replace('/', '--')}"
        for folder in (cached / "refs", cached / "snapshots" / COMMIT):
            folder.mkdir(parents=True)
        (cached / "refs" / "main").write_text(COMMIT)
        save_for_hf(model, cached / "snapshots" / COMMIT, safe_serialization=True)
    x = torch.randn(1, 3, 64, 64)
    torch.save({"x": x, "ours": ours(x), "plain": plain(x)}, tmp_path / "expected.pt")
    code = f"""
import timm, torch, ditcnn
expected = torch.load({str(tmp_path / "expected.pt")!r})
hub = timm.create_model("hf-hub:me/dit", pretrained=True).eval()
assert torch.equal(hub(expected["x"]), expected["ours"])
tagged = timm.create_model("dit_convnext_atto.convnext_d2_in1k", pretrained=True).eval()
assert torch.equal(tagged(expected["x"]), expected["plain"])
assert timm.create_model("dit_convnext_atto.convnext_d2_in1k", pretrained=True, num_classes=3)(expected["x"]).shape == (1, 3)
"""
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(tmp_path), "OMP_NUM_THREADS": "1"}  # as here
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, cwd=Path(tmp_path))
