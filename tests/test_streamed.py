"""A run on images streamed from disk, in this process."""

import json
import math
import re
import shutil
import signal
from pathlib import Path

import pytest
import timm
import torch
import yaml
from safetensors.torch import load_file

from ditcnn.cli import main
from ditcnn.cli.flags import with_flags
from ditcnn.data.stream import open_source
from ditcnn.models.dit_convnext import DitConvNeXt
from ditcnn.train import RunFolder, Trainer
from ditcnn.train.build import images_of
from ditcnn.train.metrics import read_metrics
from ditcnn.train.storage import load_state
from tests.conftest import FILES_OF_A_RUN, state_of, with_infinite_gradients, write_class_folders
from tests.test_resume import assert_equal, records

# 4 steps an epoch, of 3 micro-batches of 4.
SETTINGS = [
    "imagenet", "--data", "images", "--img-size", "32", "--epochs", "2", "--warmup-epochs", "0", "--precision", "fp32",
    "--model-kwargs", "depths=(1,1,1,1)", "dims=(8,8,8,8)", "--global-batch", "12", "--batch-size", "4", "--workers", "0",
]  # fmt: skip
STILL = ["--mixup", "0", "--cutmix", "0", "--reprob", "0", "--drop-path", "0"]


def train(*arguments, out="run", status=0):
    assert main(["train", *SETTINGS, *arguments, "--out", out]) == status
    return RunFolder(Path(out))


@pytest.fixture(autouse=True)
def _images():
    write_class_folders(Path("images"), classes=("n01", "n02", "n03"), train=17, test=5, part="val")


def last_line(capsys):
    return with_flags(capsys.readouterr().err.splitlines()[-1])


def test_a_run_leaves_all_its_files_and_timm_reads_its_model(capsys):
    folder = train()
    assert {path.name.split(".out.")[0] for path in folder.path.iterdir()} == FILES_OF_A_RUN
    printed = capsys.readouterr()
    assert "51 training images, 15 val, 3 classes; 4 steps an epoch, each of 12 images = 1 process x 3 x 4" in printed.err
    assert "selected on val, so no measure of the model" in printed.out
    lines = read_metrics(folder.metrics)
    assert [line["epoch"] for line in lines] == [1, 2, 2]
    assert all(math.isfinite(line["train_loss"] + line["val_loss"] + line["val_ema_loss"]) for line in lines[:2])
    assert lines[2]["best_val_top1"] == max(line["val_top1"] for line in lines[:2])
    assert lines[2]["best_val_of"] == "raw"
    assert json.loads(folder.environment.read_bytes())["launches"][0]["processes"] == 1
    model = timm.create_model("local-dir:run", pretrained=True)
    config = timm.data.resolve_model_data_config(model)
    assert (config["input_size"], config["crop_pct"], config["interpolation"]) == ((3, 32, 32), 0.95, "bicubic")
    assert json.loads(Path("run/config.json").read_bytes())["label_names"] == ["n01", "n02", "n03"]


