"""Stopped anywhere and resumed, a run ends with the bits of one that was never stopped: with real processes and signals."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ditcnn.cli import main
from ditcnn.train import RunFolder, Trainer
from ditcnn.train.checkpoint import load_newest
from ditcnn.train.metrics import read_metrics
from ditcnn.train.storage import load_state
from tests.conftest import until, write_idx

# 14 steps an epoch, and a checkpoint every few of them, so that a stop is in the middle of an epoch.
SETTINGS = ["--epochs", "4", "--batch-size", "8", "--lr", "0.02", "--seed", "7", "--checkpoint-minutes", "0.001"]
COMMAND = [sys.executable, "-m", "ditcnn", "train", "digits", *SETTINGS, "--data", "idx"]
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with images and a run that was never stopped."""
    place = tmp_path_factory.mktemp("resume")
    write_idx(place / "idx", train=120, test=30)
    subprocess.run([*COMMAND, "--out", "whole"], cwd=place, env=ENVIRONMENT, check=True, capture_output=True)
    return place


def start(place: Path, out: str, *more: str) -> subprocess.Popen:
    return subprocess.Popen(
        [*COMMAND, "--out", out, *more],
        cwd=place,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def epochs_recorded(folder: RunFolder) -> int:
    return folder.metrics.read_bytes().count(b"\n") if folder.metrics.exists() else 0


def records(folder):
    return [{k: v for k, v in line.items() if k != "seconds"} for line in read_metrics(folder.metrics)]


def assert_equal(a, b):
    """Assert that two nested states are the same, tensors to the bit, but for the time that epochs took."""
    assert type(a) is type(b)
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a.keys() - {"seconds"}:
            assert_equal(a[key], b[key])
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_equal(x, y)
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b)
    else:
        assert a == b


def assert_same_end(place, out):
    whole, resumed = RunFolder(place / "whole"), RunFolder(place / out)
    expected, state = load_state(whole.last), load_state(resumed.last)
    assert_equal(state, expected)
    assert records(resumed) == records(whole)
    assert resumed.weights.read_bytes() == whole.weights.read_bytes()


def test_two_sigkills_in_the_middle_of_epochs_change_nothing(place):
    folder = RunFolder(place / "killed")
    for lines in (1, 2):
        process = start(place, "killed", "--resume")
        until(lambda lines=lines: epochs_recorded(folder) >= lines, process, seconds=120)
        process.kill()
        process.wait()
    assert not load_newest(folder, pytest.fail)[0]["progress"]["finished"]
    # The record may be ahead of the checkpoint: those lines are dropped and written again.
    with folder.metrics.open("a") as file:
        file.write('{"epoch": 99, "train_loss": 0.0}\n')
    assert start(place, "killed", "--resume").wait() == 0
    assert_same_end(place, "killed")


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_a_checkpoint_and_says_how_to_go_on(place, signum, status):
    out = f"stopped{status}"
    folder = RunFolder(place / out)
    process = start(place, out)
    until(lambda: epochs_recorded(folder) >= 2, process, seconds=120)
    process.send_signal(signum)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == status
    assert "stopping after this step" in errors
    assert f"checkpoint saved; go on with: python -m ditcnn train --out {out} --resume" in errors.splitlines()[-1]
    assert "Traceback" not in errors
    assert load_newest(folder, pytest.fail)[0]["progress"]["epoch"] >= 2
    assert start(place, out, "--resume").wait() == 0
    assert_same_end(place, out)
    assert len(json.loads(folder.environment.read_bytes())["launches"]) == 2


def test_a_damaged_newest_checkpoint_falls_back_and_ends_the_same(place):
    folder = RunFolder(place / "damaged")
    process = start(place, "damaged")
    until(lambda: epochs_recorded(folder) >= 1 and folder.previous.exists(), process, seconds=120)
    process.kill()
    process.wait()
    folder.last.write_bytes(folder.last.read_bytes()[:1000])
    process = start(place, "damaged", "--resume")
    _, errors = process.communicate()
    assert process.returncode == 0
    assert "last.pt is damaged" in errors
    assert_same_end(place, "damaged")


