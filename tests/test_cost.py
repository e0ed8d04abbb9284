"""``ditcnn info`` and what it computes."""

import json

import pytest
import timm
import torch
from torch import nn

from ditcnn import add_quadratic
from ditcnn.cli import main
from ditcnn.cost import cost_of, terms_and_twin

# by hand: two 3x3 convolutions on 6x6 maps, 2 -> 4 -> 3 channels, without padding
CONV_MACS = 4 * 4 * 4 * 2 * 9 + 2 * 2 * 3 * 4 * 9


def net():
    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 3))


def test_macs_and_parameters_worked_by_hand():
    cost = cost_of(add_quadratic(net(), "2"), (2, 6, 6), 5)
    assert cost.parameters == (4 * 2 * 9 + 4) + (3 * 4 * 9 + 3) + 3 * 4 * 4
    assert cost.macs == CONV_MACS + 2 * 2 * 3 * 16
    assert cost.macs_executed == CONV_MACS + 2 * 2 * 3 * 10
    wide = add_quadratic(nn.Sequential(nn.Conv2d(16, 4, 3)), "0")  # on a large map the op is taken, which has no parts
    assert cost_of(wide, (16, 40, 40), 2).macs == 38 * 38 * 4 * (16 * 9 + 16 * 16)
    low = cost_of(add_quadratic(net(), "2", rank=2), (2, 6, 6), 5)
    assert low.macs == low.macs_executed == CONV_MACS + 2 * 2 * 2 * (4 + 3)


def test_activations_worked_by_hand():
    kept = 4 * 5 * (2 * 6 * 6 + 4 * 4 * 4)  # the images, and the first map after its ReLU, float32
    cost = cost_of(net(), (2, 6, 6), 5)
    assert cost.activations_mib * 2**20 == kept
    assert cost.weights_mib * 2**20 == 4 * cost.parameters
    assert cost.step_mib == pytest.approx(4 * cost.weights_mib + cost.activations_mib)


def test_images_a_second_and_days_worked_by_hand():
    cost = cost_of(add_quadratic(net(), "2"), (2, 6, 6), 5)
    macs = 4 * 4 * 4 * 2 * 9 + 2 * 2 * 3 * 4 * 9 + 2 * 2 * 3 * 10  # 1152 + 432 + 120, the term with its symmetry used
    assert cost.training_images_per_s(6 * macs / 1e12) == pytest.approx(1.0)  # three passes, two operations a MAC
    assert cost.training_images_per_s(2.0) == pytest.approx(2e12 / (6 * 1704))
    assert cost.imagenet_days(6 * macs / 1e12) == pytest.approx(300 * 1_281_167 / 86_400)  # 4,448.5 days at one a second


def test_info_tells_the_training_time_at_a_speed(capsys):
    assert main(["info", "dit_resnet20", "--tflops", "100", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    for cost in (figures, figures["plain_twin"]):
        training = cost["training"]
        assert training["images_per_s"] == pytest.approx(100e12 / (6 * cost["macs_executed"]))
        assert training["days"] * 86_400 * training["images_per_s"] == pytest.approx(300 * 1_281_167)
    assert main(["info", "resnet20", "--tflops", "0.5"]) == 0
    out = capsys.readouterr().out
    assert "images a second in training, at 0.5 TFLOP/s" in out
    assert "days for 300 epochs of 1,281,167 images" in out
    assert main(["info", "resnet20", "--json"]) == 0
    assert "training" not in json.loads(capsys.readouterr().out)


def test_meta_and_cpu_agree_and_the_model_is_left_alone():
    with torch.device("meta"):
        meta = timm.create_model("dit_resnet20")
    real = timm.create_model("dit_resnet20").eval()
    before = {key: value.clone() for key, value in real.state_dict().items()}
    assert cost_of(meta, (3, 32, 32), 4) == cost_of(real, (3, 32, 32), 4)
    assert not any(module.training for module in real.modules())
    assert all(torch.equal(value, before[key]) for key, value in real.state_dict().items())


def test_the_plain_twin_is_the_plain_network():
    model = timm.create_model("dit_resnet20")
    terms, twin = terms_and_twin(model)
    assert terms == 1
    assert cost_of(twin, (3, 32, 32), 4) == cost_of(timm.create_model("resnet20"), (3, 32, 32), 4)
    assert model.layer2[0].quadratic is not None


def test_dit_convnext_tiny_has_the_papers_figures(capsys):
    assert main(["info", "dit_convnext_tiny", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert (figures["parameters"], figures["plain_twin"]["parameters"]) == (29_473_864, 28_589_128)
    assert (round(figures["macs"] / 1e9, 2), round(figures["plain_twin"]["macs"] / 1e9, 2)) == (7.23, 4.46)


def test_info_prints_a_table_for_a_size_and_a_batch(capsys):
    arguments = ["info", "with_quadratic", "--image-size", "64", "--batch-size", "2", "--model-kwargs"]
    assert main([*arguments, "base=resnet18", "where=['layer1.0.conv1']"]) == 0
    out = capsys.readouterr().out
    assert "images 3x64x64, 1 quadratic term" in out
    assert "batch of 2" in out
    assert f"{11_689_512 + 64**3:,}" in out
    assert main(["info", "with_quadratic", "--model-kwargs", "base=resnet20", "where=['layer2.0.conv2']", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["image_shape"] == [3, 32, 32]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["dit_convnext_tini"], "Did you mean dit_convnext_tiny"),
        (["resnet18", "--image-size", "0"], "--image-size must be above 0"),
        (["resnet18", "--tflops", "0"], "--tflops must be above 0"),
        (["resnet18", "--tflops", "nan"], "--tflops must be above 0"),
        (["resnet18", "--tflops", "inf"], "--tflops must be above 0"),
        (["resnet18", "--model-kwargs", "nonsense=1"], "nonsense"),
        (["resnet18", "--image-size", "32", "--batch-size", "1"], "cannot train on 1 images"),
    ],
)
def test_bad_input_is_told_in_one_line(arguments, message, capsys):
    assert main(["info", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
