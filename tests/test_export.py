"""``ditcnn export``: files that other programs read."""

import os

import pytest
import timm
import torch
from safetensors.torch import load_file
from timm.models import save_for_hf
from torch import nn

from ditcnn.cli import main


@pytest.fixture
def model():
    """A small model in ./trained, as a run leaves it."""
    torch.manual_seed(0)
    model = timm.create_model("dit_resnet20", in_chans=1, img_size=8, num_classes=3).eval()
    nn.init.normal_(model.layer2[0].quadratic.weight)
    data = {"input_size": (1, 8, 8), "mean": (0.5,), "std": (0.5,)}
    save_for_hf(model, "trained", safe_serialization=True, data_config=data)
    return model


def export(form, file, *more):
    return main(["export", "trained", "--format", form, "--out", file, *more])


def test_onnx_gives_the_models_outputs_for_any_batch(model):
    onnxruntime = pytest.importorskip("onnxruntime")
    assert export("onnx", "model.onnx") == 0
    session = onnxruntime.InferenceSession("model.onnx")
    assert [value.shape[0] for value in (*session.get_inputs(), *session.get_outputs())] == ["batch", "batch"]
    for batch in (1, 5):
        x = torch.randn(batch, 1, 8, 8)
        (logits,) = session.run(["logits"], {"images": x.numpy()})
        torch.testing.assert_close(torch.from_numpy(logits), model(x), rtol=1e-4, atol=1e-5)


def test_torch_export_gives_the_models_outputs_for_any_batch(model):
    assert export("torch-export", "model.pt2") == 0
    loaded = torch.export.load("model.pt2").module()
    for batch in (1, 5):
        x = torch.randn(batch, 1, 8, 8)
        torch.testing.assert_close(loaded(x), model(x), rtol=1e-4, atol=1e-5)


def test_safetensors_are_the_state_dict_and_nothing_is_overwritten(model, capsys):
    assert export("safetensors", "model.safetensors") == 0
    state = load_file("model.safetensors")
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())
    assert export("safetensors", "model.safetensors") == 2
    assert "--force" in capsys.readouterr().err
    assert export("safetensors", "model.safetensors", "--force") == 0


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600)])
def test_a_file_has_the_mode_that_the_umask_leaves(model, mask, mode):
    before = os.umask(mask)
    try:
        assert export("safetensors", "model.safetensors") == 0
    finally:
        os.umask(before)
    assert os.stat("model.safetensors").st_mode & 0o777 == mode


def test_a_device_is_not_replaced(model, capsys):
    os.mkfifo("pipe")
    for place in ("pipe", "/dev/null", "."):
        assert export("safetensors", place, "--force") == 2
        assert "--out must name a file" in capsys.readouterr().err


def test_fresh_weights_are_named_as_such(capsys):
    assert main(["export", "dit_resnet20", "--format", "safetensors", "--out", "fresh.safetensors"]) == 0
    assert "no trained weights; writing fresh ones" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["absent", "--format", "onnx", "--out", "x.onnx"], "no such folder, and no model"),
        (["resnet20", "--format", "onnx", "--out", "absent/x.onnx"], "absent: no such folder"),
        (["resnet20", "--format", "tflite", "--out", "x"], "--format"),
    ],
)
def test_bad_input_is_told_in_one_line(arguments, message, capsys):
    assert main(["export", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
