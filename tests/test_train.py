"""A run from end to end, on a few small images, in this process."""

import json
import math
import re
import signal
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file

from ditcnn.cli import main
from ditcnn.cli.flags import with_flags
from ditcnn.data import open_data
from ditcnn.data.split import hold_out
from ditcnn.models import CifarResNet
from ditcnn.train import RunFolder, Trainer, evaluate, load_model
from ditcnn.train.metrics import read_metrics
from ditcnn.train.storage import load_state
from tests.conftest import FILES_OF_A_RUN, with_infinite_gradients, write_idx

FAST = ["--epochs", "2", "--batch-size", "16", "--warmup-epochs", "0", "--lr", "0.01"]


def train(*arguments, out="run", status=0):
    assert main(["train", "digits", *FAST, "--data", "idx", "--out", out, *arguments]) == status
    return RunFolder(Path(out))


@pytest.fixture(autouse=True)
def _images():
    write_idx(Path("idx"), train=120, test=30)


def without_seconds(folder):
    return [{k: v for k, v in line.items() if k != "seconds"} for line in read_metrics(folder.metrics)]


def same_tensors(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_a_run_leaves_all_its_files(capsys):
    folder = train()
    assert {path.name.split(".out.")[0] for path in folder.path.iterdir()} == FILES_OF_A_RUN
    output = capsys.readouterr().out
    result = read_metrics(folder.metrics)[-1]
    assert f"test accuracy   {result['test_top1']:.2f}%" in output
    assert "train cifar10 " in output
    assert folder.curves.read_bytes()[:4] == b"\x89PNG"
    (environment,) = json.loads(folder.environment.read_bytes())["launches"]
    assert torch.__version__.startswith(environment["packages"]["torch"])
    assert environment["threads"] == torch.get_num_threads()


def test_a_line_that_was_being_written_when_the_process_died_is_not_read(tmp_path):
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text('{"epoch": 1}\n{"epoch": 2, "tra')
    assert read_metrics(metrics) == [{"epoch": 1}]


def test_metrics_have_a_line_an_epoch_and_a_last_one():
    lines = read_metrics(train().metrics)
    assert [line["epoch"] for line in lines] == [1, 2, 2]
    assert all(math.isfinite(line["train_loss"]) and 0 <= line["holdout_top1"] <= 100 for line in lines[:2])
    assert lines[2]["selected_on"] == "holdout"
    best = max(lines[:2], key=lambda line: (line["holdout_top1"], -line["holdout_loss"]))
    assert (lines[2]["selected_epoch"], lines[2]["holdout_top1"]) == (best["epoch"], best["holdout_top1"])


def test_of_epochs_equal_in_accuracy_the_one_of_lowest_loss_is_chosen(monkeypatch):
    scores = iter([(50.0, 0.9), (50.0, 0.7), (50.0, 0.8), (40.0, 0.1)])

    def fixed(trainer, part, models, views=1):
        top1, loss = next(scores, (60.0, 0.5))
        return {f"{name}_{quantity}": value for name in models for quantity, value in (("top1", top1), ("loss", loss))}

    monkeypatch.setattr(Trainer, "_evaluate", fixed)
    assert read_metrics(train("--epochs", "4").metrics)[-1]["selected_epoch"] == 2


def test_the_exported_model_is_the_best_on_held_out_images_and_timm_reads_it():
    folder = train("--epochs", "4", "--lr", "0.1")
    lines = read_metrics(folder.metrics)
    trained = load_model(folder.path)
    data = open_data(folder.path.parent / "idx", "digits")
    scores = {"mean": trained.mean, "std": trained.std, "device": torch.device("cpu")}
    best = max(line["holdout_top1"] for line in lines[:-1])
    assert evaluate(trained.model, hold_out(data.train)[1], **scores)["top1"] == pytest.approx(best)
    assert evaluate(trained.model, data.test, **scores)["loss"] == pytest.approx(lines[-1]["test_loss"], rel=1e-4)
    x = torch.randn(2, 1, 8, 8)
    again = timm.create_model("local-dir:run", pretrained=True).eval()
    assert torch.equal(again(x), trained.model(x))
    fewer = timm.create_model("local-dir:run", pretrained=True, num_classes=2)
    assert fewer(x).shape == (2, 2)


def test_arguments_that_change_the_function_are_in_the_exported_config():
    train("--model-kwargs", "spatial_transpose=True", "quadratic_norm=instance")
    model = timm.create_model("local-dir:run", pretrained=True)
    assert model.layer2[0].quadratic.spatial_transpose
    assert isinstance(model.layer2[0].quadratic.norm, torch.nn.GroupNorm)


def test_a_run_starts_from_another_runs_weights_and_resumes_without_them():
    plain = train("--model", "resnet20", out="plain")
    with_term = ["--model", "with_quadratic", "--model-kwargs", "base=resnet20", 'where=["layer2.0.conv2"]']
    still = ["--lr", "1e-30", "--weight-decay", "0", "--term-lr-scale", "0", "--epochs", "1"]
    folder = train(*with_term, *still, "--pretrained", "plain", out="more")
    before, after = load_file(plain.weights), load_state(folder.last)["model"]
    kept = [key for key in before if "running" not in key and "num_batches" not in key]
    assert all(torch.equal(before[key], after[key]) for key in kept)
    assert after["layer2.0.conv2.quadratic.weight"].eq(0).all()
    again = train(*with_term, *still, "--pretrained", "more", out="again")  # a model of the same kind, its term kept
    assert load_state(again.last)["model"].keys() == after.keys()
    plain.weights.unlink()
    train(*with_term, *still, "--pretrained", "plain", "--resume", out="more")


def test_a_folder_of_the_same_model_gives_its_arguments_too():
    train("--model-kwargs", "spatial_transpose=True", "quadratic_norm=instance", "--epochs", "1", out="first")
    train("--pretrained", "first", "--epochs", "1", out="second")
    model = timm.create_model("local-dir:second", pretrained=True)
    assert model.layer2[0].quadratic.spatial_transpose
    assert isinstance(model.layer2[0].quadratic.norm, torch.nn.GroupNorm)


def test_a_run_from_a_folder_of_the_same_model_resumes_as_that_model(monkeypatch):
    train("--model-kwargs", "spatial_transpose=True", "--epochs", "1", out="first")
    flags = ("--pretrained", "first", "--epochs", "2")
    train(*flags, out="whole")
    close = Trainer._close_epoch

    def stopped(trainer):
        close(trainer)
        trainer.stop.signum = signal.SIGTERM

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "_close_epoch", stopped)
        train(*flags, out="parts", status=143)
    train("--resume", out="parts")
    whole, parts = (timm.create_model(f"local-dir:{out}", pretrained=True) for out in ("whole", "parts"))
    assert parts.layer2[0].quadratic.spatial_transpose
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), parts.state_dict().values(), strict=True))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("idx", "idx holds no trained model"),
        ("nowhere", "no such folder, and no model of timm's registry"),
        ("resnet20", "there are no weights of that name"),
    ],
)
def test_weights_that_are_not_there_are_told(source, message, capsys):
    train("--pretrained", source, out="new", status=2)
    assert message in capsys.readouterr().err


