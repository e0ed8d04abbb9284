"""Named files of a folder or of a tar archive, read alike."""

import hashlib
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol

from ditcnn.data.archives import check_size, list_archive, read_members
from ditcnn.data.names import is_junk
from ditcnn.system.errors import InputError

__all__ = ["Files", "Walk", "fingerprint", "only_parent", "open_files", "read_file"]

MAX_DEPTH = 16
MAX_LINKED = 2  # links to folders on the way to a file: more would only go round


class Files(Protocol):
    """Files with relative POSIX names; junk is left out."""

    path: Path
    names: list[str]
    folders: set[str]
    notes: tuple[str, ...]

    def read(self, name: str, limit: int) -> bytes:
        """Return the content of a file; raise `InputError` if it has more than ``limit`` bytes."""
        ...

    def read_all(self, names: Iterable[str], limit: int) -> Iterator[tuple[str, bytes]]:
        """Yield name and content of files, one in memory at a time, in the order in which they are read soonest."""
        ...

    def where(self, name: str) -> str:
        """Return a file's place as messages name it."""
        ...


class FolderFiles:
    """The files below a folder."""

    def __init__(self, path: Path) -> None:
        walk = Walk(path)
        self.path = path
        self.names = sorted(walk.files())
        self.folders = walk.folders
        self.notes = walk.notes

    def read(self, name: str, limit: int) -> bytes:
        """Return the content of a file."""
        return read_file(self.path / name, limit)

    def read_all(self, names: Iterable[str], limit: int) -> Iterator[tuple[str, bytes]]:
        """Yield name and content of files."""
        for name in names:
            yield name, self.read(name, limit)

    def where(self, name: str) -> str:
        """Return a file's path."""
        return str(self.path / name)


class ArchiveFiles:
    """The files of a tar archive, plain or gzipped."""

    def __init__(self, path: Path) -> None:
        listing = list_archive(path)
        self.path = path
        self.names = sorted(member.name for member in listing.members)
        self.folders = listing.folders
        self.notes = listing.notes
        self.members = {member.name: member for member in listing.members}

    def read(self, name: str, limit: int) -> bytes:
        """Return the content of a file."""
        return next(self.read_all([name], limit))[1]

    def read_all(self, names: Iterable[str], limit: int) -> Iterator[tuple[str, bytes]]:
        """Yield name and content of files in the order in which they lie in the archive, which is read once."""
        return read_members(self.path, [self.members[name] for name in names], limit)

    def where(self, name: str) -> str:
        """Return a file's path in its archive."""
        return f"{self.path}:{name}"


class Walk:
    """The regular files below a folder, links followed: those that go round end, and what leads nowhere is counted."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.folders: set[str] = set()
        self.lost_links: list[str] = []

    def files(self) -> Iterator[str]:
        """Yield names below the folder, junk left out."""
        return (name for name, _ in self.entries())

    def entries(self) -> "Iterator[tuple[str, os.DirEntry[str]]]":
        """Yield the files with the system's entries."""
        return self._below(self.path, "", (_identity(self.path),), 0)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should be told: links that lead nowhere."""
        if not self.lost_links:
            return ()
        count = len(self.lost_links)
        return (f"{count} symbolic link{'s' if count > 1 else ''} to nothing left out, {self.lost_links[0]} first",)

    def _below(
        self, folder: Path, prefix: str, above: tuple[tuple[int, int], ...], linked: int
    ) -> "Iterator[tuple[str, os.DirEntry[str]]]":
        with os.scandir(folder) as scan:
            found = [entry for entry in scan if not is_junk(entry.name)]
        for entry in found:
            name = prefix + entry.name
            kind = _kind(entry)
            if kind == "file":
                yield name, entry
            elif kind == "folder":
                here = _identity(Path(entry.path))
                links = linked + entry.is_symlink()
                if here not in above and links <= MAX_LINKED and len(above) < MAX_DEPTH:
                    self.folders.add(name)
                    yield from self._below(Path(entry.path), f"{name}/", (*above, here), links)
            elif kind == "lost":
                self.lost_links.append(name)


def open_files(path: Path) -> Files:
    """Return the files of a folder or tar archive.

    Raises:
        InputError: There is no such path, or it is neither.
    """
    if path.is_dir():
        return FolderFiles(path)
    if path.is_file():
        return ArchiveFiles(path)
    raise InputError(f"{path} is neither a folder nor a file." if path.exists() else f"{path}: no such folder or archive.")


def read_file(path: Path, limit: int) -> bytes:
    """Return the content of a regular file.

    Raises:
        InputError: It is none, or has more than ``limit`` bytes.
        OSError: It cannot be read.
    """
    with path.open("rb") as file:
        about = os.fstat(file.fileno())
        if not stat.S_ISREG(about.st_mode):
            raise InputError(f"{path} is no regular file.")
        check_size(str(path), about.st_size, limit)
        return file.read(limit + 1)


def fingerprint(path: Path) -> str:
    """Return a text that changes with the name, size, times or inode of a file at or below ``path``.

    A file that is replaced by one of equal size and time has another inode, or another time of change, which no
    program sets. What changes neither is not seen: bytes that rot on the disk, or a disk of a network that reports neither.
    """
    digest = hashlib.sha256(f"{path.resolve()}\n".encode(errors="surrogatepass"))
    stats = {}
    if path.is_dir():
        stats = {name: entry.stat() for name, entry in Walk(path).entries()}
    elif path.is_file():
        stats = {"": path.stat()}
    for name, s in sorted(stats.items(), key=lambda item: item[0]):
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


def _kind(entry: "os.DirEntry[str]") -> str:
    """Return ``file``, ``folder``, ``lost`` for a link to nothing or to itself, or ``other``."""
    try:
        if entry.is_file():
            return "file"
        if entry.is_dir():
            return "folder"
        return "lost" if entry.is_symlink() and not Path(entry.path).exists() else "other"
    except OSError:  # too many links
        return "lost"


def _identity(folder: Path) -> tuple[int, int]:
    about = folder.stat()
    return about.st_dev, about.st_ino
