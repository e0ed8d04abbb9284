"""Starting: what is imported when, and how every command ends."""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from ditcnn.cli import COMMANDS, main
from ditcnn.experiments import EXPERIMENTS
from ditcnn.recipes import RECIPES
from ditcnn.system import caches
from ditcnn.system.documents import read_json, read_yaml
from ditcnn.system.errors import InputError, RunFailed, ToldElsewhere

HEAVY = ("torch", "timm", "numpy", "torchvision", "matplotlib")
LIGHT = sorted(set(COMMANDS) - {"train", "reproduce"})


def python(code: str, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)


def heavy_modules_of(*arguments: str) -> list[str]:
    """Return the libraries that a command line has imported by its end, in a process of its own."""
    code = (
        "import sys\nfrom ditcnn.cli import main\n"
        f"try: main({list(arguments)!r})\nexcept SystemExit: pass\n"
        f"print('IMPORTED', *[name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = python(code)
    assert "IMPORTED" in done.stdout, done.stderr
    return done.stdout.rpartition("IMPORTED")[2].split()


@pytest.mark.parametrize("arguments", [(), ("--help",), ("--version",), ("trian",)])
def test_the_command_line_alone_imports_no_library_of_arrays(arguments):
    assert heavy_modules_of(*arguments) == []


@pytest.mark.parametrize("command", LIGHT)
@pytest.mark.parametrize("argument", ["--help", "--no-such-flag"])
def test_help_and_a_misspelt_flag_of_a_command_import_no_library_of_arrays(command, argument):
    assert heavy_modules_of(command, argument) == []


@pytest.mark.parametrize(
    "imports",
    [
        "import ditcnn, timm",
        "import timm, ditcnn",
        "import ditcnn\nfrom timm.data import create_transform",
        "from ditcnn.layers import QuadraticConv2d",  # which imports timm half way
        "import ditcnn.cost",
        "import ditcnn.models.cifar_resnet",
        "from ditcnn import *; add_quadratic",
    ],
)
def test_the_models_are_registered_in_any_order_of_imports(imports):
    done = python(f"{imports}\nimport timm\nprint(type(timm.create_model('dit_resnet20')).__name__)")
    assert done.stdout == "DitResNet\n", done.stderr


def test_the_models_are_there_in_workers_and_under_torchrun(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import multiprocessing\nimport ditcnn\n"
        "def registered(_):\n    import timm\n    return timm.is_model('dit_resnet20')\n"
        "if __name__ == '__main__':\n"
        "    with multiprocessing.get_context('forkserver').Pool(1) as pool:\n"
        "        print(registered(0), *pool.map(registered, [0]))\n"
    )
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=1", "--master_port=0", str(script)]
    done = subprocess.run(launch, capture_output=True, text=True, check=False)
    assert done.stdout == "True True\n", done.stderr


def test_timm_that_cannot_be_imported_tells_so_itself_and_may_be_imported_later(tmp_path):
    (tmp_path / "timm.py").write_text("raise RuntimeError('broken')")
    code = (
        "import sys, ditcnn\nsys.path.insert(0, sys.argv[1])\n"
        "try: import timm\nexcept RuntimeError as error: print(error)\n"
        "sys.path.pop(0)\nimport timm\nprint(timm.is_model('dit_resnet20'))"
    )
    done = python(code, str(tmp_path))
    assert done.stdout == "broken\nTrue\n", done.stderr


def test_what_the_package_offers_is_listed_and_nothing_else_is_made_up():
    code = (
        "import ditcnn, sys\nassert set(ditcnn.__all__) <= set(dir(ditcnn))\nassert 'torch' not in sys.modules\n"
        "for name in dir(ditcnn): getattr(ditcnn, name)\n"
        "import timm, inspect\nassert 'import' in inspect.getsource(timm)\n"
        "try: ditcnn.add_quadratics\nexcept AttributeError as error: print(error)"
    )
    done = python(code)
    assert done.stdout == "module 'ditcnn' has no attribute 'add_quadratics'\n", done.stderr


def command_line(*arguments: str, **options) -> subprocess.CompletedProcess:
    options = {"capture_output": True, "text": True, "check": False} | options
    return subprocess.run([sys.executable, "-m", "ditcnn", *arguments], **options)


def through_shell(line: str, **options) -> subprocess.CompletedProcess:
    """Run a line of the shell in which $DITCNN is the program; options and environment as for `command_line`."""
    environment = os.environ | {"PYTHONUNBUFFERED": "", "DITCNN": f"{sys.executable} -m ditcnn"} | options.pop("env", {})
    return subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False, env=environment, **options)


