"""Small data sets of every format, made by hand."""

import gzip
import math
import pickle
import socket
import subprocess
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ditcnn.train.storage import load_state

SIZE = 8
FILES_OF_A_RUN = {
    ".lock", "config.yaml", "env.json", "metrics.jsonl", "curves.png", "events", "last.pt", "previous.pt", "config.json",
    "model.safetensors",
}  # fmt: skip
torch.set_num_threads(1)  # the tests are small: a second thread would only wait


@pytest.fixture(autouse=True)
def cache_folder(tmp_path_factory, monkeypatch) -> Path:
    """Give each test a working folder and an image cache of its own; return the latter."""
    monkeypatch.chdir(tmp_path_factory.mktemp("work"))
    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("DITCNN_CACHE", str(cache))
    return cache


def with_infinite_gradients(monkeypatch, *, steps: float = math.inf) -> None:
    """Make the gradients of the first steps infinite where the scaler of fp16 looks at them."""
    unscale, looks = torch.amp.GradScaler._unscale_grads_, []

    def overflown(scaler, optimizer, *arguments):
        looks.append(0)
        for group in optimizer.param_groups if len(looks) <= steps else ():
            for p in group["params"]:
                p.grad.fill_(math.inf)
        return unscale(scaler, optimizer, *arguments)

    monkeypatch.setattr(torch.amp.GradScaler, "_unscale_grads_", overflown)


def state_of(checkpoint: Path) -> dict[str, Any]:
    """Return what a checkpoint holds but for the seconds that the epochs took, which no two runs share."""
    state = load_state(checkpoint)
    state["progress"]["seconds"] = 0.0
    for line in (*state["lines"], state["result"]):
        line.pop("seconds", None)
    return state


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def until(condition: Callable[[], bool], *jobs: subprocess.Popen, seconds: float = 300) -> None:
    """Wait until a condition holds, for so many seconds, while the jobs run."""
    end = time.monotonic() + seconds
    while not condition():
        assert all(job.poll() is None for job in jobs), [job.communicate() for job in jobs if job.poll() is not None]
        assert time.monotonic() < end
        time.sleep(0.005)


def shade(label: int, number: int) -> int:
    """Return a grey level that tells class and image apart."""
    return 40 * label + 3 * number


def idx_bytes(array: np.ndarray) -> bytes:
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes()
    return header + array.astype(np.uint8).tobytes()


def write_idx(
    folder: Path, *, classes: int = 3, train: int = 60, test: int = 12, zipped: bool = False, size: int = SIZE
) -> Path:
    """Write MNIST-like files whose classes differ in brightness, with noise."""
    folder.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(0)
    for part, count in (("train", train), ("t10k", test)):
        labels = np.arange(count) % classes
        images = np.clip(80 * labels[:, None, None] + noise.integers(0, 60, (count, size, size)), 0, 255)
        for name, array in ((f"{part}-images-idx3-ubyte", images), (f"{part}-labels-idx1-ubyte", labels)):
            content = idx_bytes(array)
            (folder / (name + ".gz" if zipped else name)).write_bytes(gzip.compress(content) if zipped else content)
    return folder


def write_class_folders(
    folder: Path, *, classes=("cat", "dog"), train: int = 3, test: int = 2, mode: str = "RGB", part: str = "test"
) -> Path:
    """Write PNGs ``train/<class>/0.png`` ... of one shade each."""
    for split, count in (("train", train), (part, test)):
        for label, name in enumerate(classes):
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = np.full((SIZE, SIZE) + ((3,) if mode == "RGB" else ()), shade(label, number), np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{number}.png")
    return folder


def write_tar(folder: Path, archive: Path, *, prefix: str = "") -> Path:
    with tarfile.open(archive, "w:gz" if archive.name.endswith("gz") else "w") as tar:
        tar.add(folder, arcname=prefix or ".")
    return archive


def write_cifar10(root: Path, *, per_batch: int = 4, protocol: int = 2) -> Path:
    """Write CIFAR-10's folder with a few images; pixel [0, 0] of each channel is known."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for number, name in enumerate([f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]):
        pixels = np.zeros((per_batch, 3, 32, 32), np.uint8)
        pixels[:, :, 0, 0] = [number, 100, 200]
        labels = [(number * per_batch + i) % 10 for i in range(per_batch)]
        batch = {
            "data": pixels.reshape(per_batch, 3072),
            "labels": labels,
            "batch_label": "x",
            "filenames": ["f"] * per_batch,
        }
        (folder / name).write_bytes(pickle.dumps(batch, protocol))
    meta = {"label_names": [f"class{i}" for i in range(10)], "num_cases_per_batch": per_batch, "num_vis": 3072}
    (folder / "batches.meta").write_bytes(pickle.dumps(meta, protocol))
    return root


def write_cifar100(root: Path) -> Path:
    folder = root / "cifar-100-python"
    folder.mkdir(parents=True)
    for name, count in (("train", 200), ("test", 100)):
        labels = [i % 100 for i in range(count)]
        batch = {"data": np.zeros((count, 3072), np.uint8), "fine_labels": labels, "coarse_labels": [0] * count}
        (folder / name).write_bytes(pickle.dumps(batch, 2))
    meta = {"fine_label_names": [f"fine{i}" for i in range(100)], "coarse_label_names": ["c"] * 20}
    (folder / "meta").write_bytes(pickle.dumps(meta, 2))
    return root


@pytest.fixture
def idx_folder(tmp_path: Path) -> Path:
    return write_idx(tmp_path / "idx")
