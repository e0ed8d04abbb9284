"""Several processes train as one, and nothing is lost when one dies: with real processes, over gloo."""

import math
import os
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import torch

from ditcnn.cli import main
from ditcnn.train import RunFolder
from ditcnn.train.checkpoint import load_newest
from ditcnn.train.storage import load_state
from tests.conftest import free_port, state_of, until, write_class_folders
from tests.forks import run_forks
from tests.test_resume import assert_equal, epochs_recorded, records

# 6 steps an epoch, of 6 micro-batches of 2, with every source of randomness; a checkpoint at each step.
SETTINGS = [
    "imagenet", "--data", "images", "--img-size", "32", "--epochs", "3", "--warmup-epochs", "1", "--precision", "fp32",
    "--model-kwargs", "depths=(1,1,2,1)", "dims=(8,8,16,16)", "--global-batch", "12", "--batch-size", "2",
    "--opt", "momentum", "--lr", "0.02", "--ema-decay", "0.7", "--workers", "0", "--checkpoint-minutes", "0",
]  # fmt: skip
WORKERS = ["--workers", "1"]  # where processes are stopped or die: what becomes of workers matters there, not what they read
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with images, and the run ``one`` of a single process."""
    place = tmp_path_factory.mktemp("distributed")
    write_class_folders(place / "images", classes=("n01", "n02", "n03"), train=25, test=5, part="val")
    before = Path.cwd()
    os.chdir(place)
    try:
        assert main(["train", *SETTINGS, "--out", "one"]) == 0
    finally:
        os.chdir(before)
    return place


@contextmanager
def torchrun(place: Path, *arguments: str, processes: int = 2, launcher: tuple[str, ...] = ()):
    """Start ``ditcnn train`` under torchrun; leave no process behind."""
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={processes}", *launcher, "-m", "ditcnn"]
    rendezvous = () if any("rdzv" in word for word in launcher) else ("--standalone",)
    command[3:3] = rendezvous
    job = subprocess.Popen(
        [*command, "train", *SETTINGS, *arguments],
        cwd=place,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield job
    finally:
        for pid in [*descendants(job.pid), job.pid]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        job.wait()


def descendants(pid: int) -> list[int]:
    try:
        children = [
            int(word) for task in Path(f"/proc/{pid}/task").iterdir() for word in (task / "children").read_text().split()
        ]
    except OSError:
        return []
    return [*children, *(grandchild for child in children for grandchild in descendants(child))]


def ranks_of(job: subprocess.Popen) -> dict[int, int]:
    """Return the process id of each training process by its rank."""
    found = {}
    for pid in descendants(job.pid):
        with suppress(ProcessLookupError):
            try:
                words = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
                parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            rank = next((int(word[5:]) for word in words if word.startswith(b"RANK=")), None)
            if rank is not None and parent == job.pid:  # its data workers have the same environment
                found[rank] = pid
    return found


def end_of(job: subprocess.Popen, seconds: float = 300) -> tuple[int, str]:
    """Return exit status and output."""
    output, _ = job.communicate(timeout=seconds)
    return job.returncode, output


def assert_same_end(place: Path, out: str, whole: str) -> None:
    assert_equal(state_of(RunFolder(place / out).last), state_of(RunFolder(place / whole).last))
    assert records(RunFolder(place / out)) == records(RunFolder(place / whole))


def assert_near(place: Path, out: str, whole: str) -> None:
    """Assert that two runs of other numbers of processes end with the same weights, to rounding."""
    state, expected = load_state(RunFolder(place / out).last), load_state(RunFolder(place / whole).last)
    for part in ("model", "ema"):
        for key, value in expected[part].items():
            torch.testing.assert_close(state[part][key], value, rtol=1e-3, atol=1e-5, msg=f"{part} {key}")
    for line, other in zip(records(RunFolder(place / out)), records(RunFolder(place / whole)), strict=True):
        assert line.keys() == other.keys()
        assert all(math.isclose(line[k], other[k], rel_tol=1e-4) for k in line if not isinstance(line[k], str))


@contextmanager
def two_torchruns(place: Path, out: str, *arguments: str):
    """Start two torchruns of one process each, as on two machines; the first one keeps the meeting point."""
    port = free_port()
    meeting = ("--nnodes=2", "--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{port}", f"--rdzv-id={out}")
    with torchrun(place, "--out", out, *arguments, processes=1, launcher=meeting) as first:
        until(lambda: listens(port), first)
        with torchrun(place, "--out", out, *arguments, processes=1, launcher=meeting) as second:
            yield first, second


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="module")
def whole2(place):
    """The run ``whole2`` of two processes, each under a torchrun of its own."""
    with two_torchruns(place, "whole2") as jobs:
        outcomes = [end_of(job) for job in jobs]
    assert [status for status, _ in outcomes] == [0, 0], outcomes
    told = "".join(output for _, output in outcomes)
    assert "each of 12 images = 2 processes x 3 x 2; whole2" in told
    assert told.count("val accuracy") == 1  # one process talks


@pytest.fixture(scope="module")
def whole3(place):
    """The run ``whole3`` of three processes."""
    outcomes = run_forks(place, 3, ["train", *SETTINGS, "--out", "whole3"])
    assert [status for status, _ in outcomes] == [0, 0, 0], outcomes


@pytest.mark.usefixtures("whole2")
def test_two_torchruns_that_meet_end_as_one_process_with_accumulation_mixup_and_drop_path(place):
    assert_near(place, "whole2", "one")


@pytest.mark.usefixtures("whole3")
def test_three_processes_end_as_one_does(place):
    assert_near(place, "whole3", "one")


@pytest.mark.usefixtures("whole2")
def test_sigterm_to_torchrun_leaves_a_checkpoint_and_the_resumed_run_has_the_same_bits(place):
    folder = RunFolder(place / "stopped")
    with torchrun(place, "--out", "stopped", *WORKERS) as job:
        until(lambda: epochs_recorded(folder) >= 1, job)
        job.send_signal(signal.SIGTERM)
        status, output = end_of(job)
    assert status != 0
    assert (
        output.count(
            "stopped by SIGTERM, checkpoint saved; go on with: the same torchrun command, with --out stopped --resume"
        )
        == 1
    )
    assert "ditcnn/train" not in output  # a traceback of ours
    progress = load_newest(folder, pytest.fail)[0]["progress"]
    assert 1 <= progress["epoch"] < 3
    outcomes = run_forks(place, 2, ["train", *SETTINGS, "--out", "stopped", "--resume"])
    assert [status for status, _ in outcomes] == [0, 0], outcomes
    assert_same_end(place, "stopped", "whole2")


@pytest.mark.usefixtures("whole3")
def test_after_the_death_of_a_process_torchrun_goes_on_from_the_last_checkpoint_to_the_same_bits(place):
    folder = RunFolder(place / "killed")
    with torchrun(place, "--out", "killed", *WORKERS, processes=3, launcher=("--max-restarts=1",)) as job:
        until(lambda: epochs_recorded(folder) >= 1, job)
        ranks = ranks_of(job)
        os.kill(ranks[0], signal.SIGKILL)  # the one that holds the folder
        until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in ranks.values()), job, seconds=60)
        status, output = end_of(job)
    assert status == 0, output
    assert "lost contact with another one in epoch" in output
    assert_same_end(place, "killed", "whole3")


def test_when_a_machine_dies_the_other_ends_within_a_minute_and_a_lone_process_goes_on(place, capsys, monkeypatch):
    folder = RunFolder(place / "alone")
    with two_torchruns(place, "alone", *WORKERS) as (first, other):
        until(lambda: epochs_recorded(folder) >= 1, first, other)
        (process,), ((rank, left),) = ranks_of(other).values(), ranks_of(first).items()
        for pid in (other.pid, process):
            os.kill(pid, signal.SIGKILL)
        until(lambda: not Path(f"/proc/{left}").exists(), seconds=60)
        status, output = end_of(first)
    assert status != 0
    assert f"process {rank} of 2 lost contact with another one in epoch" in output
    assert "Go on from the last checkpoint with --resume." in output
    monkeypatch.chdir(place)
    assert main(["train", *SETTINGS, "--out", "alone", "--resume"]) == 0
    assert "resumed with other processes: 2 then, 1 now; bits may differ" in capsys.readouterr().err
    assert_near(place, "alone", "one")


def test_processes_whose_torchrun_is_killed_stop_with_a_checkpoint(place):
    folder = RunFolder(place / "orphans")
    with torchrun(place, "--out", "orphans", "--epochs", "40", *WORKERS, processes=1) as job:
        until(lambda: epochs_recorded(folder) >= 1, job)
        ranks = ranks_of(job).values()
        os.kill(job.pid, signal.SIGKILL)
        try:
            output = job.communicate(timeout=300)[0]  # ends when the last process has closed it
        finally:
            for pid in ranks:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
    assert "stopped by SIGTERM, checkpoint saved" in output
