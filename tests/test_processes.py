"""What processes of torchrun tell before the run: in forks of this one, with torchrun's environment."""

import multiprocessing
import os
import resource
from pathlib import Path

import pytest
import torch

from ditcnn.cli import main
from ditcnn.cli.flags import with_flags
from ditcnn.data.stream import open_source
from ditcnn.system.failures import explained
from ditcnn.train import RunFolder, Trainer
from tests.conftest import write_class_folders
from tests.forks import run_forks, torchruns

SETTINGS = [
    "imagenet", "--img-size", "32", "--epochs", "1", "--warmup-epochs", "0", "--precision", "fp32", "--workers", "0",
    "--model-kwargs", "depths=(1,1,1,1)", "dims=(8,8,8,8)", "--global-batch", "4", "--batch-size", "2",
]  # fmt: skip


def two(*arguments: str) -> list[tuple[int, str]]:
    return run_forks(Path(), 2, ["train", *arguments])


def images(folder: str, train: int = 4) -> str:
    return str(write_class_folders(Path(folder), train=train, part="val"))


def test_bad_data_is_told_once():
    (first, told), (second, silent) = two(*SETTINGS, "--data", "nowhere", "--out", "run")
    assert (first, second) == (2, 2)
    assert "nowhere: no such folder" in told
    assert silent == ""


def test_help_is_printed_once_and_is_no_error():
    (first, told), (second, silent) = two("--help")
    assert (first, second) == (0, 0)
    assert "--global-batch" in told
    assert silent == ""


def test_other_images_in_another_process_end_both_and_that_one_tells(monkeypatch):
    data = images("images")
    Path("images/val/cat/0.png").write_bytes(Path("images/val/cat/1.png").read_bytes() + b"a longer file")

    def seen(data, split, **options):
        other = "other" if os.environ["RANK"] == "1" else data
        return open_source(other, split, **options)

    images("other")
    monkeypatch.setattr("ditcnn.train.inputs.open_source", seen)
    (first, silent), (second, told) = two(*SETTINGS, "--data", data, "--out", "run")
    assert (first, second) == (2, 2)
    assert told.endswith(": it sees other images than the first process.\n")
    assert "Traceback" not in silent
    assert "images than" not in silent
    assert not Path("run").exists()


def test_an_error_of_one_process_is_told_by_it_and_ends_the_other(monkeypatch):
    build = Trainer.__init__

    def short_of_memory(trainer, *arguments, **options):
        build(trainer, *arguments, **options)
        if os.environ["RANK"] == "1":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nmore")

    monkeypatch.setattr(Trainer, "__init__", short_of_memory)
    (first, silent), (second, told) = two(*SETTINGS, "--data", images("images"), "--out", "run")
    assert second == 1
    assert "ditcnn: out of memory: CUDA out of memory. Tried to allocate 2 GiB. Lower " in told
    assert first != 0
    assert "Traceback" not in silent + told


def test_when_the_first_process_cannot_write_all_end_and_the_file_is_named_once(monkeypatch):
    def limited(*arguments, **options):
        resource.setrlimit(resource.RLIMIT_FSIZE, (1024 * 50, 1024 * 50))  # a checkpoint has more
        return open_source(*arguments, **options)

    monkeypatch.setattr("ditcnn.train.inputs.open_source", limited)
    (first, told), (second, silent) = two(*SETTINGS, "--data", images("images"), "--out", "run")
    assert (first, second) == (2, 2)
    assert "run/.last.pt.new: File too large. The newest checkpoint stands; go on with --resume when that is mended." in told
    assert told.count("File too large") == 1
    assert silent == ""


def test_an_error_that_is_the_codes_own_stays_what_it_is():
    error = RuntimeError("mat1 and mat2 shapes cannot be multiplied")
    assert explained(error) is error


def test_restarted_processes_go_on_with_their_run_and_need_its_name(monkeypatch, capsys):
    arguments = ["train", *SETTINGS, "--data", images("images")]
    assert main([*arguments, "--out", "run"]) == 0
    for name, value in torchruns(0, 1, 0, TORCHELASTIC_RESTART_COUNT="1", TORCHELASTIC_MAX_RESTARTS="2").items():
        monkeypatch.setenv(name, value)
    capsys.readouterr()
    assert main([*arguments, "--out", "run"]) == 0
    assert "val accuracy" in capsys.readouterr().out
    assert main(arguments) == 2
    assert "--max-restarts needs --out, by which" in with_flags(capsys.readouterr().err)


def test_the_lock_waits_for_a_process_that_is_ending():
    folder = RunFolder(Path("run"))
    inside, outside = multiprocessing.Pipe()

    def hold() -> None:
        with folder.locked():
            inside.send("held")
            inside.poll(0.5)

    holder = multiprocessing.get_context("fork").Process(target=hold)
    holder.start()
    assert outside.recv() == "held"
    with pytest.raises(Exception, match="another process trains in run"), folder.locked():
        pass
    with folder.locked(patience=60):
        holder.join(60)
        assert holder.exitcode == 0
    assert not folder.holds_run()
