"""The cache of the compiled kernel: nothing is loaded that was not written whole by this user or root."""

import os
import random
import signal
import socket
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
import torch

from ditcnn import quadratic_form
from ditcnn.ops import native as native_module
from ditcnn.ops.native import build, native_available

pytestmark = pytest.mark.skipif(not native_available(), reason="no C compiler, or not Linux: no compiled code")
AS_ROOT = pytest.mark.skipif(os.getuid() != 0, reason="only root can give a file to another user")
ANEW = "is not used but made anew"


@pytest.fixture(scope="session")
def compiled(tmp_path_factory) -> Path:
    return build.compile_kernel(build.find_compiler(), tmp_path_factory.mktemp("compiled") / "kernel.so")


@pytest.fixture(autouse=True)
def compiler(compiled, tmp_path, monkeypatch):
    """Put a compiler in place that copies the kernel in no time, and counts its calls."""
    return fake(tmp_path, monkeypatch, f'cp {compiled} "$out"')


def fake(folder, monkeypatch, body, version="echo gcc 99") -> Path:
    script, calls = folder / "fake-cc", folder / "calls"
    lines = ["#!/bin/sh", f'if [ "$1" = --version ]; then {version}; exit 0; fi', f"echo >> {calls}", "for out; do :; done"]
    script.write_text("\n".join([*lines, body, ""]))
    script.chmod(0o755)
    monkeypatch.setenv("CC", str(script))
    build._version.cache_clear()
    return calls


def compiles(calls) -> int:
    return len(calls.read_text().splitlines()) if calls.exists() else 0


def load():
    """Load as a new process does."""
    return build.load_library.__wrapped__()


def kept(cache: Path) -> Path:
    (file,) = cache.glob("native-*.so")
    return file


def works(library) -> bool:
    return library.ditcnn_packed_size(3, 4) > 0


def quietly():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return load()


def test_one_compilation_serves_all_processes(cache_folder, compiler, monkeypatch):
    assert works(quietly())
    assert works(quietly())
    assert compiles(compiler) == 1
    assert [path.name for path in cache_folder.iterdir()] == [kept(cache_folder).name]
    monkeypatch.setattr(native_module, "load_library", quietly)
    x, weight = torch.randn(300, 16), torch.randn(4, 16, 16)
    torch.testing.assert_close(
        quadratic_form(x, weight, backend="native"), quadratic_form(x, weight, backend="reference"), rtol=1e-4, atol=1e-3
    )


def test_the_file_can_be_read_and_not_written_by_those_who_share_the_cache(cache_folder):
    before = os.umask(0o077)
    try:
        load()
    finally:
        os.umask(before)
    assert kept(cache_folder).stat().st_mode & 0o777 == 0o644


def damage(seed):
    """Return a way to damage a file: cut, flipped at one bit, emptied, lengthened."""
    dice = random.Random(seed)

    def change(content: bytes) -> bytes:
        place = dice.randrange(len(content))
        flipped = bytearray(content)
        flipped[place] ^= 1 << dice.randrange(8)
        return dice.choice([content[:place], bytes(flipped), bytes(flipped), b"", content + b"\0", bytes(len(content))])

    return change


@pytest.mark.parametrize("seed", range(40))
def test_a_damaged_file_is_made_anew_with_one_warning(cache_folder, compiler, seed):
    load()
    file = kept(cache_folder)
    whole = file.read_bytes()
    file.write_bytes(damage(seed)(whole))
    with pytest.warns(UserWarning, match=f"{ANEW}: it is not what was written") as told:
        assert works(load())
    assert len(told) == 1
    assert kept(cache_folder).read_bytes() == whole
    assert works(quietly())
    assert compiles(compiler) == 2


