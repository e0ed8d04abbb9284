"""Images in memory in several processes have the steps of one: with real processes, forked from this one, over gloo."""

import copy
import math
import os
import signal
from pathlib import Path

import pytest
import torch
from timm.layers import BatchNormAct2d
from torch import nn

import ditcnn
from ditcnn.cli import main
from ditcnn.system.batch_norm import running_statistics, share_batch_norms, unshare_batch_norms
from ditcnn.system.errors import InputError
from ditcnn.train import RunFolder, Trainer
from tests.conftest import state_of, write_idx
from tests.forks import run_forks, run_in_forks
from tests.test_resume import assert_equal, records

# 54 images of 60 are trained on: 3 batches of 16 and one of 6.
SETTINGS = ["digits", "--data", "idx", "--epochs", "2", "--warmup-epochs", "0", "--batch-size", "16", "--lr", "0.002"]
TOLERANCE = dict(rtol=1e-3, atol=1e-5)  # of weights after 8 steps, whose roundings differ


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("shared")
    write_idx(place / "idx")
    return place


def trained(place: Path, processes: int, *arguments: str, out: str) -> RunFolder:
    outcomes = run_forks(place, processes, ["train", *SETTINGS, *arguments, "--out", out])
    assert [status for status, _ in outcomes] == [0] * processes, outcomes
    return RunFolder(place / out)


def assert_near(folder: RunFolder, whole: RunFolder) -> None:
    """Assert that two runs end with the same weights, statistics and metrics, to rounding."""
    expected = state_of(whole.last)["model"]
    for key, value in state_of(folder.last)["model"].items():
        torch.testing.assert_close(value, expected[key], **TOLERANCE, msg=key)
    for line, other in zip(records(folder), records(whole), strict=True):
        assert line.keys() == other.keys()
        assert all(isinstance(line[k], str) or math.isclose(line[k], other[k], rel_tol=1e-3) for k in line)


@pytest.fixture(scope="module")
def one(place):
    return trained(place, 1, out="one")


@pytest.mark.parametrize("processes", [2, 4])
def test_a_batch_shared_by_processes_gives_the_steps_statistics_and_scores_of_one(place, one, processes):
    assert_near(trained(place, processes, out=f"by{processes}"), one)


@pytest.mark.parametrize("processes", [2, 3])
def test_micro_batches_of_processes_give_the_steps_statistics_and_scores_of_one(place, processes):
    cut = ["--global-batch", "18", "--batch-size", "3", "--crop-padding", "0"]
    whole = RunFolder(place / "cut1") if (place / "cut1").exists() else trained(place, 1, *cut, out="cut1")
    folder = trained(place, processes, *cut, out=f"cut{processes}")
    assert_near(folder, whole)
    assert state_of(folder.last)["model"]["bn1.num_batches_tracked"] == 2 * 3 * 6


@pytest.mark.parametrize("processes", [1, 2])
def test_each_image_is_watched_and_tested_on_once_whatever_the_batch(processes, tmp_path, monkeypatch):
    write_idx(tmp_path / "idx", train=60, test=1300)
    images, evaluate = [], Trainer._eval_batches

    def counted(trainer, source):
        for batch in evaluate(trainer, source):
            images.append((len(source), len(batch[0])))
            yield batch

    def work():
        main(["train", *SETTINGS, "--epochs", "1", "--batch-size", "600", "--out", "run"])
        (tmp_path / f"images{os.environ['RANK']}").write_text(repr(images))

    monkeypatch.setattr(Trainer, "_eval_batches", counted)
    assert [status for status, _ in run_in_forks(tmp_path, processes, work)] == [0] * processes
    seen = [pair for rank in range(processes) for pair in eval((tmp_path / f"images{rank}").read_text())]
    assert sum(count for size, count in seen if size == 6) == 6
    assert sum(count for size, count in seen if size == 1300) == 1300


def test_a_run_of_two_processes_that_is_stopped_in_an_epoch_resumes_to_the_bit(place):
    whole = trained(place, 2, "--epochs", "3", out="whole")

    def stop(line):
        if line.get("step") == 2 and line["epoch"] == 2:
            signal.raise_signal(signal.SIGTERM)

    def train(resume):
        settings = dict(epochs=3, warmup_epochs=0, batch_size=16, lr=0.002)
        ditcnn.fit(
            None, "idx", recipe="digits", out="stopped", resume=resume, callbacks=[] if resume else [stop], **settings
        )

    outcomes = run_in_forks(place, 2, lambda: train(False))
    assert [status for status, _ in outcomes] == [143, 143], outcomes
    folder = RunFolder(place / "stopped")
    assert state_of(folder.last)["progress"]["step"] == 3  # the next step finds the wish
    outcomes = run_in_forks(place, 2, lambda: train(True))
    assert [status for status, _ in outcomes] == [0, 0], outcomes
    assert_equal(state_of(folder.last), state_of(whole.last))


# --- batch norms


