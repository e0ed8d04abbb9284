"""Compile ``kernel.c`` once for this machine, and load it."""

import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import socket
import subprocess
import tempfile
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ditcnn.ops.native import kept
from ditcnn.system.caches import cache_folder

__all__ = ["compile_kernel", "find_compiler", "load_library", "open_library"]

SOURCE = Path(__file__).with_name("kernel.c")
# For this very processor; contraction makes a multiplication and an addition one instruction.
FLAGS = ("-O3", "-std=c11", "-ffp-contract=fast", "-fopenmp", "-fPIC", "-shared")
TUNE = ("-mcpu=native",) if platform.machine() in ("aarch64", "arm64", "ppc64le") else ("-march=native",)
VERSION_S, COMPILE_S = 10, 120  # seconds, of which a healthy compiler takes a hundredth
LONGEST = 1 << 16  # bytes kept of what a compiler says


@functools.cache
def load_library() -> ctypes.CDLL | None:
    """Return the compiled code, or None where it cannot be had; said once, as a warning.

    Only for Linux and GCC: there the loader takes the OpenMP library that torch has loaded, and no second one.
    ``DITCNN_NATIVE=0`` in the environment turns it off.
    """
    if os.environ.get("DITCNN_NATIVE") == "0" or platform.system() != "Linux":
        return None
    compiler = find_compiler()
    if compiler is None:
        warnings.warn("no C compiler found (gcc, or cc if it is gcc): quadratic_form takes its slower form.", stacklevel=2)
        return None
    try:
        return _library(compiler)
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        warnings.warn(f"kernel.c could not be compiled; quadratic_form takes its slower form: {error}", stacklevel=2)
        return None


def open_library(path: Path) -> ctypes.CDLL:
    """Return the compiled code in a file.

    Raises:
        OSError, RuntimeError: It is no such code.
    """
    library = ctypes.CDLL(str(path))
    try:
        library.ditcnn_packed_size.restype = ctypes.c_int64
    except AttributeError as error:
        raise RuntimeError(f"what the compiler wrote has no function of kernel.c: {error}") from None
    return library


def find_compiler() -> str | None:
    """Return ``$CC``, gcc or cc, the first that is GCC: others bring an OpenMP of their own beside torch's."""
    asked = os.environ.get("CC")
    for name in (asked, "gcc", "cc") if asked else ("gcc", "cc"):
        try:
            if "clang" not in _version(name):
                return name
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            if name == asked or not isinstance(error, FileNotFoundError):
                warnings.warn(f"the C compiler {name!r} is passed over: {error}", stacklevel=3)
    return None


@functools.cache
def _version(compiler: str) -> str:
    return _run([*_words(compiler), "--version"], VERSION_S)


def _words(compiler: str) -> list[str]:
    """Return a compiler's command, which may have arguments, as ``ccache gcc``; its program by its path."""
    words = shlex.split(compiler)
    path = shutil.which(words[0]) if words else None
    if path is None:
        raise FileNotFoundError(f"there is no program {compiler}.")
    return [path, *words[1:]]


def _library(compiler: str) -> ctypes.CDLL:
    """Return the code in the cache folder, compiled if it is not there: one file for each source, compiler and processor."""
    parts = [SOURCE.read_text(), _version(compiler), *FLAGS, *TUNE, _processor()]
    key = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]
    try:
        folder = cache_folder()
        for owner in dict.fromkeys((os.getuid(), 0)):  # what root has compiled serves all who share the cache
            if (code := kept.read(folder / f"native-{key}-{owner}.so", key, owner)) is not None:
                return _load(code)
        folder.mkdir(parents=True, exist_ok=True)
        with _workspace(folder) as work:
            code = compile_kernel(compiler, work / "new.so").read_bytes()
            library = _load(code)  # before it is kept
            kept.write(folder / f"native-{key}-{os.getuid()}.so", key, code, work)
            return library
    except (OSError, RuntimeError) as error:  # no home, a read-only one, or a file of another's in the place
        with _workspace(Path(tempfile.gettempdir())) as work:
            library = _load(compile_kernel(compiler, work / "new.so").read_bytes())
        warnings.warn(
            f"the compiled kernel cannot be kept, so each process compiles it: {error}. Name a folder of your own in "
            "DITCNN_CACHE.",
            stacklevel=3,
        )
        return library


def compile_kernel(compiler: str, path: Path, *more: str) -> Path:
    """Compile with ``more`` flags into ``path``.

    Raises:
        OSError, RuntimeError, subprocess.SubprocessError: The compiler failed, or wrote nothing; with what it said.
    """
    command = [*_words(compiler), *FLAGS, *TUNE, *more, str(SOURCE), "-o", str(path)]
    said = _run(command, COMPILE_S, TMPDIR=str(path.parent))
    if not path.is_file() or path.stat().st_size == 0:
        raise RuntimeError(f"{compiler} ended well and wrote nothing. {said}")
    return path


def _load(code: bytes) -> ctypes.CDLL:
    """Return the code, loaded from a private copy: a file that is cut or changed later cannot kill the process."""
    with suppress(OSError, AttributeError):  # no such call, or memory may hold no code
        descriptor = os.memfd_create("ditcnn-native")
        # It stays open: the loader knows a library by this name, and would take another of the same number for it.
        with os.fdopen(descriptor, "wb", closefd=False) as copy:
            copy.write(code)
        return open_library(Path(f"/proc/self/fd/{descriptor}"))
    with _workspace(Path(tempfile.gettempdir())) as work:
        (work / "native.so").write_bytes(code)
        return open_library(work / "native.so")


@contextmanager
def _workspace(folder: Path) -> Iterator[Path]:
    """Make a folder for a compiler's files, and delete it, and those that killed processes have left."""
    host = socket.gethostname()
    for left in folder.glob(f".ditcnn-compiles.{host}.*"):
        owner = left.name.split(".")[-2]
        if owner.isdigit() and not Path(f"/proc/{owner}").exists():
            shutil.rmtree(left, ignore_errors=True)  # of another user: it stays
    with tempfile.TemporaryDirectory(
        dir=folder, prefix=f".ditcnn-compiles.{host}.{os.getpid()}.", ignore_cleanup_errors=True
    ) as work:
        yield Path(work)


def _run(command: list[str], seconds: float, **environment: str) -> str:
    """Return the first words of what a command says, in any encoding.

    Raises:
        subprocess.SubprocessError: It failed, or was killed with all its children after ``seconds``.
    """
    late = threading.Event()
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=os.environ | environment,
        start_new_session=True,
    ) as process:

        def kill() -> None:
            late.set()
            with suppress(ProcessLookupError):
                os.killpg(process.pid, 9)

        timer = threading.Timer(seconds, kill)
        timer.start()
        assert process.stdout is not None
        try:
            said = process.stdout.read(LONGEST)
            while process.stdout.read(LONGEST):
                pass
            process.wait()
        except BaseException:
            kill()
            raise
        finally:
            timer.cancel()
    words = said.decode(errors="replace").strip()
    if late.is_set():
        raise subprocess.SubprocessError(f"{command[0]} did not end within {seconds:g} s.")
    if process.returncode:
        raise subprocess.SubprocessError(f"{command[0]} ended with status {process.returncode}: {words[-2000:]}")
    return words


def _processor() -> str:
    """Return what a processor can do, as far as the kernel tells: code for one may not run on another."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    kept = {line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part"))}
    return "\n".join([platform.machine(), *sorted(kept)])
