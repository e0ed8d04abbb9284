"""``ditcnn convert``: checkpoints of the published code and of plain networks."""

import argparse
import collections
import json
import os
import pathlib

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from ditcnn.cli import main
from ditcnn.convert import read_checkpoint
from tests.conftest import write_cifar10


def randomised(name, **kwargs):
    torch.manual_seed(0)
    model = timm.create_model(name, **kwargs).eval()
    for key, tensor in model.state_dict().items():
        if tensor.is_floating_point() and (tensor.ndim == 1 or "quadratic" in key):
            tensor += 0.1 * torch.randn_like(tensor).abs()
    return model


def published_resnet(model):
    """Return a Dit-ResNet's weights under the keys and in the shapes of the published code."""
    state = {}
    for key, value in model.state_dict().items():
        key = key.replace("layer2.0.quadratic.norm.", "layer2.0.ln_in.").replace(".downsample.", ".shortcut.")
        key = key.replace("fc.", "linear.").replace("layer2.0.quadratic.weight", "layer2.0.quadratic_layer.quadratic")
        state[key] = value.flatten(1) if key.endswith("quadratic_layer.quadratic") else value
    return state


def published_convnext(model):
    return {
        key.replace("conv_dw.quadratic.weight", "quadratic.quadratic"): value.flatten(1) if "quadratic" in key else value
        for key, value in model.state_dict().items()
    }


def convert(checkpoint, model, *more):
    return main(["convert", str(checkpoint), "--model", model, "--out", "out", *more])


def loaded(**kwargs):
    return timm.create_model("local-dir:out", pretrained=True, **kwargs).eval()