NORMS = {
    "BatchNorm2d": lambda: nn.BatchNorm2d(3, momentum=0.3),
    "a cumulative average": lambda: nn.BatchNorm2d(3, momentum=None),
    "without statistics": lambda: nn.BatchNorm2d(3, track_running_stats=False),
    "without weights": lambda: nn.BatchNorm2d(3, affine=False),
    "BatchNorm1d": lambda: nn.Sequential(nn.Flatten(), nn.BatchNorm1d(12)),
    "timm's": lambda: BatchNormAct2d(3, act_layer=nn.SiLU),
}


def of_parts(network: nn.Module, images: torch.Tensor, parts: list[torch.Tensor], rank: int) -> dict[str, torch.Tensor]:
    """Return output and gradients of a network on the images of some parts of a batch."""
    x = images[parts[rank]].clone().requires_grad_()
    out = network(x)
    (out.square() * out.cos()).sum().backward()
    return {"out": out.detach(), "x": x.grad, **{name: p.grad for name, p in network.named_parameters()}}


@pytest.mark.parametrize("kind", NORMS)
def test_a_shared_norm_has_values_gradients_and_statistics_of_the_whole_batch(kind, tmp_path):
    """float32: 1e-5, as the norms of one process differ from float64 by as much."""
    torch.manual_seed(0)
    images = 3 + 2 * torch.randn(7, 3, 2, 2)
    parts = [torch.arange(4), torch.arange(4, 7)]
    start = NORMS[kind]()
    whole = copy.deepcopy(start)
    expected = [of_parts(whole, images, [torch.arange(7)], 0) for _ in range(2)][-1]  # twice, for the statistics

    def work():
        network, rank = copy.deepcopy(start), int(os.environ["RANK"])
        share_batch_norms(network)
        assert isinstance(network, type(start))
        network = copy.deepcopy(network)
        assert network.state_dict().keys() == start.state_dict().keys()
        of_parts(network, images, parts, rank)
        network.zero_grad()
        found = of_parts(network, images, parts, rank)
        torch.save((found, network.state_dict(), network.eval()(images)), f"part{rank}")
        unshare_batch_norms(network)
        assert all(type(a) is type(b) for a, b in zip(network.modules(), start.modules(), strict=True))
        torch.save(network, f"whole{rank}")

    assert [told for _, told in run_in_forks(tmp_path, 2, joined(work))] == ["", ""]
    whole.zero_grad()
    (one, state, evaluated), (other, state1, _) = (torch.load(tmp_path / f"part{rank}") for rank in range(2))
    close = dict(rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(torch.cat([one.pop("out"), other.pop("out")]), expected["out"], **close)
    torch.testing.assert_close(torch.cat([one.pop("x"), other.pop("x")]), expected["x"], **close)
    for name in one:  # a process has its images' part of the gradient
        torch.testing.assert_close(one[name] + other[name], expected[name] / 2, **close)
    for key, value in whole.state_dict().items():
        torch.testing.assert_close(state[key], value, **close)
        assert torch.equal(state[key], state1[key])
    torch.testing.assert_close(evaluated, whole.eval()(images), **close)


def joined(work):
    """Return the work with the processes of the job joined before."""

    def run():
        processes = ditcnn.system.processes.Processes.join()
        work()
        processes.leave()

    return run


@pytest.mark.parametrize("momentum", [0.1, 1.0, 0.0, None])
def test_running_statistics_of_micro_batches_are_those_of_one_process(momentum, tmp_path):
    torch.manual_seed(0)
    images = 3 + 2 * torch.randn(3, 6, 4, 3, 2, 2)  # steps, micro-batches, images
    start = nn.Sequential(nn.BatchNorm2d(3, momentum=momentum), nn.BatchNorm2d(3).eval())
    whole = copy.deepcopy(start)
    for batch in images.flatten(0, 1):
        whole(batch)

    def work():
        network, rank = copy.deepcopy(start), int(os.environ["RANK"])
        for step in images:
            with running_statistics(network, rank, 2):
                for batch in step[rank::2]:
                    network(batch)
        assert network[0].momentum == momentum
        torch.save(network.state_dict(), f"part{rank}")

    assert [told for _, told in run_in_forks(tmp_path, 2, joined(work))] == ["", ""]
    for rank in range(2):
        state = torch.load(tmp_path / f"part{rank}")
        for key, value in whole.state_dict().items():
            torch.testing.assert_close(state[key], value, rtol=1e-5, atol=1e-6)


def test_a_norm_with_a_forward_pass_of_its_own_is_refused_before_any_is_changed():
    class Odd(nn.BatchNorm2d):
        def forward(self, x):
            return x

    network = nn.Sequential(nn.BatchNorm2d(3), Odd(3))
    with pytest.raises(InputError, match=r"Odd is a batch norm with a forward pass of its own.*`global_batch`"):
        share_batch_norms(network)
    assert type(network[0]) is nn.BatchNorm2d
