"""Named files of a folder or of a tar archive, read alike."""

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from pathlib import Path

from ditcnn.data.archives import list_archive, read_members
from ditcnn.data.names import is_junk
from ditcnn.system.errors import InputError
from ditcnn.system.files import read_file

__all__ = ["Files", "Walk", "fingerprint", "only_parent", "open_files"]

MAX_DEPTH = 16
MAX_LINKED = 2  # links to folders on the way to a file: more would only go round


class Files(ABC):
    """Files with relative POSIX names; junk is left out."""

    path: Path
    names: list[str]
    folders: set[str]
    notes: tuple[str, ...]

    def read(self, name: str, limit: int) -> bytes:
        """Return the content of a file; raise `InputError` if it has more than ``limit`` bytes."""
        return next(self.read_all([name], limit))[1]

    @abstractmethod
    def read_all(self, names: Iterable[str], limit: int) -> Iterator[tuple[str, bytes]]:
        """Yield name and content of files, one in memory at a time, in the order in which they are read soonest."""

    @abstractmethod
    def where(self, name: str) -> str:
        """Return a file's place as messages name it."""


class _FolderFiles(Files):
    def __init__(self, path: Path) -> None:
        walk = Walk(path)
        self.path, self.names = path, sorted(walk.files())
        self.folders, self.notes = walk.folders, walk.notes

    def read_all(self, names: Iterable[str], limit: int) -> Iterator[tuple[str, bytes]]:
        return ((name, read_file(self.path / name, limit)) for name in names)

    def where(self, name: str) -> str:
        return str(self.path / name)


class _ArchiveFiles(Files):
    def __init__(self, path: Path) -> None:
        self.path = path
        listed, self.folders, self.notes = list_archive(path)
        self._members = {member.name: member for member in listed}
        self.names = sorted(self._members)

    def read_all(self, names: Iterable[str], limit: int) -> Iterator[tuple[str, bytes]]:
        return read_members(self.path, [self._members[name] for name in names], limit)

    def where(self, name: str) -> str:
        return f"{self.path}:{name}"


class Walk:
    """The regular files below a folder, links followed: those that go round end, and what leads nowhere is counted."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.folders: set[str] = set()
        self._lost: list[str] = []

    def files(self) -> Iterator[str]:
        """Yield names below the folder, junk left out."""
        return self._below(self.path, "", (), 0)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should be told, when all files have been yielded: links that lead nowhere."""
        count = len(self._lost)
        return (f"{count} symbolic link{'s' * (count > 1)} to nothing left out, {self._lost[0]} first",) if count else ()

    def _below(self, folder: Path, prefix: str, above: tuple[tuple[int, int], ...], linked: int) -> Iterator[str]:
        about = folder.stat()
        here = (about.st_dev, about.st_ino)
        if here in above or linked > MAX_LINKED or len(above) == MAX_DEPTH:
            return
        if prefix:
            self.folders.add(prefix[:-1])
        for entry in list(os.scandir(folder)):
            if is_junk(entry.name):
                continue
            if entry.is_symlink() and not os.path.exists(entry.path):  # leads to nothing, or to itself
                self._lost.append(prefix + entry.name)
            elif entry.is_dir():
                below = f"{prefix}{entry.name}/"
                yield from self._below(Path(entry.path), below, (*above, here), linked + entry.is_symlink())
            elif entry.is_file():
                yield prefix + entry.name


def open_files(path: Path) -> Files:
    """Return the files of a folder or tar archive.

    Raises:
        InputError: There is no such path, or it is neither.
    """
    if path.is_dir():
        return _FolderFiles(path)
    if path.is_file():
        return _ArchiveFiles(path)
    raise InputError(f"{path} is neither a folder nor a file." if path.exists() else f"{path}: no such folder or archive.")


def fingerprint(path: Path) -> str:
    """Return a text that changes with the name, size, times or inode of a file at or below ``path``.

    A file that is replaced by one of equal size and time has another inode, or another time of change, which no
    program sets. What changes neither is not seen: bytes that rot on the disk, or a disk of a network that reports neither.
    """
    digest = hashlib.sha256(f"{path.resolve()}\n".encode(errors="surrogatepass"))
    for name in sorted(Walk(path).files()) if path.is_dir() else [""] * path.is_file():
        s = (path / name).stat()
        line = f"{name}\0{s.st_size}\0{s.st_mtime_ns}\0{s.st_ctime_ns}\0{s.st_ino}\n"
        digest.update(line.encode(errors="surrogatepass"))
    return digest.hexdigest()


def only_parent(parents: set[str], path: Path, what: str) -> None:
    """Raise unless the files of a set stand in one place.

    Raises:
        InputError: There are several sets below ``path``.
    """
    if len(parents) > 1:
        places = ", ".join(sorted(parent or "." for parent in parents))
        way = "Name one of them." if path.is_dir() else "Unpack it and name one of them."
        raise InputError(f"{path} holds several sets of {what}: {places}. {way}")
