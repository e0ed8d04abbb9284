"""Compile ``kernel.c`` once for this machine, and load it."""

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
import warnings
from pathlib import Path

from ditcnn.system.caches import cache_folder

__all__ = ["load_library"]

SOURCE = Path(__file__).with_name("kernel.c")
# For this very processor; contraction makes a multiplication and an addition one instruction.
FLAGS = ("-O3", "-std=c11", "-ffp-contract=fast", "-fopenmp", "-fPIC", "-shared")
TUNE = ("-mcpu=native",) if platform.machine() in ("aarch64", "arm64", "ppc64le") else ("-march=native",)


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
        detail = getattr(error, "stderr", None) or str(error)
        warnings.warn(f"kernel.c could not be compiled; quadratic_form takes its slower form: {detail}", stacklevel=2)
        return None


def open_library(path: Path) -> ctypes.CDLL:
    """Return the compiled code in a file."""
    library = ctypes.CDLL(str(path))
    library.ditcnn_packed_size.restype = ctypes.c_int64
    return library


def find_compiler() -> str | None:
    """Return the path of ``$CC``, gcc or cc, the first that is GCC: others bring an OpenMP of their own beside torch's."""
    for name in (os.environ.get("CC"), "gcc", "cc"):
        path = shutil.which(name) if name else None
        if path is not None and "clang" not in _version(path):
            return path
    return None


def _version(compiler: str) -> str:
    return subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False).stdout


def _library(compiler: str) -> ctypes.CDLL:
    """Return the code in the cache folder, compiled if it is not there: one file for each source, compiler and processor."""
    version = _version(compiler)
    key = hashlib.sha256("\0".join([SOURCE.read_text(), version, *FLAGS, *TUNE, _processor()]).encode()).hexdigest()
    name = f"native-{key[:24]}.so"
    try:
        path = cache_folder() / name
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            compile_kernel(compiler, path)
        return open_library(path)
    except (OSError, RuntimeError):  # no home, a read-only one, one that may hold no code, or a file that is none
        with tempfile.TemporaryDirectory(prefix="ditcnn-") as folder:
            return open_library(compile_kernel(compiler, Path(folder) / name))


def compile_kernel(compiler: str, path: Path, *more: str) -> Path:
    """Compile with ``more`` flags into ``path``, which is whole or not there."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".so")
    os.close(handle)
    try:
        command = [compiler, *FLAGS, *TUNE, *more, str(SOURCE), "-o", temporary]
        subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())  # a file that a crash cut off would kill the process that loads it
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)  # a linker that fails has deleted it
        raise
    return path


def _processor() -> str:
    """Return what a processor can do, as far as the kernel tells: code for one may not run on another."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    kept = {line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part"))}
    return "\n".join([platform.machine(), *sorted(kept)])