@pytest.mark.parametrize("container", [None, "state_dict", "model", "state_dict_ema"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.module."])
def test_published_dit_resnet_keeps_its_swap(tmp_path, capsys, container, prefix):
    model = randomised("dit_resnet20", spatial_transpose=True, num_classes=100)
    state = {prefix + key: value for key, value in published_resnet(model).items()}
    torch.save(state if container is None else {container: state, "epoch": 3}, tmp_path / "net.pth")
    assert convert(tmp_path / "net.pth", "dit_resnet20") == 0
    out = capsys.readouterr().out
    assert "layer2.0.quadratic_layer.quadratic" in out
    assert "spatial_transpose=True" in out
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(loaded()(x), model(x))
    assert loaded(num_classes=7)(x).shape == (2, 7)
    correct = randomised("dit_resnet20", num_classes=100)
    assert not torch.allclose(loaded()(x), correct(x))


def test_published_dit_convnext_has_no_swap(tmp_path):
    model = randomised("dit_convnext_atto", num_classes=5)
    save_file({key: value.contiguous() for key, value in published_convnext(model).items()}, tmp_path / "net.safetensors")
    assert convert(tmp_path / "net.safetensors", "dit_convnext_atto") == 0
    x = torch.randn(1, 3, 64, 64)
    assert torch.equal(loaded()(x), model(x))
    assert loaded(num_classes=3, in_chans=1)(x[:, :1]).shape == (1, 3)


def test_the_maps_size_is_read_from_the_norm(tmp_path):
    model = randomised("dit_resnet20", img_size=28, spatial_transpose=True, in_chans=1)
    torch.save(published_resnet(model), tmp_path / "net.pth")
    assert convert(tmp_path / "net.pth", "dit_resnet20") == 0
    x = torch.randn(2, 1, 28, 28)
    assert torch.equal(loaded()(x), model(x))


@pytest.mark.parametrize("target", ["resnet20", "dit_resnet20"])
def test_plain_resnet_is_read_and_averaging_is_told(tmp_path, capsys, target):
    plain = randomised("resnet20")
    torch.save(plain.state_dict(), tmp_path / "plain.pth")
    assert convert(tmp_path / "plain.pth", target) == 0
    x = torch.randn(2, 3, 32, 32)
    same = torch.equal(loaded()(x), plain(x))
    assert same == (target == "resnet20")
    assert ("quadratic_combine=sum" in capsys.readouterr().out) == (target == "dit_resnet20")


def test_sum_in_place_of_mean_keeps_the_plain_function(tmp_path, capsys):
    plain = randomised("resnet20")
    torch.save(plain.state_dict(), tmp_path / "plain.pth")
    assert convert(tmp_path / "plain.pth", "dit_resnet20", "--model-kwargs", "quadratic_combine=sum") == 0
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(loaded()(x), plain(x))
    assert "averages" not in capsys.readouterr().out


def test_a_checkpoint_of_timms_training_script_is_read(tmp_path):
    plain = randomised("convnext_atto", num_classes=5, in_chans=1)
    arguments = argparse.Namespace(model="convnext_atto", lr=0.1)
    torch.save({"state_dict": plain.state_dict(), "epoch": 3, "args": arguments}, tmp_path / "last.pth.tar")
    assert convert(tmp_path / "last.pth.tar", "dit_convnext_atto") == 0
    x = torch.randn(1, 1, 64, 64)
    assert torch.equal(loaded()(x), plain(x))


@pytest.mark.parametrize("target", ["convnext_atto", "dit_convnext_atto"])
def test_plain_convnext_keeps_its_function(tmp_path, target):
    plain = randomised("convnext_atto", num_classes=5, in_chans=1)
    torch.save({"model": plain.state_dict()}, tmp_path / "plain.pth")
    assert convert(tmp_path / "plain.pth", target) == 0
    x = torch.randn(1, 1, 64, 64)
    assert torch.equal(loaded()(x), plain(x))


def test_what_does_not_fit_is_refused_with_the_first_keys_and_nothing_is_written(tmp_path, capsys):
    torch.save(randomised("resnet32").state_dict(), tmp_path / "deep.pth")
    assert convert(tmp_path / "deep.pth", "resnet20") == 2
    error = capsys.readouterr().err
    assert "does not fit resnet20: layer1.3.conv1.weight has no place in the model" in error
    assert error.count("\n") == 1
    assert " more." in error
    assert not (tmp_path.cwd() / "out").exists()


def test_a_term_does_not_vanish_into_a_plain_network(tmp_path, capsys):
    torch.save(published_resnet(randomised("dit_resnet20")), tmp_path / "dit.pth")
    assert convert(tmp_path / "dit.pth", "resnet20") == 2
    assert "quadratic" in capsys.readouterr().err


class Dangerous:
    def __reduce__(self):
        return print, ("executed",)


def test_bad_files_are_told_in_one_line_and_never_run(tmp_path, capsys):
    (tmp_path / "text.pth").write_text("not a checkpoint")
    torch.save({"state_dict": Dangerous()}, tmp_path / "code.pth")
    torch.save({"epoch": 3}, tmp_path / "empty.pth")
    (tmp_path / "cut.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{")
    for name, message in (
        ("absent.pth", "no such file"),
        ("text.pth", "damaged or is no file of tensors"),
        ("code.pth", "holds no tensors by name"),
        ("empty.pth", "holds no tensors by name"),
        ("cut.safetensors", "cannot be read"),
    ):
        assert convert(tmp_path / name, "resnet20") == 2
        captured = capsys.readouterr()
        assert message in captured.err
        assert captured.err.count("\n") == 1
        assert "executed" not in captured.out


def foreign_objects() -> dict:
    """Return what trainers keep beside the weights."""
    settings = argparse.Namespace(path=pathlib.PurePosixPath("/data"), lr=np.float32(0.1), weights=np.arange(3))
    history = collections.defaultdict(list)
    history["loss"].append(np.float64(0.5))
    return {"args": settings, "history": history, "best": np.float64(91.5), "call": Dangerous()}


CONTAINERS = {
    "net": lambda state: {"net": state},
    "model_state": lambda state: {"model_state": state},
    "model_state_dict": lambda state: {"model_state_dict": state, "optimizer_state_dict": {"state": {}}},
    "nested": lambda state: {"model": {"state_dict": state}},
    "Lightning": lambda state: {"state_dict": {f"model.{key}": value for key, value in state.items()}, "loops": {}},
    "Lightning, compiled": lambda state: {"state_dict": {f"net._orig_mod.{key}": value for key, value in state.items()}},
    "DDP in a member": lambda state: {"module": {f"module.model.{key}": value for key, value in state.items()}},
    "defaultdict": lambda state: collections.defaultdict(int, state),
}


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("zipped", [True, False])
def test_weights_are_found_among_what_trainers_keep_beside_them(tmp_path, container, zipped, capsys):
    state = randomised("resnet20").state_dict()
    whole = CONTAINERS[container](state)
    whole |= {} if container == "defaultdict" else foreign_objects()
    torch.save(whole, tmp_path / "net.pth", _use_new_zipfile_serialization=zipped)
    read = read_checkpoint(tmp_path / "net.pth")
    assert read.keys() == state.keys()
    assert all(torch.equal(read[key], value) for key, value in state.items())
    assert "executed" not in capsys.readouterr().out


def test_a_flipped_bit_and_a_cut_end_are_seen(tmp_path, capsys):
    torch.save(randomised("resnet20").state_dict(), tmp_path / "net.pth")
    content = bytearray((tmp_path / "net.pth").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "flipped.pth").write_bytes(content)
    (tmp_path / "cut.pth").write_bytes(content[: len(content) // 2])
    for name, message in (("flipped.pth", "checksum"), ("cut.pth", "cut off")):
        assert convert(tmp_path / name, "resnet20") == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1


def write_script(path):
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "git lfs pull"),
        (b"\n<!DOCTYPE html><html><body>404</body></html>", "is a web page"),
        (b"", "is empty"),
        (b'{"error": "not found"}', "is JSON"),
        (b"\x1f\x8b\x08rest", "compressed by gzip"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (b"PK\x03\x04rest", "is cut off"),
        (b"\x00" * 100, "is damaged or is no file of tensors"),
        (b"\x80\x02cposix\nsystem\nX\x04\x00\x00\x00true\x85R.", "is refused: it calls posix.system"),
        (write_script, "TorchScript"),
        (lambda path: torch.save(torch.nn.Linear(2, 2), path), "holds a whole torch.nn.modules.linear.Linear"),
        (lambda path: torch.save(torch.zeros(2), path), "one tensor without a name"),
        (os.mkfifo, "is a folder, a pipe or a device"),
        (os.mkdir, "is a folder, a pipe or a device"),
    ],
)
def test_what_lies_in_the_place_of_weights_is_named_for_what_it_is(tmp_path, capsys, content, message):
    path = tmp_path / "net.pth"
    path.write_bytes(content) if isinstance(content, bytes) else content(path)
    assert convert(path, "resnet20") == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert len(error) < 500


def test_safetensors_are_known_by_their_content(tmp_path):
    state = randomised("resnet20").state_dict()
    save_file(state, tmp_path / "net.bin")
    assert read_checkpoint(tmp_path / "net.bin").keys() == state.keys()


def test_an_existing_folder_is_not_overwritten(tmp_path, capsys):
    torch.save(randomised("resnet20").state_dict(), tmp_path / "net.pth")
    assert convert(tmp_path / "net.pth", "resnet20") == 0
    assert convert(tmp_path / "net.pth", "resnet20") == 2
    assert "is there already" in capsys.readouterr().err
    assert convert(tmp_path / "net.pth", "resnet21") == 2
    assert "no model 'resnet21'" in capsys.readouterr().err


def test_a_converted_model_without_class_names_predicts_numbers(tmp_path, capsys):
    from PIL import Image

    torch.save(randomised("resnet20").state_dict(), tmp_path / "net.pth")
    convert(tmp_path / "net.pth", "resnet20")
    Image.new("RGB", (32, 32)).save(tmp_path / "image.png")
    capsys.readouterr()
    assert main(["predict", "out", str(tmp_path / "image.png"), "--format", "csv"]) == 0
    assert capsys.readouterr().out.splitlines()[1].split(",")[2] in set("0123456789")


def test_a_converted_cifar_model_is_tested_on_cifar(tmp_path, capsys):
    torch.save({"state_dict": published_resnet(randomised("dit_resnet20", num_classes=10))}, tmp_path / "published.pth")
    assert convert(tmp_path / "published.pth", "dit_resnet20") == 0
    write_cifar10(tmp_path / "cifar")
    capsys.readouterr()
    assert main(["eval", "out", "--data", str(tmp_path / "cifar"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["images"] == 4
