"""Starting: what is imported when, and how every command ends."""

import subprocess
import sys

import pytest

from ditcnn.cli import COMMANDS

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
