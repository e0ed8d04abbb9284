"""Data workers: the same bits for any number of them, and their failures in one short line with the cause."""

import errno
import gc
import multiprocessing
import os
import random
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset

import ditcnn
from ditcnn.cli.flags import with_flags
from ditcnn.data import DatasetSource
from ditcnn.data.stream import EvalTransform, TrainTransform, WholeTransform, eval_batches_of, loading, train_batches_of
from ditcnn.data.stream.source import subset
from ditcnn.system.errors import InputError, RunFailed
from ditcnn.train import RunFolder
from tests.conftest import state_of, until, write_class_folders
from tests.test_resume import assert_equal


class Drawn(Dataset):
    """Images that are drawn anew, with the generators that people use, each time they are read."""

    def __len__(self) -> int:
        return 24

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        level = torch.randint(60, ()).item() + np.random.randint(60) + random.randrange(60)
        return Image.new("RGB", (16, 16), (level, 40 * (index % 3), 0)), index % 3


def steps(workers: int, epoch: int = 0, seed: int = 7, first_step: int = 0) -> list[torch.Tensor]:
    source = subset(DatasetSource(Drawn()), range(20))
    transform = WholeTransform(EvalTransform(16, crop_pct=1.0), seed=seed)
    options = dict(seed=seed, epoch=epoch, global_batch=4, batch_size=2, workers=workers, first_step=first_step)
    return [images for step in train_batches_of(source, transform, **options) for images, _ in step]