def test_weights_of_another_network_are_refused(capsys):
    train("--model", "resnet20", "--epochs", "1", out="plain")
    train("--model", "resnet32", "--pretrained", "plain", out="deep", status=2)
    assert "Missing key" in capsys.readouterr().err


def test_the_same_seed_gives_the_same_bits_and_another_one_does_not():
    first, second, other = train(out="a"), train(out="b"), train("--seed", "1", out="c")
    assert same_tensors(load_state(first.last)["model"], load_state(second.last)["model"])
    assert without_seconds(first) == without_seconds(second)
    assert not same_tensors(load_state(first.last)["model"], load_state(other.last)["model"])


def test_config_repeats_a_run_to_the_bit():
    first = train("--seed", "5", "--model", "resnet20")
    assert main(["train", "--config", "run/config.yaml", "--out", "again"]) == 0
    again = RunFolder(first.path.parent / "again")
    assert same_tensors(load_state(first.last)["model"], load_state(again.last)["model"])
    assert first.config.read_text() == again.config.read_text()


def test_flags_go_on_top_of_a_config():
    train()
    assert main(["train", "--config", "run/config.yaml", "--seed", "3", "--epochs", "1", "--out", "again"]) == 0
    text = Path("again/config.yaml").read_text()
    assert "seed: 3\n" in text
    assert "epochs: 1\n" in text


