"""The one reader of tar archives: headers are listed by seeking, and each file is read from its place.

timm's own reader streams each archive whole to list it, keeps one open position that forked workers would share, and
leaves a pickle beside the data. Python's tarfile takes a damaged header, or the end of the file, for the end of the archive,
and reads headers of any length.
"""

import gzip
import io
import os
import sys
import tarfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

from ditcnn.data.decoding import MAX_IMAGE_BYTES
from ditcnn.data.names import is_image, is_junk
from ditcnn.system.errors import InputError
from ditcnn.system.files import check_size
from ditcnn.system.text import in_words

__all__ = [
    "Listing",
    "Member",
    "entries",
    "inner",
    "is_gzipped",
    "list_archive",
    "read_member",
    "read_members",
    "unpacking",
]

MAX_HEADER = 2**20  # a name of this length is no name
MAX_NESTED = 3  # tars in a tar: a class's, a part's, and the set
MAX_UNPACKED = 2**34  # of a compressed archive; none of it is kept but the file that is read
_PIECE = 2**20


class _Damaged(Exception):
    pass


# A damaged header can make tarfile raise any of these.
_DAMAGE = (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile, ValueError, OverflowError, RecursionError, _Damaged)


class Member(NamedTuple):
    """A file in an archive, its bytes at ``offset``; files of a tar in the tar count as below a folder of its name."""

    name: str
    archive: Path
    offset: int
    size: int


class Listing(NamedTuple):
    """An archive's files, links to them included, the folders that they lie in, and what a person should be told."""

    members: list[Member]
    folders: set[str]
    notes: tuple[str, ...]


@contextmanager
def unpacking(path: Path) -> Iterator[IO[bytes]]:
    """Open an archive, plain or gzipped, for reading forward.

    Raises:
        InputError: There is no such file, or it is compressed in another way.
    """
    with path.open("rb") as raw:
        start = raw.read(6)
        raw.seek(0)
        if start.startswith((b"BZh", b"\xfd7zXZ\0", b"PK\3\4", b"7z\xbc\xaf", b"\x28\xb5\x2f\xfd")):
            raise InputError(f"{path} is compressed, and not by gzip; unpack it first.")
        yield cast("IO[bytes]", _Gzip(path, fileobj=raw) if start[:2] == b"\x1f\x8b" else raw)


def inner(file: IO[bytes], info: tarfile.TarInfo) -> IO[bytes]:
    """Return a tar that is a file of another one, as a file."""
    return cast("IO[bytes]", _Window(file, info.offset_data, info.size))


@contextmanager
def _told(where: str) -> Iterator[None]:
    try:
        yield
    except _DAMAGE as error:
        raise InputError(f"{where} is no whole tar archive: {in_words(error)}. Copy, pack or download it again.") from None


def list_archive(path: Path, *, compressed: bool = True) -> Listing:
    """List an archive's files, those of tars inside it included and junk left out; of two of one name the last counts.

    Args:
        path: The archive.
        compressed: Whether it may be, which `read_member` cannot read.

    Raises:
        InputError: It is no whole tar, or has files that cannot be read: sparse ones, tars in tars in tars.
    """
    plain = not is_gzipped(path)
    if not compressed and not plain:
        raise InputError(f"{path} is compressed; images are read at random places, so decompress it first.")
    files: dict[str, Member] = {}
    folders: set[str] = set()
    links: dict[str, str] = {}
    with unpacking(path) as file:
        for info in _nested(file, str(path), "", 0):
            name = info.name
            if is_junk(name):
                continue
            if info.isreg():
                if not plain and is_image(name):
                    check_size(f"{path}:{name}", info.size, MAX_IMAGE_BYTES)  # before all of it is unpacked
                files[name] = Member(name, path, info.offset_data, info.size)
                links.pop(name, None)
            elif info.isdir():
                folders.add(name)
            elif info.islnk() or info.issym():
                links[name] = info.linkname
                files.pop(name, None)
    lost = []
    for name, target in links.items():
        for _ in range(8):  # links to links
            target = links.get(target, target)
        if target in files:
            files[name] = files[target]._replace(name=name)
        else:
            lost.append(f"{name} -> {target}")
    for name in files:
        while (name := os.path.dirname(name)) and name not in folders:
            folders.add(name)
    left_out = f"{len(lost)} link{'s' * (len(lost) > 1)} to no file of the archive left out"
    return Listing(list(files.values()), folders, (f"{left_out}, {lost[0]} first: tar --dereference",) if lost else ())


