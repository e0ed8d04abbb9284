"""Named files of a folder or of a tar archive, read alike."""

import hashlib
import os
import tarfile
import zlib
from pathlib import Path

from ditcnn.errors import InputError

__all__ = ["Files", "open_files"]

MAX_DEPTH = 5  # DIR/MNIST/raw/file and DIR/name/train/class/file are the deepest layouts


class Files:
    """The files below a folder: relative POSIX names, sorted; hidden ones left out.

    Attributes:
        path: The folder or archive.
        names: Names of the files.
        folders: Names of the folders.
        fingerprint: Changes when any file's name, size or time changes.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        digest = hashlib.sha256(str(path.resolve()).encode())
        self.names: list[str] = []
        self.folders: set[str] = set()
        for name, entry in sorted(_walk(path, "", MAX_DEPTH), key=lambda found: found[0]):
            if entry.is_dir():
                self.folders.add(name)
            elif entry.is_file():
                self.names.append(name)
                stat = entry.stat()
                digest.update(f"{name}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
        self.fingerprint = digest.hexdigest()

    def read(self, name: str) -> bytes:
        """Return the content of a file."""
        return (self.path / name).read_bytes()

    def where(self, name: str) -> str:
        """Return a file's place as messages name it."""
        return str(self.path / name)


class TarFiles(Files):
    """The files of a tar archive, compressed or not, read into memory once, when the first is asked for."""

    def __init__(self, path: Path) -> None:
        self.path = path
        stat = path.stat()
        self.fingerprint = hashlib.sha256(f"{path.resolve()}\0{stat.st_size}\0{stat.st_mtime_ns}".encode()).hexdigest()
        self._content: dict[str, bytes] | None = None
        self._folders: set[str] = set()

    @property
    def names(self) -> list[str]:  # type: ignore[override]
        return sorted(self._read_all())

    @property
    def folders(self) -> set[str]:  # type: ignore[override]
        self._read_all()
        return self._folders

    def read(self, name: str) -> bytes:
        return self._read_all()[name]

    def where(self, name: str) -> str:
        return f"{self.path}:{name}"

    def _read_all(self) -> dict[str, bytes]:
        if self._content is None:
            content = {}
            try:
                with tarfile.open(self.path) as archive:
                    for member in archive:
                        name = os.path.normpath(member.name)
                        if any(part.startswith(".") for part in name.split("/")):
                            continue
                        if member.isdir():
                            self._folders.add(name)
                        elif member.isreg() or member.islnk():  # symbolic links may lead out of the archive
                            file = archive.extractfile(member)
                            content[name] = file.read() if file else b""
                            self._folders.update(str(p) for p in Path(name).parents if str(p) != ".")
            except (tarfile.TarError, EOFError, zlib.error, KeyError) as error:
                raise InputError(f"{self.path} is not a readable tar archive: {error}.") from None
            self._content = content
        return self._content


def open_files(path: Path) -> Files:
    """Return the files of a folder or tar archive.

    Raises:
        InputError: There is no such path, or it is neither.
    """
    if path.is_dir():
        return Files(path)
    if path.is_file():
        return TarFiles(path)
    raise InputError(f"{path}: no such folder or archive.")


def _walk(folder: Path, prefix: str, depth: int) -> "list[tuple[str, os.DirEntry[str]]]":
    found = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            found.append((prefix + entry.name, entry))
            if entry.is_dir() and depth > 1:
                found += _walk(Path(entry.path), f"{prefix}{entry.name}/", depth - 1)
    return found
