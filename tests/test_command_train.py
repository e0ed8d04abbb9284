"""`ditcnn train`: what it prints, and where it writes."""

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from ditcnn.cli import main
from ditcnn.system.display import Display
from ditcnn.train.folder import new_run_folder
from ditcnn.train.inputs import named_data
from tests.conftest import write_class_folders, write_idx

FAST = ["--model", "test_resnet", "--epochs", "1", "--batch-size", "16", "--precision", "fp32"]


def write_photographs(folder, *, count=12, size=(90, 70), parts=("train/", "val/")):
    for part in parts:
        for label, name in enumerate(("cat", "dog")):
            (folder / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = np.full((size[1], size[0] + number, 3), 100 * label + number, np.uint8)
                Image.fromarray(pixels).save(folder / part / name / f"{number}.png")
    return folder


def dry(*arguments):
    return main(["train", *arguments, "--dry-run"])


def test_a_dry_run_writes_nothing_and_prints_settings_counts_and_cost(capsys):
    write_idx(Path("idx"))
    before = set(Path().rglob("*"))
    assert dry("digits", "--data", "idx", *FAST, "--lr", "0.5", "--no-channels-last") == 0
    assert set(Path().rglob("*")) == before
    out = capsys.readouterr().out
    settings = yaml.safe_load(out)
    assert (settings["recipe"], settings["lr"], settings["epochs"], settings["model"]) == ("digits", 0.5, 1, "test_resnet")
    assert settings["channels_last"] is False
    assert settings["warmup_epochs"] == round(4 / 60, 4)
    assert "# 54 training images, 6 holdout, 12 test, 3 classes" in out
    assert re.search(r"# [\d,]+ parameters, [\d.]+ MMACs an image, [\d,]+ MiB in a step of 16; nothing was written", out)


def test_a_dry_run_prints_what_config_takes(capsys):
    write_idx(Path("idx"))
    assert dry("digits", "--data", "idx", *FAST) == 0
    Path("again.yaml").write_text(capsys.readouterr().out)
    assert dry("--config", "again.yaml") == 0
    assert yaml.safe_load(capsys.readouterr().out) == yaml.safe_load(Path("again.yaml").read_text())


def test_runs_that_begin_together_have_folders_of_their_own():
    with ThreadPoolExecutor(8) as pool:
        folders = list(pool.map(lambda _: new_run_folder("digits-dit_resnet20"), range(8)))
    assert sorted(map(str, folders)) == [f"runs/digits-dit_resnet20-{n}" for n in range(1, 9)]
    assert all(folder.is_dir() for folder in folders)


def test_a_tilde_is_the_home_and_relative_data_are_kept_absolute(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    write_idx(tmp_path / "idx")
    assert main(["train", "digits", "--data=~/idx", *FAST, "--out=~/x"]) == 0
    settings = yaml.safe_load((tmp_path / "x" / "config.yaml").read_text())
    assert settings["data"] == str(tmp_path / "idx")
    write_idx(Path("idx"))
    assert main(["train", "digits", "--data", "idx", *FAST, "--out", "y"]) == 0
    assert yaml.safe_load(Path("y/config.yaml").read_text())["data"] == str(Path("idx").absolute())
    assert not Path("~").exists()
    assert named_data("wds/shards") == f"wds/{Path('shards').absolute()}"
    assert named_data("hfds/org/name") == "hfds/org/name"


def test_data_without_a_recipe_are_matched_to_one_that_is_named(capsys):
    write_idx(Path("idx"))
    write_class_folders(Path("colour"), train=20)
    write_photographs(Path("photos"))
    for data, recipe in (("idx", "digits"), ("colour", "cifar10-warmup"), ("photos", "photos")):
        more = ["--img-size", "32", "--workers", "0"] if recipe == "photos" else []
        assert dry("--data", data, *FAST, *more) == 0
        captured = capsys.readouterr()
        assert f"recipe {recipe}, as {data} holds" in captured.err
        assert yaml.safe_load(captured.out)["recipe"] == recipe


def test_data_that_several_recipes_suit_are_refused_with_the_candidates(capsys, monkeypatch):
    monkeypatch.setattr("ditcnn.train.matching.FEW", 3)
    write_photographs(Path("photos"))
    assert dry("--data", "photos", *FAST) == 2
    message = capsys.readouterr().err
    assert all(name in message for name in ("name the recipe, photos", "imagenet ", "imagenet-finetune", "--pretrained"))


def test_photographs_do_not_slip_into_a_recipe_for_small_images(capsys):
    write_photographs(Path("photos"), size=(80, 80))
    assert dry("cifar10", "--data", "photos", *FAST) == 2
    assert "at most 64 a side" in capsys.readouterr().err
    assert dry("cifar10", "--data", "photos", *FAST, "--img-size", "16") == 0


@pytest.mark.parametrize("recipe", ["cifar10-warmup", "photos"])
def test_class_folders_that_stand_alone_are_split_by_hash_and_it_is_said(capsys, recipe):
    write_photographs(Path("plain"), count=42, parts=("",))
    assert dry(recipe, "--data", "plain", *FAST, "--img-size", "16") == 0
    captured = capsys.readouterr()
    assert "hash" in captured.err
    numbers = re.search(r"# (\d+) training images, (\d+) \w+(?:, (\d+) test)?", captured.out)
    assert sum(int(n) for n in numbers.groups() if n) == 84


def test_off_a_terminal_there_is_a_line_now_and_then_without_escape_codes(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr("ditcnn.system.display.SECONDS_A_LINE", 0.0)
    write_idx(Path("idx"))
    assert main(["train", "digits", "--data", "idx", *FAST, "--out", "run"]) == 0
    err = capsys.readouterr().err
    assert "\x1b" not in err
    assert re.search(r"epoch 1/1, loss \d\.\d+, steps 3 of 4, [\d,]+ images/s, \d+ s left\n", err)


def test_lines_off_a_terminal_are_thirty_seconds_apart(capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("ditcnn.system.display.time.monotonic", lambda: now[0])
    display = Display()
    with display.bar(100, 0):
        for _ in range(100):
            now[0] += 1.0
            display.step("epoch 1", 5.0)
    assert capsys.readouterr().err.splitlines() == [
        "epoch 1, steps 30 of 100, 5 images/s, 70 s left",
        "epoch 1, steps 60 of 100, 5 images/s, 40 s left",
        "epoch 1, steps 90 of 100, 5 images/s, 10 s left",
    ]


def test_a_bare_resume_takes_the_newest_run_and_names_it(capsys):
    assert main(["train", "--resume"]) == 2
    assert "there is no run below runs/ to go on with" in capsys.readouterr().err
    write_idx(Path("idx"))
    for _ in range(2):
        assert main(["train", "digits", "--data", "idx", *FAST]) == 0
    capsys.readouterr()
    assert main(["train", "--resume"]) == 0
    captured = capsys.readouterr()
    assert "going on with the newest run, runs/digits-test_resnet-2" in captured.err
    assert "run folder      runs/digits-test_resnet-2" in captured.out
    assert len(list(Path("runs").iterdir())) == 2


@pytest.mark.parametrize("opt", ["adahessian", "fusedadam", "bnbadamw"])
def test_an_optimiser_that_cannot_be_had_is_one_line_and_no_folder(opt, capsys):
    write_idx(Path("idx"))
    assert main(["train", "digits", "--data", "idx", *FAST, "--opt", opt, "--out", "run"]) == 2
    assert f"ditcnn: --opt {opt} cannot train test_resnet on this machine" in capsys.readouterr().err.splitlines()[-1]
    assert not Path("run").exists()
    assert main(["train", "digits", "--data", "idx", *FAST, "--opt", opt]) == 2
    assert not Path("runs").exists()


def test_streamed_batches_of_one_are_one_line_and_no_folder(capsys):
    write_photographs(Path("set"))
    flags = ["imagenet", "--model", "mobilenetv4_conv_small_035", "--data", "set", "--global-batch", "8", "--epochs", "1",
             "--warmup-epochs", "0", "--img-size", "32", "--mixup", "0", "--cutmix", "0", "--ema-decay", "0", "--workers",
             "0", "--drop-path", "0"]  # fmt: skip
    assert main(["train", *flags, "--batch-size", "1", "--out", "o"]) == 2
    assert "leave a batch of one" in capsys.readouterr().err.splitlines()[-1]
    assert not Path("o").exists()