def test_val_counts_each_image_once_and_scores_are_those_of_timms_transform():
    folder = train("--epochs", "1", *STILL)
    model = timm.create_model("local-dir:run", pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
    val = open_source("images", "val")
    images, labels = zip(*(val.read(i) for i in range(len(val))), strict=True)
    with torch.no_grad():
        logits = model(torch.stack([transform(image) for image in images]))
    loss = torch.nn.functional.cross_entropy(logits, torch.tensor(labels))
    assert read_metrics(folder.metrics)[0]["val_loss"] == pytest.approx(loss.item(), rel=1e-5)


def weights_after(out, *arguments):
    return load_state(train("--epochs", "1", "--opt", "momentum", "--lr", "0.1", *STILL, *arguments, out=out).last)["model"]


def test_accumulation_gives_the_weights_of_the_whole_batch():
    whole = weights_after("whole", "--batch-size", "12")
    for size in ("1", "6"):
        for key, value in weights_after(f"by{size}", "--batch-size", size).items():
            torch.testing.assert_close(value, whole[key], rtol=1e-4, atol=1e-6)


def test_clip_grad_bounds_the_norm_of_the_whole_step(monkeypatch):
    norms = []
    clip = torch.nn.utils.clip_grad_norm_
    monkeypatch.setattr("torch.nn.utils.clip_grad_norm_", lambda p, most: norms.append((clip(p, most), most)))
    train("--clip-grad", "0.25", "--epochs", "1")
    assert len(norms) == 4
    assert {most for _, most in norms} == {0.25}


@pytest.mark.parametrize("seen_in", ["mix", "erase"])
def test_a_step_mixes_and_erases_by_its_place_in_the_run(seen_in, monkeypatch):
    draws = []

    def watch(self, *arguments):
        draws.append(arguments[-2:])
        return original(self, *arguments)

    kind = {"mix": "Mix", "erase": "Erase"}[seen_in]
    owner = getattr(__import__("ditcnn.data.stream", fromlist=[kind]), kind)
    original = owner.__call__
    monkeypatch.setattr(owner, "__call__", watch)
    train()
    assert draws == [(step, micro_batch) for step in range(8) for micro_batch in range(3)]


def test_the_average_is_the_model_once_it_is_old_enough_and_until_then_a_warning_says_so(capsys):
    young = train("--epochs", "1", "--ema-decay", "0.5", out="young")  # 6 updates needed, 4 done
    assert "4 updates are too few for a moving average of decay 0.5, which needs 6" in capsys.readouterr().err
    old = train("--epochs", "2", "--ema-decay", "0.5", out="old")
    assert "too few" not in capsys.readouterr().err
    for folder, part in ((young, "model"), (old, "ema")):
        state, exported = load_state(folder.last), load_file(folder.weights)
        assert all(torch.equal(exported[key], state[part][key]) for key in exported)
        assert not all(torch.equal(state["model"][key], state["ema"][key]) for key in exported)
    assert [read_metrics(folder.metrics)[-1]["model"] for folder in (young, old)] == ["raw", "ema"]


def test_the_average_is_the_decaying_sum_of_the_weights():
    folder = train("--epochs", "1", "--ema-decay", "0", out="none")
    assert "ema" not in load_state(folder.last)
    assert "val_ema_top1" not in read_metrics(folder.metrics)[0]
    torch.manual_seed(0)
    model = timm.create_model("dit_convnext_tiny", depths=(1, 1, 1, 1), dims=(8, 8, 8, 8), num_classes=3, drop_path_rate=0.1)
    start = model.state_dict()
    step = ["--global-batch", "51", "--batch-size", "17", "--mixup", "0", "--cutmix", "0", "--epochs", "1"]  # one step
    state = load_state(train(*step, "--ema-decay", "0.75", out="one").last)
    for key, value in state["ema"].items():
        torch.testing.assert_close(value, 0.75 * start[key] + 0.25 * state["model"][key])


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("flags", [[], ["--precision", "fp16", "--ema-decay", "0"], ["--workers", "2"]])
def test_stopped_in_the_middle_of_an_epoch_a_run_resumes_to_the_bit(flags, monkeypatch):
    whole = train(*flags, out="whole")
    step, steps = Trainer._train_step, []

    def interrupted(trainer, batches):
        steps.append(0)
        if len(steps) == 7:  # in the second epoch
            raise Interrupted
        return step(trainer, batches)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_train_step", interrupted)
        train(*flags, "--checkpoint-minutes", "0", out="resumed", status=1)
    assert load_state(Path("resumed/last.pt"))["progress"]["step"] == 2
    resumed = train(*flags, "--resume", out="resumed")
    assert_equal(state_of(resumed.last), state_of(whole.last))
    assert records(resumed) == records(whole)


def test_a_signal_during_validation_saves_first_and_the_resumed_run_has_the_same_bits(monkeypatch, capsys):
    whole = train(out="whole")
    forward = DitConvNeXt.forward

    def signalled(model, x):
        if not model.training and len(x) > 1:
            signal.raise_signal(signal.SIGTERM)
            monkeypatch.setattr(DitConvNeXt, "forward", forward)
        return forward(model, x)

    monkeypatch.setattr(DitConvNeXt, "forward", signalled)
    folder = train(out="stopped", status=143)
    assert "stopped by SIGTERM, checkpoint saved" in last_line(capsys)
    assert load_state(folder.last)["progress"]["step"] == 4
    assert_equal(state_of(train("--resume", out="stopped").last), state_of(whole.last))


def test_an_image_that_cannot_be_read_stops_the_run_or_is_skipped_and_counted(capsys):
    bad = Path("images/train/n02/3.png")
    bad.write_bytes(bad.read_bytes()[:50])
    train(status=2)
    assert "n02/3.png" in last_line(capsys)
    lines = read_metrics(train("--skip-bad-images", "--global-batch", "48", "--batch-size", "12", out="skipped").metrics)
    assert [line["val_bad_images"] for line in lines[:2]] == [0, 0]
    assert [line["bad_images"] for line in lines[:2]] in (
        [1, 1],
        [0, 1],
        [1, 0],
    )  # 3 of 51 images are left over in each epoch
    assert capsys.readouterr().err.count("skipped: images/train/n02/3.png") == 1


def test_bad_images_of_val_are_counted_and_all_of_them_bad_are_an_error(capsys):
    paths = sorted(Path("images/val").glob("*/*"))
    paths[3].write_bytes(b"")
    lines = read_metrics(train("--skip-bad-images", out="one").metrics)
    assert [line["val_bad_images"] for line in lines[:2]] == [1, 1]
    for path in paths:
        path.write_bytes(b"")
    train("--skip-bad-images", "--global-batch", "48", "--batch-size", "12", status=2)
    assert "images/val: no image of 15 can be decoded" in last_line(capsys)


def without_a_finite_loss(monkeypatch, *bad):
    """Make the losses of the given forward passes of training infinite."""
    forward, passes = DitConvNeXt.forward, []

    def overflowing(model, x):
        if model.training:
            passes.append(0)
        logits = forward(model, x)
        return logits * math.inf if model.training and (not bad or len(passes) in bad) else logits

    monkeypatch.setattr(DitConvNeXt, "forward", overflowing)


def test_in_fp16_the_scaler_passes_over_a_step_that_overflows(monkeypatch):
    without_a_finite_loss(monkeypatch, 3, 5, 6)  # in the first two of 4 steps of 3 micro-batches
    folder = train("--precision", "fp16", "--epochs", "1")
    line = read_metrics(folder.metrics)[0]
    assert line["skipped_steps"] == 2
    assert math.isfinite(line["train_loss"])
    assert load_state(folder.last)["scaler"]["scale"] == 65536 / 4


def test_a_loss_that_stays_infinite_ends_the_run_in_fp16_too(monkeypatch, capsys):
    without_a_finite_loss(monkeypatch)
    train("--precision", "fp32", "--epochs", "1", status=1, out="fp32")
    assert "the loss became nan in epoch 1, step 1" in last_line(capsys)
    monkeypatch.setattr("ditcnn.train.trainer.MOST_SKIPPED_IN_A_ROW", 3)
    train("--precision", "fp16", "--epochs", "1", status=1, out="fp16")
    assert "the loss was not finite 3 times in a row in epoch 1, step 3" in last_line(capsys)


@pytest.mark.parametrize("minutes", [0, 600])
def test_a_nan_that_comes_with_a_finite_loss_reaches_no_checkpoint(minutes, monkeypatch, capsys):
    forward, passes = DitConvNeXt.forward, []

    def without_a_gradient(model, x):
        passes.append(model.training)
        logits = forward(model, x)
        if sum(passes) == 8:  # in the third of 4 steps
            logits.register_hook(lambda gradient: gradient * math.nan)
        return logits

    monkeypatch.setattr(DitConvNeXt, "forward", without_a_gradient)
    folder = train("--epochs", "1", "--checkpoint-minutes", str(minutes), status=1)
    assert re.search("a weight became infinite or NaN|the loss became nan", last_line(capsys))
    assert folder.last.exists() == (minutes == 0)
    if folder.last.exists():
        state = state_of(folder.last)
        assert all(value.isfinite().all() for part in ("model", "ema") for value in state[part].values())
        assert state["progress"]["step"] == 2


def test_updates_passed_over_for_their_gradients_alone_count_too(monkeypatch, capsys):
    with_infinite_gradients(monkeypatch)
    monkeypatch.setattr("ditcnn.train.trainer.MOST_SKIPPED_IN_A_ROW", 3)
    train("--precision", "fp16", "--epochs", "1", status=1, out="fp16")
    assert "the gradient was not finite 3 times in a row in epoch 1, step 3" in last_line(capsys)


def test_a_setting_that_is_switched_off_stays_off_on_resume_and_in_a_repeated_run():
    off = ("--auto-augment", "None", "--epochs", "1")
    folder = train(*off)
    train(*off, "--resume")
    assert main(["train", "--out", "run", "--resume"]) == 0
    assert main(["train", "--config", str(folder.config), "--out", "again"]) == 0
    assert RunFolder(Path("again")).config.read_text() == folder.config.read_text()
    assert "auto_augment: null" in folder.config.read_text()


def test_the_best_epoch_of_the_average_is_not_one_of_the_weights(monkeypatch):
    scores = iter([90.0, 50.0, 60.0])  # the average counts from the second epoch on

    def evaluated(trainer, source, models, views=1):
        top1 = next(scores)
        return {"val_loss": 1.0, "val_top1": 99.0 if top1 < 90 else top1, "val_ema_loss": 1.0, "val_ema_top1": top1}

    monkeypatch.setattr(Trainer, "_evaluate", evaluated)
    last = read_metrics(train("--epochs", "3", "--ema-decay", "0.5").metrics)[-1]  # mature after 6 of 12 updates
    assert (last["best_val_top1"], last["best_val_epoch"], last["best_val_of"]) == (60.0, 3, "ema")


def test_a_run_that_a_bad_image_stopped_goes_on_without_it():
    bad = Path("images/train/n02/3.png")
    bad.write_bytes(bad.read_bytes()[:50])
    steps = ["--global-batch", "48", "--batch-size", "12"]
    train(*steps, status=2)
    whole = train(*steps, "--skip-bad-images", out="whole")
    resumed = train(*steps, "--resume", "--skip-bad-images")
    assert_equal(load_state(resumed.last)["model"], load_state(whole.last)["model"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--global-batch", "13"], "--global-batch must be a multiple of --batch-size; got 13 and 4"),
        (["--global-batch", "60"], "51 training images are fewer than a batch of 60"),
        (["--warmup-epochs", "2"], "--warmup-epochs must be below --epochs; got 2 of 2"),
        (["--batch-size", "3"], "--batch-size must be even; got 3"),
        (["--crop-padding", "4"], "--scale and --crop-padding both crop: set one of them to None or 0"),
        (["--data", "nowhere"], "nowhere"),
        (["--workers", "-1"], "--workers must not be negative"),
        (["--auto-augment", "nonsense"], "nonsense"),
        (["--pretrained", "resnet20"], "there are no weights of that name"),
    ],
)
def test_what_cannot_be_kept_is_told_with_the_flag_to_change(arguments, message, capsys):
    train(*arguments, status=2)
    assert message in last_line(capsys)
    assert not Path("run").exists()


def test_classes_that_val_lacks_are_a_warning(capsys):
    shutil.rmtree("images/val/n02")
    train("--global-batch", "60", status=2)  # enough to see it
    assert "val has no image of 1 of the 3 classes (n02, ...)" in capsys.readouterr().err


def test_the_papers_protocol_watches_val_as_its_test_images():
    last = read_metrics(train("--protocol", "paper", *STILL).metrics)[-1]
    assert (last["selected_on"], last["selected_epoch"]) == ("test", 2)
    assert last["best_test_top1"] >= last["test_top1"]


def test_imagenet_needs_data_and_finetuning_needs_weights(capsys):
    assert main(["train", "imagenet"]) == 2
    assert "recipe imagenet needs --data" in last_line(capsys)
    assert main(["train", "imagenet-finetune", "--data", "images"]) == 2
    assert "recipe imagenet-finetune needs --pretrained" in last_line(capsys)


def test_finetuning_starts_from_a_plain_runs_weights_with_the_term_at_zero():
    images = ["--mean", "0.25", "0.5", "0.5", "--std", "0.5", "0.25", "0.5", "--interpolation", "bilinear"]
    plain = train("--model", "convnext_tiny", "--epochs", "1", *images, out="plain")
    before = load_file(plain.weights)
    size = SETTINGS.index("--img-size")
    settings = [
        "imagenet-finetune",
        *SETTINGS[1:size],
        *SETTINGS[size + 2 :],
        "--lr",
        "1e-30",
        "--weight-decay",
        "0",
        "--epochs",
        "1",
    ]
    assert main(["train", *settings, "--pretrained", "plain", "--out", "tuned"]) == 0
    after = load_state(Path("tuned/last.pt"))["model"]
    assert all(torch.equal(after[key], value) for key, value in before.items())
    assert after["stages.0.blocks.0.conv_dw.quadratic.weight"].abs().max() < 1e-20
    tuned = yaml.safe_load(Path("tuned/config.yaml").read_text())  # images as the weights know them
    assert (tuned["img_size"], tuned["mean"], tuned["std"]) == (32, [0.25, 0.5, 0.5], [0.5, 0.25, 0.5])
    assert tuned["interpolation"] == "bilinear"
    assert json.loads(Path("tuned/config.json").read_bytes())["pretrained_cfg"]["interpolation"] == "bilinear"
    assert main(["train", *settings, "--pretrained", "plain", "--out", "tuned", "--resume"]) == 0


def test_timms_weights_tell_their_images():
    assert images_of("convnext_tiny.fb_in22k_ft_in1k_384")["img_size"] == 384
    half = (0.5, 0.5, 0.5)
    wanted = {"img_size": 224, "interpolation": "bicubic", "mean": half, "std": half}
    assert images_of("vit_base_patch16_224.augreg_in21k") == wanted


def test_settings_and_data_that_differ_are_refused_on_resume(capsys):
    train("--epochs", "1")
    train("--epochs", "1", "--resume", "--mixup", "0.1", status=2)
    assert "--mixup is 0.8 in run/config.yaml and 0.1 here" in last_line(capsys)
    train("--epochs", "1", "--resume", "--workers", "1")  # decides nothing
    Path("images/val/n01/0.png").unlink()
    train("--epochs", "1", "--resume", status=2)
    assert "was trained on other images" in last_line(capsys)