def test_killed_before_its_first_checkpoint_a_run_begins_anew(place):
    process = start(place, "early", "--checkpoint-minutes", "60")
    until((place / "early" / "config.yaml").exists, process, seconds=120)
    process.kill()
    process.wait()
    assert not (place / "early" / "last.pt").exists()
    assert start(place, "early", "--resume").wait() == 0
    assert_same_end(place, "early")


def test_settings_that_change_the_run_are_refused_on_resume(place, capsys, monkeypatch):
    monkeypatch.chdir(place)
    before = RunFolder(place / "whole").last.read_bytes()
    assert main(["train", "--out", "whole", "--resume", "--lr", "0.3"]) == 2
    assert "--lr is 0.02 in whole/config.yaml and 0.3 here" in capsys.readouterr().err
    assert main(["train", "cifar10", "--out", "whole", "--resume"]) == 2
    assert "named are cifar10 and digits" in capsys.readouterr().err
    assert RunFolder(place / "whole").last.read_bytes() == before


def test_a_checkpoint_of_another_model_or_class_count_is_refused(place, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(place)
    common = ["train", "digits", "--epochs", "1", "--lr", "0.01"]
    assert main([*common, "--data", "idx", "--model", "resnet20", "--out", str(tmp_path / "plain")]) == 0
    plain = RunFolder(tmp_path / "plain")
    settings = plain.config.read_text()
    plain.config.write_text(settings.replace("model: resnet20", "model: dit_resnet20"))
    capsys.readouterr()
    before = contents(plain.path)
    assert main(["train", "--out", str(plain.path), "--resume"]) == 2
    assert "was made with model resnet20, the settings say dit_resnet20" in capsys.readouterr().err
    assert contents(plain.path) == before
    plain.config.write_text(settings)
    before = contents(plain.path)
    for name, classes, message in (("more", 5, "was trained on 3 classes"), ("other", 3, "was trained on other images")):
        write_idx(tmp_path / name, classes=classes, train=123)
        assert main(["train", "--out", str(plain.path), "--resume", "--data", str(tmp_path / name)]) == 2
        assert message in capsys.readouterr().err
    plain.last.unlink()
    torch.save({"state_dict": {}}, plain.previous)
    before |= contents(plain.path)
    assert main(["train", "--out", str(plain.path), "--resume"]) == 2
    assert "is not a checkpoint of this version" in capsys.readouterr().err


def contents(folder):
    return {path: path.read_bytes() for path in folder.iterdir()}


def test_two_processes_cannot_train_in_one_folder(place):
    whole = RunFolder(place / "whole")
    before = contents(whole.path)
    with whole.locked():
        process = start(place, "whole", "--resume")
        _, errors = process.communicate()
    assert process.returncode == 2
    assert "another process trains in whole; wait for it" in errors
    assert contents(whole.path) == before


class Interrupted(Exception):
    pass


@pytest.mark.parametrize(
    "flags",
    [["--protocol", "paper", "--precision", "fp16"], ["--precision", "bf16", "--model-kwargs", "drop_rate=0.5"]],
)
def test_other_settings_resume_to_the_bit_too(place, tmp_path, monkeypatch, capsys, flags):
    monkeypatch.chdir(place)
    arguments = [*COMMAND[3:], "--epochs", "2", *flags]
    whole, resumed = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "resumed")
    assert main([*arguments, "--out", str(whole.path)]) == 0
    step, steps = Trainer._train_step, []

    def interrupted_step(trainer, images):
        steps.append(images.number)
        if len(steps) == 20:  # in the second epoch
            raise Interrupted
        return step(trainer, images)

    monkeypatch.setattr(Trainer, "_train_step", interrupted_step)
    assert main([*arguments, "--out", str(resumed.path)]) == 1
    assert "Interrupted" in capsys.readouterr().err
    monkeypatch.setattr(Trainer, "_train_step", step)
    assert main([*arguments, "--out", str(resumed.path), "--resume"]) == 0
    expected, state = load_state(whole.last), load_state(resumed.last)
    assert_equal(state, expected)
    assert records(resumed) == records(whole)
