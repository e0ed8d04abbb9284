"""Class folders in tar archives, read where they lie.

timm's own reader of tars streams each archive whole to list it, keeps one open position that forked workers would share, and
leaves a pickle beside the data. Here the headers are listed by seeking, and each image is read from its offset.
"""

import os
import tarfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torchvision.datasets.folder import IMG_EXTENSIONS

from ditcnn.data.stream.source import ImageSource, is_hidden, labelled, refuse_merged
from ditcnn.system.errors import InputError

__all__ = ["Member", "TarSource", "images_in", "members_of", "read_member"]


class Member(NamedTuple):
    """A file in an archive, its bytes at ``offset``; files of a tar in the tar count as below a folder of its name."""

    name: str
    archive: Path
    offset: int
    size: int


class TarSource(ImageSource):
    """Images of archives; the class is the name of the folder, or of the inner tar, that an image lies in.

    Args:
        where: Where the images come from, as messages name it.
        members: The images; names are given below the part of the data set that they are of.
        classes: As in `labelled`.
        class_of: Class of each member. Default: the name of its folder.
        inside: What stands before the members' names in their archive.

    Raises:
        InputError: There are none, or a class that is not among ``classes``.
    """

    def __init__(
        self,
        where: str,
        members: Sequence[Member],
        classes: Sequence[str] | None = None,
        class_of: Sequence[str] | None = None,
        inside: str = "",
    ) -> None:
        self._inside = inside
        names = class_of or [os.path.basename(os.path.dirname(m.name)) for m in members]
        if class_of is None:
            folders: dict[Path, set[str]] = defaultdict(set)
            for member in members:
                folders[member.archive].add(os.path.dirname(member.name))
            for archive, own in folders.items():
                refuse_merged(str(archive), own)
        found = [(member.name, class_name) for member, class_name in zip(members, names, strict=True)]
        order, labels, known = labelled(where, found, classes)
        super().__init__(where, [members[i].name for i in order], labels, known)
        self._archives = sorted({member.archive for member in members})
        number = {archive: n for n, archive in enumerate(self._archives)}
        self._places = np.array([(number[members[i].archive], members[i].offset, members[i].size) for i in order], np.int64)

    def path(self, index: int) -> str:
        """Return where an image lies: ARCHIVE:NAME."""
        return f"{self._archives[self._places[index, 0]]}:{self._inside}{self.name(index)}"

    def content(self, index: int) -> bytes:
        """Return an image's undecoded bytes."""
        archive, offset, size = self._places[index].tolist()
        return read_member(Member(self.name(index), self._archives[archive], offset, size))

    def size(self, index: int) -> int:
        """Return the number of those bytes."""
        return int(self._places[index, 2])


def read_member(member: Member) -> bytes:
    """Return the bytes of a file in an archive.

    Raises:
        OSError: The archive is not there or has become shorter.
    """
    with open(member.archive, "rb", buffering=0) as file:  # opened anew: no position is shared between processes
        content = os.pread(file.fileno(), member.size, member.offset)
    if len(content) != member.size:
        raise OSError(None, "the archive is cut off", f"{member.archive}:{member.name}")
    return content


def images_in(archives: Sequence[Path], *, named: bool = False) -> list[Member]:
    """Return the images in archives, hidden ones left out.

    Args:
        archives: Paths.
        named: Files count as below a folder with their archive's name.

    Raises:
        InputError: An archive is damaged, compressed or empty.
    """
    found = []
    for archive in archives:
        prefix = archive.stem + "/" if named else ""
        images = [
            member._replace(name=prefix + member.name)
            for member in members_of(archive)
            if member.name.lower().endswith(IMG_EXTENSIONS) and not is_hidden(member.name)
        ]
        if not images:
            raise InputError(f"{archive} holds no images ({', '.join(IMG_EXTENSIONS)}).")
        found += images
    return found


def members_of(path: Path) -> Iterator[Member]:
    """Yield the files of an archive, those of tars inside it included.

    Raises:
        InputError: It is compressed, cut off or no tar.
    """
    try:
        with tarfile.open(path, "r:") as archive:
            yield from _members(archive, path, "", 0)
    except tarfile.TarError as error:
        if _is_compressed(path):
            raise InputError(f"{path} is compressed; images are read at random places, so decompress it first.") from None
        raise InputError(f"{path} is not a whole tar: {' '.join(str(error).split())}. Copy or unpack it again.") from None


def _is_compressed(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(6).startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0"))


def _members(archive: tarfile.TarFile, path: Path, prefix: str, base: int) -> Iterator[Member]:
    while (info := archive.next()) is not None:
        archive.members.clear()  # type: ignore[attr-defined]  # else it keeps a kilobyte for each of a million
        name = prefix + os.path.normpath(info.name)
        if (info.islnk() or info.issparse()) and name.lower().endswith(IMG_EXTENSIONS):
            raise InputError(
                f"{path}:{name} is a hard link or a sparse file, whose bytes lie elsewhere; pack it again with tar "
                "--hard-dereference, without --sparse."
            )
        if not info.isreg() or info.issparse():
            continue
        inner = archive.extractfile(info) if name.lower().endswith(".tar") else None
        if inner is not None:
            with tarfile.open(fileobj=inner, mode="r:") as child:
                yield from _members(child, path, name[: -len(".tar")] + "/", base + info.offset_data)
        else:
            yield Member(name, path, base + info.offset_data, info.size)
    # tarfile takes a damaged header, or the end of the file, for the end of the archive, which is a block of zeros.
    file = archive.fileobj
    if file is not None:
        file.seek(archive.offset)
        if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError("unexpected end of data, or a damaged header")
        while rest := file.read(1 << 20):
            if any(rest):
                raise tarfile.ReadError("there are data behind its end, as where archives were put together by cat")