def test_paper_protocol_trains_on_all_and_says_that_it_selects_on_test(capsys):
    folder = train("--protocol", "paper", "--epochs", "3")
    lines = read_metrics(folder.metrics)
    assert "120 training images, 30 test" in capsys.readouterr().err.replace("\n", " ")
    assert all("test_top1" in line and "holdout_top1" not in line for line in lines)
    assert lines[-1]["selected_on"] == "test"
    assert lines[-1]["best_test_top1"] == max(line["test_top1"] for line in lines[:-1])
    assert same_tensors(load_file(folder.weights), load_state(folder.last)["model"])  # the last epoch's model


@pytest.mark.parametrize(
    ("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
def test_precision_is_that_of_the_forward_pass_and_weights_stay_float32(precision, dtype, monkeypatch):
    seen = set()
    head = CifarResNet.forward_head

    def watch(model, x, pre_logits=False):
        logits = head(model, x, pre_logits)
        seen.add(logits.dtype if model.training else None)
        return logits

    monkeypatch.setattr(CifarResNet, "forward_head", watch)
    folder = train("--precision", precision)
    assert seen - {None} == {dtype}
    lines = read_metrics(folder.metrics)
    assert lines[1]["train_loss"] < lines[0]["train_loss"]
    assert load_file(folder.weights)["conv1.weight"].dtype == torch.float32


def test_in_fp16_a_run_whose_gradients_stay_infinite_ends(monkeypatch, capsys):
    with_infinite_gradients(monkeypatch)
    monkeypatch.setattr("ditcnn.train.trainer.MOST_SKIPPED_IN_A_ROW", 3)
    train("--precision", "fp16", status=1)
    assert "the gradient was not finite 3 times in a row in epoch 1, step 3" in capsys.readouterr().err


def test_in_fp16_an_epoch_says_how_many_updates_were_passed_over(monkeypatch):
    with_infinite_gradients(monkeypatch, steps=2)
    lines = read_metrics(train("--precision", "fp16").metrics)
    assert [line["skipped_steps"] for line in lines[:2]] == [2, 0]


@pytest.mark.parametrize(("flag", "expected"), [("--channels-last", True), ("--no-channels-last", False)])
def test_channels_last_is_the_layout_of_the_maps(flag, expected, monkeypatch):
    seen = set()
    features = CifarResNet.forward_features

    def watch(model, x):
        y = features(model, x)
        if model.training:
            seen.add(y.is_contiguous(memory_format=torch.channels_last))
        return y

    monkeypatch.setattr(CifarResNet, "forward_features", watch)
    train(flag, "--epochs", "1")
    assert expected in seen


def test_compile_trains_the_compiled_model(monkeypatch):
    compiled = []

    def compile_eagerly(model):
        compiled.append(model)
        return torch._dynamo.optimize("aot_eager")(model)

    monkeypatch.setattr(torch, "compile", compile_eagerly)
    plain, fast = train("--epochs", "1", out="plain"), train("--epochs", "1", "--compile", out="fast")
    assert len(compiled) == 1
    a, b = load_file(plain.weights), load_file(fast.weights)
    assert a.keys() == b.keys()
    torch.testing.assert_close(a["conv1.weight"], b["conv1.weight"], rtol=1e-2, atol=1e-3)


def test_a_model_that_does_not_compile_is_told(monkeypatch, capsys):
    def fails(graph, inputs):
        raise RuntimeError("no compiler")

    monkeypatch.setattr(torch, "compile", torch._dynamo.optimize(fails))
    train("--compile", status=1)
    assert "torch.compile failed" in capsys.readouterr().err.splitlines()[-1]


def test_a_last_batch_of_one_image_that_cannot_train_is_told(capsys):
    write_idx(Path("tiny"), train=130, test=30, size=3)  # 117 to train on
    arguments = ["train", "digits", "--data", "tiny", "--epochs", "1", "--model", "resnet20"]
    assert main([*arguments, "--batch-size", "29", "--out", "run"]) == 2
    assert "leave a batch of one" in capsys.readouterr().err.splitlines()[-1]
    assert not Path("run").exists()
    assert main([*arguments, "--batch-size", "30", "--out", "run"]) == 0


def test_the_default_recipe_reaches_97_percent_on_the_test_digits():
    assert main(["train", "--out", "run"]) == 0
    assert read_metrics(Path("run/metrics.jsonl"))[-1]["test_top1"] >= 97


def test_any_model_of_timm_trains():
    assert read_metrics(train("--model", "test_resnet", "--epochs", "1").metrics)[-1]["final"]


def test_a_finished_run_is_told_again_without_training(capsys):
    folder = train()
    before = folder.last.read_bytes(), folder.metrics.read_bytes()
    first = capsys.readouterr().out
    train("--resume")
    assert (folder.last.read_bytes(), folder.metrics.read_bytes()) == before
    assert capsys.readouterr().out == first


def test_resume_begins_a_run_that_is_not_there():
    assert read_metrics(train("--resume").metrics)[-1]["final"]


def test_default_folders_are_numbered_and_resume_takes_the_newest():
    for _ in range(2):
        assert main(["train", "digits", *FAST, "--epochs", "1", "--data", "idx", "--model", "resnet20"]) == 0
    assert sorted(p.name for p in Path("runs").iterdir()) == ["digits-resnet20-1", "digits-resnet20-2"]
    assert main(["train", "digits", "--model", "resnet20", "--resume"]) == 0
    assert len(list(Path("runs").iterdir())) == 2


def test_epochs_alone_say_what_they_move(capsys):
    main(["train", "digits", "--epochs", "3", "--data", "idx", "--out", "run"])
    assert "schedule: 3 epochs (the recipe's 60 rescaled), warm-up of 0.2 epochs" in capsys.readouterr().err


def test_a_loss_that_is_not_finite_ends_the_run(capsys):
    folder = train("--lr", "1e30", "--epochs", "5", status=1)
    message = capsys.readouterr().err.splitlines()[-1]
    assert re.search(r"became (nan|inf) in epoch 1, step \d, at learning rate \S+e\+\d\d", message)
    assert "last good checkpoint" in message
    assert with_flags(folder.failure()) in message
    assert not folder.last.exists() or all(p.isfinite().all() for p in load_state(folder.last)["model"].values())
    assert "Traceback" not in message


def test_a_run_that_fails_later_names_the_last_good_checkpoint_and_may_go_on_from_it(capsys, monkeypatch):
    rate = Trainer._lr
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_lr", lambda trainer, step=None: 1e30 if trainer.progress.epoch else rate(trainer, step))
        folder = train(status=1)
    assert "in epoch 2" in (message := capsys.readouterr().err.splitlines()[-1])
    assert "the last good checkpoint: run/last.pt" in message
    assert "in epoch 2" in folder.failure()
    state = load_state(folder.last)
    assert state["progress"]["epoch"] == 1
    assert all(p.isfinite().all() for p in state["model"].values())
    train("--resume")
    assert folder.failure() is None


def test_the_checkpoint_keeps_the_last_epoch_and_the_export_the_best():
    folder = train("--epochs", "4", "--lr", "0.1")
    final, before = load_state(folder.last), load_state(folder.previous)
    assert same_tensors(final["model"], before["model"])
    assert final["progress"]["finished"]
    assert not before["progress"]["finished"]


def test_normalisation_of_grey_images_is_computed_for_a_recipe_of_colour_images(capsys):
    assert main(["train", "cifar10-warmup", "--data", "idx", "--epochs", "1", "--out", "run", "--batch-size", "16"]) == 0
    assert "normalising with the training images'" in capsys.readouterr().err
    assert len(load_model(Path("run")).mean) == 1


def test_the_gradients_norm_is_limited_where_the_recipe_says_so():
    one_step = ["--epochs", "1", "--batch-size", "256", "--lr", "1", "--momentum", "0", "--weight-decay", "0"]
    still = train(*one_step, "--clip-grad", "1e-9", "--model", "resnet20", out="still")
    moved = train(*one_step, "--model", "resnet20", out="moved")
    start = timm_start()
    for folder, largest in ((still, 1.1e-9), (moved, None)):
        state = load_state(folder.last)["model"]
        step = math.sqrt(sum(float((state[name] - p).square().sum()) for name, p in start.items()))
        assert step <= largest if largest else step > 1e-3


def timm_start():
    """The weights that a run of seed 0 begins with."""
    torch.manual_seed(0)
    model = timm.create_model("resnet20", num_classes=3, in_chans=1)
    return {name: p.detach().double() for name, p in model.named_parameters()}


def test_a_run_from_before_a_setting_was_there_goes_on_with_its_default():
    folder = train()
    state = load_state(folder.last)
    del state["recipe"]["clip_grad"]
    torch.save(state, folder.last)
    train("--resume")
    train("--resume", "--clip-grad", "1", status=2)
