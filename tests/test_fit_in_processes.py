"""`ditcnn.fit` called from Python in several processes, and how all end where one fails: over gloo, in forks of this one."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.utils.data import Dataset

import ditcnn
from ditcnn.cli.flags import with_flags
from ditcnn.system.processes import Processes
from ditcnn.train import RunFolder
from tests.conftest import state_of, write_class_folders
from tests.forks import run_in_forks

LABELS = np.arange(24) % 3
IMAGES = (
    np.random.default_rng(0).integers(0, 120, (24, 3, 8, 8), np.uint8) + 60 * LABELS.astype(np.uint8)[:, None, None, None]
)
SETTINGS = dict(
    epochs=1, batch_size=8, lr=0.01, warmup_epochs=0.0, protocol="last", recipe="cifar10-warmup", precision="fp32"
)


class Net(nn.Module):
    """A network with a part that is not used, as heads for other tasks are."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head, self.other = nn.Linear(8, 3), nn.Linear(8, 5)

    def forward(self, x):
        return self.head(self.body(x))


def fitted(place: Path, processes: int, out: str, **others) -> list[tuple[int, str]]:
    def work():
        rank = int(os.environ["RANK"])
        torch.manual_seed(rank)  # the first one's weights count
        net = Net()
        result = ditcnn.fit(net, (IMAGES, LABELS), test=(IMAGES, LABELS), out=out, **SETTINGS | others)
        assert result.model is net
        assert not net.training
        history = [{k: v for k, v in line.items() if k != "seconds"} for line in result.history]
        torch.save((net, history), f"{out}{rank}")  # which norms of a shared batch could not be

    return run_in_forks(place, processes, work)


def test_a_module_of_ones_own_trains_in_two_processes_as_in_one(tmp_path):
    for processes in (1, 2):
        outcomes = fitted(tmp_path, processes, f"run{processes}-", ema_decay=0.5)
        assert [status for status, _ in outcomes] == [0] * processes, outcomes
    one, first, second = (torch.load(tmp_path / f"run{name}", weights_only=False) for name in ("1-0", "2-0", "2-1"))
    for network, history in (first, second):
        assert history == first[1]
        assert history[0]["val_ema_loss"] == pytest.approx(one[1][0]["val_ema_loss"], rel=1e-4)
        for (name, value), expected in zip(network.state_dict().items(), one[0].state_dict().values(), strict=True):
            torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-6, msg=name)
    model = state_of(RunFolder(tmp_path / "run2-").last)["model"]
    assert not torch.equal(model["head.weight"], Net().head.weight)


def told_once(outcomes: list[tuple[int, str]], line: str, status: int = 2) -> None:
    assert [s for s, _ in outcomes] == [status] * len(outcomes), outcomes
    told = [with_flags(line) for _, output in outcomes for line in output.splitlines() if line.startswith("ditcnn: ")]
    assert len(told) == 1, outcomes
    assert line in told[0]
    assert not any("Traceback" in output for _, output in outcomes)


def test_batches_that_processes_cannot_share_are_told_once(tmp_path):
    told_once(fitted(tmp_path, 3, "run"), "--batch-size 8 cannot be shared by 3 processes; make it a multiple")
    whole = "--global-batch 24 is not a multiple of --batch-size 8 times 2 processes"
    told_once(fitted(tmp_path, 2, "run", global_batch=24), whole)
    assert not (tmp_path / "run").exists()


class Odd(nn.BatchNorm2d):
    def forward(self, x):
        return super().forward(x)


def test_a_norm_that_processes_cannot_share_is_told_once(tmp_path):
    def work():
        net = Net()
        net.body[1] = Odd(8)
        ditcnn.fit(net, (IMAGES, LABELS), test=(IMAGES, LABELS), out="run", **SETTINGS)

    told_once(run_in_forks(tmp_path, 2, work), "Odd is a batch norm with a forward pass of its own")
    assert not (tmp_path / "run").exists()


def test_processes_that_have_met_before_stay_together_and_can_train_twice(tmp_path):
    def work():
        processes = Processes.join()
        for out in ("first", "second"):
            ditcnn.fit(Net(), (IMAGES, LABELS), test=(IMAGES, LABELS), out=out, **SETTINGS)
        assert dist.is_initialized()
        processes.leave()

    outcomes = run_in_forks(tmp_path, 2, work)
    assert [status for status, _ in outcomes] == [0, 0], outcomes


def test_arrays_that_differ_or_fail_in_one_process_end_all_in_one_line(tmp_path):
    def work(spoil):
        images = IMAGES.copy()
        if os.environ["RANK"] == "1":
            images = spoil(images)
        ditcnn.fit(Net(), (images, LABELS), test=(IMAGES, LABELS), out="run", **SETTINGS)

    told_once(run_in_forks(tmp_path, 2, lambda: work(lambda x: 255 - x)), "it sees other images than the first process")
    told_once(run_in_forks(tmp_path, 2, lambda: work(lambda x: x.astype(float))), "images must be uint8, 0 to 255")
    assert not (tmp_path / "run").exists()


PHOTOS = dict(
    recipe="photos",
    img_size=32,
    epochs=1,
    warmup_epochs=0.0,
    batch_size=4,
    model_kwargs=("depths=(1,1,1,1)", "dims=(8,8,8,8)"),
)


@pytest.mark.parametrize("part", ["train", "val"])
def test_an_image_that_one_process_cannot_decode_ends_all_in_one_line(part, tmp_path):
    write_class_folders(tmp_path / "images", train=8, test=8, part="val")
    (tmp_path / "images" / part / "dog" / "5.png").write_bytes(b"no image")
    outcomes = run_in_forks(tmp_path, 2, lambda: ditcnn.fit(None, "images", out="run", **PHOTOS) and None)
    told_once(outcomes, f"images/{part}/dog/5.png is not a readable image")


class Photos(Dataset):
    """Images of one size that fail in one process, at one of their items."""

    def __init__(self, fails: str = "") -> None:
        self.fails = fails

    def __len__(self) -> int:
        return len(IMAGES)

    def __getitem__(self, index):
        if index == 3 and os.environ.get("RANK") == self.fails:
            raise KeyError("of the user's own" * 100)
        return IMAGES[index].transpose(1, 2, 0), int(LABELS[index])


def test_an_exception_of_a_dataset_in_one_process_ends_all_in_one_short_line(tmp_path):
    def work():
        ditcnn.fit(Net(), Photos(fails="1"), Photos(), out="run", **SETTINGS | {"epochs": 3})

    outcomes = run_in_forks(tmp_path, 2, work)
    told_once(outcomes, "Photos[3] raised KeyError: \"of the user's own")
    assert max(len(line) for _, output in outcomes for line in output.splitlines()) < 600


def test_a_run_that_cannot_begin_leaves_no_folder_behind(tmp_path):
    told_once(fitted(tmp_path, 2, None, batch_size=7), "--batch-size 7 cannot be shared by 2 processes")
    assert not list(tmp_path.glob("runs/*"))