def entries(file: IO[bytes], where: str) -> Iterator[tarfile.TarInfo]:
    """Yield the headers of an archive, names freed of ``./`` and links led to names, and see that it ends as tars do.

    Raises:
        InputError: It is damaged or cut off.
    """
    with _told(where):
        archive = tarfile.TarFile(fileobj=cast("IO[bytes]", _Window(file, limit=MAX_HEADER)))
    while True:
        with _told(where):
            if (info := archive.next()) is None:
                _check_end(file, archive.offset)
                return
            archive.members.clear()  # type: ignore[attr-defined]  # else it keeps a kilobyte for each of a million
            if info.size < 0 or archive.offset < info.offset_data:  # older Pythons would go round for ever
                raise _Damaged(f"a file of {info.size} bytes")
        info.name = os.path.normpath(info.name)
        above = os.path.dirname(info.name) if info.issym() else ""
        info.linkname = os.path.normpath(os.path.join(above, info.linkname))
        yield info


def read_member(member: Member, limit: int | None = None) -> bytes:
    """Return the bytes of a file in an archive that is not compressed.

    Raises:
        InputError: It has more than ``limit`` bytes.
        OSError: The archive is not there or has become shorter.
    """
    if limit is not None:
        check_size(f"{member.archive}:{member.name}", member.size, limit)
    with open(member.archive, "rb", buffering=0) as file:  # opened anew: no position is shared between processes
        content = os.pread(file.fileno(), member.size, member.offset)
    if len(content) != member.size:
        raise OSError(None, "the archive is cut off", f"{member.archive}:{member.name}")
    return content


def read_members(path: Path, members: Iterable[Member], limit: int) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of files of one archive, which may be gzipped, in the order in which they lie in it.

    Raises:
        InputError: One has more than ``limit`` bytes, or the archive is damaged.
    """
    with unpacking(path) as file:
        place, content = -1, b""
        for member in sorted(members, key=lambda m: m.offset):
            if member.offset != place:  # links share a place
                check_size(f"{path}:{member.name}", member.size, limit)
                with _told(str(path)):
                    file.seek(member.offset)
                    place, content = member.offset, file.read(member.size)
            if len(content) != member.size:
                raise InputError(f"{path}:{member.name}: the archive is cut off. Copy or download it again.")
            yield member.name, content


def _nested(file: IO[bytes], where: str, prefix: str, depth: int) -> Iterator[tarfile.TarInfo]:
    """Yield the headers of an archive and of the tars in it, names, links and places given from the outermost."""
    for info in entries(file, where):
        name = prefix + info.name
        if info.issparse() and not is_junk(name):
            raise InputError(f"{where}:{info.name} is a sparse file, whose bytes lie apart; pack it again without --sparse.")
        if info.isreg() and name.lower().endswith(".tar") and info.size and not is_junk(name):
            if depth == MAX_NESTED:
                raise InputError(f"{where} holds tars in tars more than {MAX_NESTED} deep; unpack it.")
            below = name[: -len(".tar")] + "/"
            for deeper in _nested(inner(file, info), f"{where}:{info.name}", below, depth + 1):
                deeper.offset_data += info.offset_data
                yield deeper
        else:
            info.name, info.linkname = name, prefix + info.linkname
            yield info


def _check_end(file: IO[bytes], offset: int) -> None:
    """Raise unless zeros alone follow the last file, one block at least; a gzipped file's checksum stands behind them."""
    file.seek(offset)
    length = 0
    while block := file.read(_PIECE):
        if block.count(0) != len(block):
            if length or not any(block[: tarfile.BLOCKSIZE]):
                raise _Damaged("there are data behind its end, as where archives were put together by cat")
            raise _Damaged(f"it is damaged at byte {offset:,}, where a header should be")
        length += len(block)
    if length < tarfile.BLOCKSIZE:
        raise _Damaged("it is cut off, as tar's mark of the end is missing")


def is_gzipped(path: Path) -> bool:
    """Say whether a file is compressed by gzip."""
    with path.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"


class _Gzip(gzip.GzipFile):
    """A decompressed file that is read forward up to a limit."""

    def __init__(self, path: Path, **options: Any) -> None:
        super().__init__(**options)
        self._path = path

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._check(offset)
        return super().seek(offset, whence)

    def read(self, size: int | None = -1) -> bytes:
        self._check(self.tell())
        return super().read(size)

    def _check(self, place: int) -> None:
        if place > MAX_UNPACKED:
            raise InputError(f"{self._path} unpacks to more than {MAX_UNPACKED / 2**30:g} GiB; unpack it first.")


class _Window:
    """A part of a file, as a file, of which at most ``limit`` bytes are read at once: tarfile believes any header."""

    def __init__(self, file: IO[bytes], start: int = 0, size: int = sys.maxsize, limit: int = sys.maxsize) -> None:
        self._file, self._start, self._size, self._limit, self._place = file, start, size, limit, 0

    def seek(self, place: int) -> int:
        self._place = place
        return place

    def tell(self) -> int:
        return self._place

    def read(self, size: int) -> bytes:
        if not 0 <= size <= self._limit:
            raise _Damaged(f"a header of {size:,} bytes")
        self._file.seek(self._start + self._place)
        content = self._file.read(max(0, min(size, self._size - self._place)))
        self._place += len(content)
        return content
