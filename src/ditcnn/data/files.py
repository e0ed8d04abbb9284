"""Named files of a folder or of a tar archive, read alike."""

import gzip
import hashlib
import io
import os
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from ditcnn.system.errors import InputError

__all__ = ["Files", "fingerprint", "only_parent", "open_files"]

MAX_DEPTH = 5  # DIR/MNIST/raw/file and DIR/name/train/class/file are the deepest layouts


class Files(Protocol):
    """Files with relative POSIX names; hidden ones are left out."""

    path: Path
    names: list[str]
    folders: set[str]

    def read(self, name: str) -> bytes:
        """Return the content of a file."""
        ...

    def where(self, name: str) -> str:
        """Return a file's place as messages name it."""
        ...


class FolderFiles:
    """The files below a folder."""

    def __init__(self, path: Path) -> None:
        entries = list(_walk(path))
        self.path = path
        self.names = sorted(name for name, entry in entries if entry.is_file())
        self.folders = {name for name, entry in entries if entry.is_dir()}

    def read(self, name: str) -> bytes:
        """Return the content of a file."""
        return (self.path / name).read_bytes()

    def where(self, name: str) -> str:
        """Return a file's path."""
        return str(self.path / name)


class TarFiles:
    """The files of a tar archive, plain or gzipped, read into memory whole.

    Raises:
        InputError: The archive is damaged. tarfile alone takes a damaged header for the end, and reads no checksum.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.folders: set[str] = set()
        self._content: dict[str, bytes] = {}
        content = path.read_bytes()
        try:
            if content[:2] == b"\x1f\x8b":
                content = gzip.decompress(content)  # to the end, where the checksum is
            with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as archive:
                for member in archive:
                    self._add(archive, member)
                rest = content[archive.offset :]
        except (tarfile.TarError, EOFError, OSError, zlib.error, KeyError) as error:
            raise InputError(f"{path} is not a readable .tar or .tar.gz: {str(error).splitlines()[0]}.") from None
        if rest.count(0) != len(rest):
            raise InputError(f"{path} is damaged after {len(self._content)} files: the next header makes no sense.")
        self.names = sorted(self._content)

    def _add(self, archive: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        name = os.path.normpath(member.name)
        if any(part.startswith(".") for part in name.split("/")):
            return
        if member.isdir():
            self.folders.add(name)
        elif member.isreg() or member.islnk():  # symbolic links may lead out of the archive
            file = archive.extractfile(member)
            self._content[name] = file.read() if file else b""
            self.folders.update(str(parent) for parent in Path(name).parents if str(parent) != ".")

    def read(self, name: str) -> bytes:
        """Return the content of a file."""
        return self._content[name]

    def where(self, name: str) -> str:
        """Return a file's path in its archive."""
        return f"{self.path}:{name}"


def open_files(path: Path) -> Files:
    """Return the files of a folder or tar archive.

    Raises:
        InputError: There is no such path, or it is neither.
    """
    if path.is_dir():
        return FolderFiles(path)
    if path.is_file():
        return TarFiles(path)
    raise InputError(f"{path}: no such folder or archive.")


def fingerprint(path: Path) -> str:
    """Return a text that changes when the name, size or time of a file at or below ``path`` does."""
    digest = hashlib.sha256(f"{path.resolve()}\n".encode())
    stats = {}
    if path.is_dir():
        stats = {name: entry.stat() for name, entry in _walk(path) if entry.is_file()}
    elif path.is_file():
        stats = {"": path.stat()}
    for name, stat in sorted(stats.items(), key=lambda item: item[0]):
        digest.update(f"{name}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _walk(folder: Path, prefix: str = "", depth: int = MAX_DEPTH) -> "Iterator[tuple[str, os.DirEntry[str]]]":
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            yield prefix + entry.name, entry
            if entry.is_dir() and depth > 1:
                yield from _walk(Path(entry.path), f"{prefix}{entry.name}/", depth - 1)


def only_parent(parents: set[str], path: Path, what: str) -> None:
    """Raise unless the files of a set stand in one place.

    Raises:
        InputError: There are several sets below ``path``.
    """
    if len(parents) > 1:
        places = ", ".join(sorted(parent or "." for parent in parents))
        raise InputError(f"{path} holds several sets of {what}: {places}. Name one of them.")