def test_what_a_dataset_draws_is_a_function_of_seed_epoch_and_index_at_any_number_of_workers():
    whole = steps(0)
    assert len({float(images[:, 0].float().mean()) for images in whole}) > 5
    for workers in (0, 1, 2):
        assert all(torch.equal(a, b) for a, b in zip(steps(workers), whole, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(steps(1, first_step=3), whole[6:], strict=True))
    for other in (steps(0, epoch=1), steps(0, seed=8)):
        assert not all(torch.equal(a, b) for a, b in zip(other, whole, strict=True))


def test_images_that_are_drawn_are_evaluated_alike_in_each_epoch_and_by_any_number_of_workers():
    source = DatasetSource(Drawn())
    first, *others = (
        torch.cat([images for images, _ in eval_batches_of(source, EvalTransform(16), batch_size=5, workers=workers)])
        for workers in (0, 0, 2)
    )
    assert all(torch.equal(first, other) for other in others)


class Stop(Exception):
    pass


def test_a_run_on_drawn_images_resumes_in_an_epoch_to_the_bit():
    settings = dict(
        recipe="photos", model_kwargs=("depths=(1,1,1,1)", "dims=(8,8,8,8)"), img_size=32,
        epochs=2, warmup_epochs=0.0, batch_size=4, checkpoint_minutes=0.0,
    )  # fmt: skip

    def stop(line):
        if (line["epoch"], line.get("step")) == (2, 4):
            raise Stop

    whole = ditcnn.fit(None, Drawn(), Drawn(), out="whole", **settings)
    with pytest.raises(Stop):
        ditcnn.fit(None, Drawn(), Drawn(), out="resumed", callbacks=[stop], **settings)
    assert state_of(Path("resumed/last.pt"))["progress"]["step"] == 3
    resumed = ditcnn.fit(None, Drawn(), Drawn(), out="resumed", resume=True, workers=1, **settings)
    assert_equal(state_of(resumed.folder / "last.pt"), state_of(whole.folder / "last.pt"))


# --- failures


class Failing(Drawn):
    """A dataset that fails at one item, where its labels have been read."""

    def __init__(self, how: str) -> None:
        self.how, self.targets = how, [i % 3 for i in range(24)]

    def __getitem__(self, index: int):
        if index != 5 or torch.utils.data.get_worker_info() is None:
            return super().__getitem__(index)
        if self.how == "raises":
            raise KeyError("no such thing, " * 500)
        if self.how == "memory":
            raise MemoryError
        if self.how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        return "no image", 2


@pytest.mark.parametrize(
    ("how", "kind", "line"),
    [
        ("raises", InputError, r"Failing\[5\] raised KeyError: .*no such thing"),
        ("memory", RunFailed, r"Failing\[5\]: out of memory; try fewer `workers`"),
        ("kind", InputError, r"Failing\[5\] must hold a PIL image, .*; got str"),
        ("killed", RunFailed, "a data worker was killed, as the system does when memory is short; try fewer `workers`"),
    ],
)
def test_a_failure_in_a_worker_is_told_in_one_short_line(how, kind, line):
    source = DatasetSource(Failing(how))
    with pytest.raises(kind, match=line) as told:
        list(
            map(
                list, train_batches_of(source, TrainTransform(16), seed=0, epoch=0, global_batch=24, batch_size=2, workers=1)
            )
        )
    assert len(str(told.value)) < 600
    assert "\n" not in str(told.value)


def test_images_of_several_sizes_that_are_taken_as_they_are_are_told():
    class Sizes(Drawn):
        def __getitem__(self, index):
            return torch.zeros(3, 8, 8 + index % 2), 0

    with pytest.raises(
        InputError, match=r"one size and type; got torch\.float32 \[3, 8, 8\] and torch\.float32 \[3, 8, 9\]"
    ):
        list(map(list, train_batches_of(
            DatasetSource(Sizes()), lambda image, epoch, index: image, seed=0, epoch=0, global_batch=24, batch_size=24
        )))  # fmt: skip


def test_a_dataset_that_cannot_be_sent_to_workers_is_told():
    source = DatasetSource(Drawn())
    source.dataset.transform = lambda x: x
    with pytest.raises(InputError, match=r"cannot be sent to data workers: .*lambda.*or set `workers` to 0") as told:
        list(train_batches_of(source, TrainTransform(16), seed=0, epoch=0, global_batch=4, batch_size=2, workers=1))
    assert "\n" not in str(told.value)


def test_workers_of_an_epoch_that_is_collected_as_garbage_end():
    steps = train_batches_of(
        DatasetSource(Drawn()), WholeTransform(EvalTransform(16)), seed=0, epoch=0, global_batch=4, batch_size=2, workers=1
    )
    others = set(multiprocessing.active_children())
    next(iter(next(steps)))
    (worker,) = set(multiprocessing.active_children()) - others
    cycle = [steps]
    cycle.append(cycle)
    del steps, cycle
    gc.collect()
    worker.join(20)
    assert not worker.is_alive()


SCRIPT = """
import ditcnn
from tests.test_workers import Drawn
print("imported")
settings = dict(recipe="photos", model_kwargs=("depths=(1,1,1,1)", "dims=(8,8,8,8)"), img_size=32, epochs=1, batch_size=4)
try:
    ditcnn.fit(None, Drawn(), Drawn(), out="run", workers=2, warmup_epochs=0.0, **settings)
except Exception as error:
    print(f"{type(error).__name__}: {error}")
"""
PATHS = os.environ | {
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH", "")]),
}


def test_a_script_without_the_guard_that_workers_need_is_told_in_one_line():
    Path("script.py").write_text(SCRIPT)
    done = subprocess.run([sys.executable, "script.py"], env=PATHS, capture_output=True, text=True, timeout=300, check=False)
    last = done.stdout.splitlines()[-1]
    assert last.startswith("InputError: each data worker imports the script that was started")
    assert "`if __name__ == '__main__':`" in last
    assert "Traceback" not in done.stderr
    assert [path.name for path in Path().iterdir() if path.is_dir()] == ["run"]


SMALL = ["unshare", "-rm", "sh", "-c", 'mount -t tmpfs -o size=1m tmpfs /dev/shm && exec "$0" "$@"']
PHOTOS = [
    "photos", "--data", "images", "--img-size", "256", "--epochs", "1", "--warmup-epochs", "0", "--batch-size", "8",
    "--model-kwargs", "depths=(1,1,1,1)", "dims=(8,8,8,8)",
]  # fmt: skip
COMMAND = [sys.executable, "-m", "ditcnn", "train"]


def test_a_small_shared_memory_is_told_in_one_short_line():
    if subprocess.run([*SMALL, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no mount of one's own here")
    write_class_folders(Path("images"), train=16, test=2, part="val")
    words = [*SMALL, *COMMAND, *PHOTOS, "--out", "run", "--workers", "2"]
    done = subprocess.run(words, env=PATHS, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 1
    last = with_flags(done.stderr.splitlines()[-1])
    assert last.startswith("ditcnn: ")
    assert "/dev/shm has 1 MiB: give it more (docker run --shm-size=2g), or take fewer --workers, 0 for none." in last
    assert max(map(len, done.stderr.splitlines())) < 600


def test_a_terminal_that_closes_leaves_a_checkpoint_of_its_last_step():
    """SIGHUP goes to the workers, too, whose images the step under way still needs."""
    write_class_folders(Path("images"), train=40, test=2, part="val")
    folder = RunFolder(Path("run"))
    settings = [*PHOTOS, "--img-size", "32", "--epochs", "60", "--checkpoint-minutes", "600"]
    words = [*COMMAND, *settings, "--out", "run", "--workers", "1"]
    ours, theirs = os.openpty()
    os.set_blocking(ours, False)
    with subprocess.Popen(
        ["setsid", "-c", *words], env=PATHS, stdin=theirs, stdout=theirs, stderr=theirs, cwd=Path().absolute()
    ) as job:
        os.close(theirs)
        try:
            until(lambda: drained(ours) and folder.last.exists(), job, seconds=120)
            os.close(ours)
            with suppress(ProcessLookupError):
                job.send_signal(signal.SIGHUP)  # as the shell does after the system
            assert job.wait(60) == 128 + signal.SIGHUP
        finally:
            with suppress(ProcessLookupError):
                job.kill()
    progress = state_of(folder.last)["progress"]
    assert progress["epoch"] < 60
    assert progress["step"] > 0


def drained(terminal: int) -> bool:
    """Read what has been written to a terminal, so that its writers do not wait."""
    with suppress(BlockingIOError, OSError):
        os.read(terminal, 2**16)
    return True


def test_a_limit_of_open_files_is_told_by_how_to_raise_it(monkeypatch):
    def refused(loader):
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr("torch.utils.data.DataLoader.__iter__", refused)
        with pytest.raises(RunFailed, match="ulimit -n"):
            steps(1)
    died = RuntimeError("Caught RuntimeError in DataLoader worker process 0.\nRuntimeError: received 0 items of ancdata")
    assert "ulimit -n" in str(loading._death(None, died))
