"""What a run's files may suffer, and how it goes on: nothing is believed that its digest does not bear out."""

import os
import random
import shutil
import signal
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file

from ditcnn.system.display import Display
from ditcnn.system.errors import InputError
from ditcnn.system.files import write_atomically
from ditcnn.system.signals import Stopped, StopRequest
from ditcnn.train import RunFolder, fit
from ditcnn.train.checkpoint import FORMAT, load_newest, save_newest
from ditcnn.train.metrics import read_metrics
from ditcnn.train.storage import load_state
from tests.test_fit import Interrupted, images, interrupt, without_seconds

IMAGES, VAL, TEST = images(60), images(12, seed=1), images(30, seed=2)


def train(out, **given):
    settings = {"recipe": "cifar10", "epochs": 3, "batch_size": 16, "lr": 0.02, "checkpoint_minutes": 0.0}
    settings |= {"mean": (0.4,) * 3, "std": (0.3,) * 3, "display": Display(quiet=True)}
    return fit("resnet20", IMAGES, val=VAL, test=TEST, out=out, **(settings | given))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run that was never stopped, and one that was in the middle of its third epoch."""
    place = tmp_path_factory.mktemp("runs")
    train(place / "whole")
    with pytest.raises(Interrupted):
        train(place / "stopped", callbacks=[interrupt(10)])
    return place


@pytest.fixture
def stopped(runs):
    return RunFolder(Path(shutil.copytree(runs / "stopped", "stopped")))


@pytest.fixture
def finished(runs):
    return RunFolder(Path(shutil.copytree(runs / "whole", "finished")))


def assert_ends_as_the_whole_run(runs, folder, **given):
    result = train(folder.path, resume=True, **given)
    assert folder.weights.read_bytes() == (runs / "whole" / "model.safetensors").read_bytes()
    expected = without_seconds(read_metrics(runs / "whole" / "metrics.jsonl"))
    assert without_seconds(read_metrics(folder.metrics)) == expected
    assert without_seconds([*result.history, result.summary]) == expected
    states = [load_state(RunFolder(path).last)["model"] for path in (runs / "whole", folder.path)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_a_flipped_bit_anywhere_in_the_newest_checkpoint_is_seen_and_the_one_before_taken(tmp_path):
    folder = RunFolder(tmp_path)
    for number in (1, 2):
        save_newest(folder, {"format": FORMAT, "number": number, "tensor": torch.arange(500.0)})
    content = folder.last.read_bytes()
    draw = random.Random(0)
    places = {*range(40), *range(len(content) - 120, len(content)), *draw.sample(range(len(content)), 150)}
    for place in sorted(places):
        damaged = bytearray(content)
        damaged[place] ^= 1 << draw.randrange(8)
        folder.last.write_bytes(damaged)
        warnings = []
        state, path = load_newest(folder, warnings.append)
        assert (state["number"], path) == (1, folder.previous), place
        assert "last.pt is damaged" in warnings[0]


def cut(content):
    return content[: len(content) // 2]


def flipped(place):
    def flip(content):
        damaged = bytearray(content)
        damaged[place] ^= 1
        return bytes(damaged)

    return flip


@pytest.mark.parametrize(
    "damage", [cut, flipped(-1), flipped(12), lambda content: b"", None], ids=["cut", "end", "head", "empty", "missing"]
)
def test_a_chosen_model_that_is_damaged_is_written_anew_and_the_test_accuracy_is_right(runs, stopped, damage, capsys):
    if damage is None:
        stopped.weights.unlink()
    else:
        stopped.weights.write_bytes(damage(stopped.weights.read_bytes()))
    assert_ends_as_the_whole_run(runs, stopped, display=Display())
    assert "is not the model that the checkpoint holds" in capsys.readouterr().err


def test_a_chosen_model_of_other_tensors_is_written_anew(runs, stopped, finished):
    for folder in (stopped, finished):
        save_file({"conv1.weight": torch.zeros(1)}, folder.weights)
        assert_ends_as_the_whole_run(runs, folder)


def test_a_damaged_config_of_the_chosen_model_is_written_anew(runs, finished):
    (finished.path / "config.json").write_text("{}")
    train(finished.path, resume=True)
    assert (finished.path / "config.json").read_bytes() == (runs / "whole" / "config.json").read_bytes()


@pytest.mark.parametrize(
    "damage",
    [lambda content: content[:-20], lambda content: b"", lambda content: b"\0" * len(content),
     lambda content: b"rubbish\n" + content, lambda content: content[:10] + b"\xff" + content[11:], None],
    ids=["cut", "empty", "NUL", "rubbish", "byte", "missing"],
)  # fmt: skip
def test_damaged_metrics_are_mended_from_the_checkpoint(runs, stopped, finished, damage):
    for folder in (stopped, finished):
        if damage is None:
            folder.metrics.unlink()
        else:
            folder.metrics.write_bytes(damage(folder.metrics.read_bytes()))
        assert_ends_as_the_whole_run(runs, folder)


def test_a_finished_run_gets_the_picture_that_a_kill_left_undrawn_and_temporary_files_go(finished):
    finished.curves.unlink()
    (finished.path / ".last.pt.123-ab.tmp").write_text("")
    (finished.path / ".export-x").mkdir()
    before = finished.last.read_bytes()
    train(finished.path, resume=True)
    assert finished.curves.read_bytes()[:4] == b"\x89PNG"
    assert {path.name for path in finished.path.glob(".*")} == {".lock"}
    assert finished.last.read_bytes() == before


@pytest.mark.parametrize("also", [(), ("metrics",), ("curves",)])
def test_a_finished_run_whose_checkpoints_were_lost_is_not_trained_over(finished, also):
    for name in ("last", "previous", *also):
        getattr(finished, name).unlink()
    before = {path: path.read_bytes() for path in finished.path.iterdir()}
    with pytest.raises(InputError, match=r"holds a run that lost its last\.pt"):
        train(finished.path, resume=True)
    assert {path: path.read_bytes() for path in finished.path.iterdir()} == before


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1"])
def test_each_signal_that_ends_a_run_saves_before(runs, name):
    signum, folder = getattr(signal, name), RunFolder(Path("run"))

    def send(line):
        if line.get("epoch") == 2 and line.get("step") == 2:
            os.kill(os.getpid(), signum)

    with pytest.raises(Stopped) as stop:
        train(folder.path, checkpoint_minutes=60.0, callbacks=[send])
    assert stop.value.signum == signum
    assert "checkpoint saved; go on with: ditcnn.fit(..., out='run', resume=True)" in stop.value.advice
    progress = load_state(folder.last)["progress"]
    assert (progress["epoch"], progress["step"]) == (1, 3)  # the step after the signal is done
    assert_ends_as_the_whole_run(runs, folder)


def test_a_hangup_that_nohup_ignores_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopRequest() as request:
            os.kill(os.getpid(), signal.SIGHUP)
        assert request.signum is None
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_temporary_file_that_another_planted_as_a_link_is_not_followed(tmp_path, monkeypatch):
    monkeypatch.setattr("secrets.token_hex", lambda size: "00")
    victim = tmp_path / "victim"
    victim.write_text("theirs")
    planted = tmp_path / f".file.{os.getpid()}-00.tmp"
    for target in (victim, tmp_path / "nothing"):
        planted.symlink_to(target)
        with pytest.raises(OSError, match="File exists"):
            write_atomically(tmp_path / "file", b"ours")
        planted.unlink()
    assert victim.read_text() == "theirs"
    assert {path.name for path in tmp_path.iterdir()} == {"victim"}


def test_written_files_have_the_mode_of_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        write_atomically(tmp_path / "file", b"")
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640


def as_first_edition(folder):
    """Give a run the form that its files had in the first edition."""
    for path in (folder.last, folder.previous):
        state = load_state(path)
        progress = state["progress"]
        progress["hits"] = progress.pop("correct")
        progress |= {"best_of": "", "lines": len(state["lines"])}
        del state["lines"], state["chosen"]
        torch.save(state | {"format": 1, "recipe": state["recipe"] | {"scale": (0.08, 1.0)}}, path)
    settings = yaml.safe_load(folder.config.read_text())
    del settings["edition"]
    folder.config.write_text(yaml.safe_dump(settings | {"scale": [0.08, 1.0]}))


def test_a_run_of_the_first_edition_goes_on_and_ends_with_the_same_bits(runs, stopped, finished):
    for folder in (stopped, finished):
        as_first_edition(folder)
        assert_ends_as_the_whole_run(runs, folder)


@pytest.mark.parametrize(("name", "message"), [("metrics", "cannot mend it"), ("weights", "cannot mend it")])
def test_what_a_checkpoint_of_the_first_edition_cannot_mend_is_told(stopped, name, message):
    as_first_edition(stopped)
    path = getattr(stopped, name)
    path.write_bytes(path.read_bytes()[:5])
    with pytest.raises(InputError, match=message):
        train(stopped.path, resume=True)