def test_a_file_that_is_cut_under_a_running_process_does_not_kill_it(cache_folder):
    code = """
import torch, ditcnn, pathlib, os
x, a = torch.ones(300, 32), torch.ones(32, 32, 32)
ditcnn.quadratic_form(x, a)
for path in pathlib.Path(os.environ["DITCNN_CACHE"]).glob("native-*.so"):
    os.truncate(path, 100)
x.requires_grad_()
ditcnn.quadratic_form(x, a).sum().backward()
print(x.grad.sum().item())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, str(300 * 32 * 2 * 32 * 32.0)), done.stderr
    assert kept(cache_folder).stat().st_size == 100


def test_code_for_another_processor_or_source_under_this_name_is_made_anew(cache_folder):
    load()
    file = kept(cache_folder)
    content = bytearray(file.read_bytes())
    content[-32:] = build.kept._digest("another key", bytes(content[:-32]))
    file.write_bytes(content)
    with pytest.warns(UserWarning, match=ANEW):
        assert works(load())


def plant_link(file, tmp_path):
    elsewhere = tmp_path / "elsewhere.so"
    file.rename(elsewhere)
    file.symlink_to(elsewhere)


def plant_folder(file, tmp_path):
    file.unlink()
    os.mkfifo(file)


@pytest.mark.parametrize(
    ("plant", "reason"),
    [
        (plant_link, "it is a link"),
        (plant_folder, "it is no file"),
        (lambda file, _: file.chmod(0o666), "others may write to it"),
        (lambda file, _: file.chmod(0o664), "others may write to it"),
        pytest.param(lambda file, _: os.chown(file, 12345, 12345), "it belongs to another user", marks=AS_ROOT),
    ],
)
def test_what_another_may_have_planted_is_not_executed(cache_folder, compiler, tmp_path, plant, reason):
    load()
    file = kept(cache_folder)
    plant(file, tmp_path)
    with pytest.warns(UserWarning, match=f"{ANEW}: {reason}") as told:
        assert works(load())
    assert len(told) == 1
    assert compiles(compiler) == 2
    assert not file.is_symlink()
    assert works(quietly())


@AS_ROOT
def test_what_root_compiled_serves_others_and_what_another_did_does_not(cache_folder, compiler, monkeypatch):
    load()
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    assert works(quietly())
    assert compiles(compiler) == 1
    monkeypatch.setattr(os, "getuid", lambda: 0)
    kept(cache_folder).rename(cache_folder / kept(cache_folder).name.replace("-0.so", "-12345.so"))
    assert works(quietly())  # 12345's file has a name of its own, and is not looked at
    assert compiles(compiler) == 2


def test_a_cache_that_cannot_be_written_is_told_with_what_to_do(cache_folder, compiler, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file" / "cache", Path("/proc/cache")):
        monkeypatch.setenv("DITCNN_CACHE", str(place))
        with pytest.warns(UserWarning, match="each process compiles it.*DITCNN_CACHE") as told:
            assert works(load())
        assert len(told) == 1


def test_what_killed_compilers_left_is_swept_and_living_ones_are_not_disturbed(cache_folder):
    host = socket.gethostname()
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    left = cache_folder / f".ditcnn-compiles.{host}.{dead.pid}.abc"
    living = cache_folder / f".ditcnn-compiles.{host}.{os.getppid()}.abc"
    elsewhere = cache_folder / f".ditcnn-compiles.another-{host}.{dead.pid}.abc"
    for folder in (left, living, elsewhere):
        folder.mkdir()
        (folder / "cc123.s").write_text("half")
    load()
    assert (left.exists(), living.exists(), elsewhere.exists()) == (False, True, True)


def test_a_process_killed_while_it_compiles_leaves_nothing_after_the_next(cache_folder, compiled, tmp_path, monkeypatch):
    fake(tmp_path, monkeypatch, "echo half > $TMPDIR/cc1.s; sleep 1000")
    code = "from ditcnn.ops.native.build import load_library; load_library()"
    process = subprocess.Popen([sys.executable, "-c", code], env=os.environ)
    end = time.monotonic() + 60
    while not list(cache_folder.glob(".ditcnn-compiles.*/cc1.s")):
        assert time.monotonic() < end
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert list(cache_folder.iterdir())
    fake(tmp_path, monkeypatch, f'cp {compiled} "$out"')
    load()
    assert [path.name for path in cache_folder.iterdir()] == [kept(cache_folder).name]


def test_a_compiler_that_hangs_is_bounded_and_told(tmp_path, monkeypatch, cache_folder):
    monkeypatch.setattr(build, "VERSION_S", 0.3)
    monkeypatch.setattr(build, "COMPILE_S", 0.3)
    fake(tmp_path, monkeypatch, "sleep 1000 & sleep 1000")
    start = time.monotonic()
    with pytest.warns(UserWarning, match="could not be compiled.*did not end within 0.3 s"):
        assert load() is None
    fake(tmp_path, monkeypatch, "", version="sleep 1000 & sleep 1000")
    with pytest.warns(UserWarning, match="fake-cc' is passed over: .*did not end within 0.3 s"):
        build.find_compiler()
    assert time.monotonic() - start < 5
    assert not list(cache_folder.iterdir())


ODD = {
    "a flood": ("while :; do echo flood; done", "did not end within"),
    "no output": ("exit 0", "ended well and wrote nothing"),
    "no code": ('echo nothing > "$out"', "native.so"),
    "other code": ('printf "int x;" | gcc -shared -x c - -o "$out"', "has no function of kernel.c"),
    "a failure in no encoding": (r"printf '\377\376 strange'; exit 3", "ended with status 3.* strange"),
}


@pytest.mark.parametrize("kind", ODD)
def test_an_odd_compiler_is_told(tmp_path, monkeypatch, cache_folder, kind):
    monkeypatch.setattr(build, "COMPILE_S", 1)
    body, message = ODD[kind]
    fake(tmp_path, monkeypatch, body)
    with pytest.warns(UserWarning, match=f"(?s)could not be compiled.*{message}"):
        assert load() is None
    assert not list(cache_folder.iterdir())


@pytest.mark.parametrize(
    ("cc", "message"),
    [
        ("no-such-compiler", "there is no program no-such-compiler"),
        ("'unclosed", "closing quotation"),
        ("false", "ended with status 1"),
        ("/dev/null", "there is no program"),
    ],
)
def test_a_cc_that_is_no_compiler_is_passed_over_and_told(monkeypatch, cc, message):
    monkeypatch.setenv("CC", cc)
    with pytest.warns(UserWarning, match=f"(?i)is passed over: .*{message}"):
        assert build.find_compiler() in ("gcc", "cc")


def test_a_cc_with_arguments_is_taken_with_them(compiled, compiler, tmp_path, monkeypatch):
    monkeypatch.setenv("CC", f"env FLAG=1 {tmp_path / 'fake-cc'}")
    build._version.cache_clear()
    assert build._words(os.environ["CC"])[1:] == ["FLAG=1", str(tmp_path / "fake-cc")]
    monkeypatch.setattr(build, "_version", lambda name: "gcc 99")  # env has a version of its own
    assert works(quietly())
    assert compiles(compiler) == 1