def test_output_that_is_closed_full_or_cut_off_is_one_line_or_none():
    for line, status, said in (
        ("$DITCNN --help >&-", 2, "ditcnn: standard output is closed: send it to a file or to /dev/null.\n"),
        ("$DITCNN --help >/dev/full", 2, "ditcnn: standard output: No space left on device.\n"),
        ("$DITCNN bench --help >/dev/full", 2, "ditcnn: standard output: No space left on device.\n"),
        ("set -o pipefail; $DITCNN list recipes | true", 141, ""),
        ("set -o pipefail; yes | $DITCNN trian 2>&-", 2, ""),
    ):
        done = through_shell(line)
        assert (done.returncode, done.stderr) == (status, said), line


def test_ctrl_c_during_the_imports_is_one_line():
    job = subprocess.Popen(
        [sys.executable, "-X", "importtime", "-m", "ditcnn", "eval", "resnet20", "--data", "x"],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert job.stderr is not None
    for line in job.stderr:
        if line.endswith("| torch._C\n") or "torch.cuda" in line:
            job.send_signal(signal.SIGINT)
            break
    rest = [line for line in job.stderr if not line.startswith("import time:")]
    assert job.wait() in (130, -signal.SIGINT)
    assert rest == ["ditcnn: interrupted.\n"]


class Fault:
    """A command that ends in some error."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __call__(self, argv: list[str]) -> None:
        raise self.error


def ending(monkeypatch, capsys, error: BaseException) -> tuple[int, str]:
    monkeypatch.setattr("ditcnn.cli.bench.bench_command", Fault(error))
    status = main(["bench"])
    return status, capsys.readouterr().err


def test_a_fault_of_our_own_is_one_line_and_its_traceback_is_kept(monkeypatch, capsys, cache_folder):
    status, said = ending(monkeypatch, capsys, TypeError("half a\nmessage"))
    assert (status, said.count("\n")) == (1, 1)
    assert "a fault of ditcnn: TypeError: half a." in said
    (kept,) = (cache_folder / "faults").iterdir()
    assert str(kept) in said
    assert "Traceback" in kept.read_text()
    assert "raise self.error" in kept.read_text()


def test_where_nothing_can_be_written_a_traceback_is_printed(monkeypatch, capsys):
    Path("file").touch()
    monkeypatch.setenv("DITCNN_CACHE", "file/cache")
    monkeypatch.setattr("tempfile.gettempdir", lambda: "file/temporary")
    status, said = ending(monkeypatch, capsys, TypeError("x"))
    assert status == 1
    assert "Traceback" in said
    assert said.endswith("ditcnn: a fault of ditcnn: TypeError: x\n")


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (InputError("no\nsuch\x1b[31m thing \udcff"), 2, "no such\\x1b[31m thing \\xff"),
        (RunFailed("it broke"), 1, "it broke"),
        (KeyboardInterrupt(), 130, "interrupted."),
        (MemoryError(), 1, "out of memory: Take fewer or smaller images at a time."),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes\nmore"), 1, "out of memory: Default"),
        (OSError(28, "No space left on device", "a\nb"), 2, "a b: No space left on device."),
        (
            ModuleNotFoundError("No module named 'tyro'", name="tyro"),
            2,
            "a library cannot be imported: No module named 'tyro'",
        ),
        (ToldElsewhere(InputError("x")), 2, None),
    ],
)
def test_each_end_has_its_line_and_its_status(monkeypatch, capsys, error, status, said):
    got, line = ending(monkeypatch, capsys, error)
    assert got == status
    assert line == "" if said is None else line.startswith(f"ditcnn: {said}")
    assert line.count("\n") <= 1


def test_a_message_without_end_is_cut(monkeypatch, capsys):
    _, line = ending(monkeypatch, capsys, InputError("x" * 10_000 + "end"))
    assert len(line) < 700
    assert line.endswith("end\n")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["bench", "op", "--out", ""], "the value of --out is empty; is a variable of the shell not set?"),
        (["bench", "op", "--out="], "the value of --out is empty"),
        (["report", ""], "the value is empty"),
        (["report", "a\0b"], "has a NUL in it"),
        (["export", "a\0b", "--format", "onnx", "--out", "x"], "has a NUL in it"),
        (["info", "resnet20", "--batch-size", str(10**30)], ""),
        (["info", "resnet20", "--image-size", str(10**30)], ""),
        (["info", "resnet20", "--model-kwargs", f"num_classes={10**30}"], "model resnet20 with"),
        (["eval", "resnet20", "--data", "x", "--image-size", str(10**30)], "--image-size must be at most"),
        (["report", "\udcff\x1b]0;x"], "\\xff\\x1b]0;x: no such folder"),
        (["predict", "resnet20", "no\nsuch"], "no such: no such file or folder."),
    ],
)
def test_values_that_no_command_can_use_are_one_line(capsys, arguments, said):
    assert main(arguments) == 2
    *_, line = capsys.readouterr().err.splitlines()
    assert line.startswith("ditcnn: ")
    assert said in line
    assert "Traceback" not in line


def test_a_user_without_home_has_a_cache_that_nobody_else_writes_to(monkeypatch, tmp_path):
    def nobody() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("DITCNN_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(caches.Path, "home", nobody)
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    caches._among_temporary_files.cache_clear()
    own = caches.cache_folder()
    assert own == tmp_path / f"ditcnn-{os.getuid()}"
    assert own.stat().st_mode & 0o777 == 0o700
    own.rmdir()
    (tmp_path / "elsewhere").mkdir()
    own.symlink_to(tmp_path / "elsewhere")  # planted
    caches._among_temporary_files.cache_clear()
    assert caches.cache_folder().resolve() != (tmp_path / "elsewhere").resolve()
    assert caches.cache_folder() == caches.cache_folder()
    caches._among_temporary_files.cache_clear()


@pytest.mark.parametrize("what", [[], ["models"], ["recipes"], ["experiments"]])
def test_lists_fit_a_terminal_and_name_everything(capsys, what):
    assert main(["list", *what]) == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80
    for part, names in (
        ("models", ["dit_resnet20", "with_quadratic"] if what else ["dit_resnet*"]),
        ("recipes", list(RECIPES)),
        ("experiments", list(EXPERIMENTS)),
    ):
        if part in what or not what:
            assert all(name in text for name in names)


def test_settings_nested_without_end_are_refused_in_little_memory(tmp_path):
    for text in ("a: " + "[" * 200_000, "a: &a [1]\nb: *a", "x" * 2**21, "{" * 3_000 + "}" * 3_000):
        (tmp_path / "config.yaml").write_text(text)
        with pytest.raises(InputError, match=r"config\.yaml"):
            read_yaml(tmp_path / "config.yaml")
    (tmp_path / "deep.json").write_text("[" * 200_000)
    with pytest.raises(InputError, match="nested too deeply"):
        read_json(tmp_path / "deep.json")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="is a folder, a pipe or a device"):
        read_yaml(tmp_path / "pipe")
