"""docs/imagenet.sbatch, run with stand-ins for SLURM's commands."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "docs" / "imagenet.sbatch"


@pytest.fixture
def slurm(tmp_path, monkeypatch) -> Path:
    """Put stand-ins into PATH, which note how they are called; srun's step lasts until scancel asks it to end."""
    commands = {
        "scontrol": 'case "$1" in show) printf "node7\\nnode8\\n";; *) echo "scontrol $*" >> log;; esac',
        "scancel": 'echo "scancel $*" >> log; touch asked',
        "srun": 'echo "srun $*" >> log; [ -n "$STATUS" ] && exit "$STATUS"\n'
        "while [ ! -e asked ]; do sleep 0.05; done; sleep 0.2; echo saved >> log; exit 1",
    }
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in commands.items():
        (folder / name).write_text(f"#!/bin/bash\n{text}\n")
        (folder / name).chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    for name, value in {"JOB_ID": "42", "JOB_NODELIST": "node[7-8]", "NNODES": "2"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    monkeypatch.setenv("DATA", "/data")
    monkeypatch.setenv("RUN", "/runs/a")
    return tmp_path / "log"


def called(log: Path, word: str, within_s: float = 20.0) -> None:
    """Wait until the log holds a word."""
    end = time.monotonic() + within_s
    while not log.exists() or word not in log.read_text():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.parametrize("signum", [signal.SIGUSR1, signal.SIGTERM])
def test_a_warned_job_is_requeued_once_its_step_has_saved(slurm, signum):
    with subprocess.Popen(["bash", str(SCRIPT)]) as job:
        called(slurm, "srun")
        job.send_signal(signum)
        called(slurm, "scancel")
        job.send_signal(signal.SIGTERM)  # a second warning, while it saves
        assert job.wait(20) == 0
    start, *after = slurm.read_text().splitlines()
    assert start.startswith("srun")
    assert after == ["scancel --signal=TERM 42.0", "saved", "scontrol requeue 42"]


def test_one_torchrun_a_node_meets_on_the_first_node_and_resumes(slurm, monkeypatch):
    monkeypatch.setenv("STATUS", "0")
    assert subprocess.run(["bash", str(SCRIPT), "--seed", "1"], check=False).returncode == 0
    command = slurm.read_text()
    assert "torchrun --nnodes=2 --nproc_per_node=8" in command
    assert "--rdzv-endpoint=node7:29500" in command
    expected = "-m ditcnn train imagenet --model dit_convnext_tiny --data /data --out /runs/a --workers 7 --resume --seed 1"
    assert expected in command


def test_a_run_that_fails_is_not_requeued(slurm, monkeypatch):
    monkeypatch.setenv("STATUS", "3")
    assert subprocess.run(["bash", str(SCRIPT)], check=False).returncode == 3
    assert "requeue" not in slurm.read_text()


def test_slurm_reads_each_of_its_lines():
    """Directives count up to the first command only."""
    lines = SCRIPT.read_text().splitlines()
    first_command = next(k for k, line in enumerate(lines) if line and not line.startswith("#"))
    directives = [k for k, line in enumerate(lines) if line.startswith("#SBATCH ")]
    assert directives
    assert max(directives) < first_command
    assert "#SBATCH --signal=B:USR1@120" in lines
