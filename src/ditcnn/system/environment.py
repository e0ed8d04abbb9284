"""What a run ran on."""

import datetime
import json
import platform
import subprocess
import sys
import warnings
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from ditcnn.system.documents import read_json
from ditcnn.system.errors import InputError
from ditcnn.system.files import write_atomically

__all__ = ["describe_environment", "read_launches", "record_launch", "short_commit"]

_PACKAGES = ("ditcnn", "torch", "torchvision", "timm", "numpy", "scikit-learn")


def describe_environment(device: torch.device, processes: int = 1) -> dict[str, Any]:
    """Return versions, commit, machine and command of this process, and the number of those that train together."""
    return {
        "command": ["ditcnn", *sys.argv[1:]],
        "started": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in _PACKAGES},
        "commit": _commit(),
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "processes": processes,
    }


def read_launches(path: Path) -> list[dict[str, Any]]:
    """Return the launches that an ``env.json`` lists.

    Raises:
        InputError: It is damaged.
    """
    found = read_json(path)
    launches = found.get("launches") if isinstance(found, dict) else None
    if not isinstance(launches, list) or not launches or not all(isinstance(launch, dict) for launch in launches):
        raise InputError(f"{path} is damaged: it must hold a list of launches.")
    return launches


def record_launch(path: Path, device: torch.device, processes: int = 1) -> list[str]:
    """Add this process to the launches in ``env.json``; return what differs from the first in a way that changes bits."""
    try:
        launches = read_launches(path) if path.exists() else []
    except InputError as error:
        warnings.warn(f"{error} It is begun anew: of the launches before nothing is known.", stacklevel=2)
        launches = []
    launches.append(describe_environment(device, processes))
    write_atomically(path, (json.dumps({"launches": launches}, indent=2) + "\n").encode())
    first, this = {"processes": 1} | launches[0], launches[-1]
    return [
        f"{key}: {first.get(key)} then, {this[key]} now"
        for key in ("packages", "commit", "device", "processor", "threads", "processes")
        if first.get(key) != this[key]
    ]


def short_commit(commit: str) -> str:
    """Return the first 12 digits of a commit, with its + for changes since.

    >>> short_commit("0123456789abcdef+"), short_commit("unknown")
    ('0123456789ab+', 'unknown')
    """
    return commit[:12] + "+" * (commit.endswith("+") and len(commit) > 12)


def _commit() -> str | None:
    """Return the commit that last changed this package, with a + for changes since; None outside its repository."""
    here = Path(__file__).parent.parent

    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", str(here), *words], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        commit = git("log", "-1", "--format=%H", "--", ".")
        return commit + ("+" if git("status", "--porcelain", "--", ".") else "") if commit else None
    except (OSError, subprocess.CalledProcessError):
        return None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()
