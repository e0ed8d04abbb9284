"""ImageNet's archives as they are downloaded, read class by class without unpacking them first."""

import posixpath
import re
import tarfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from ditcnn.data.imagenet_devkit import Devkit
from ditcnn.system.errors import InputError

__all__ = ["ClassImages", "open_train", "open_val"]

_CLASS_TAR = re.compile(r"(n\d{8})\.tar")
_VAL_IMAGE = re.compile(r"ILSVRC2012_val_(\d{8})\.JPEG")
_TRAIN_IMAGE = re.compile(r"\w[\w-]*\.jpe?g", re.IGNORECASE | re.ASCII)  # no path, so none that leads out of the folder


@dataclass(frozen=True)
class ClassImages:
    """The images of one class in an archive.

    Attributes:
        wnid: WordNet id, the name of the class's folder.
        where: The archive's name, for messages.
        size: Bytes of the archive that they take.
        images: How many there must be, or None where nothing says so.
        read: Returns an iterator over (name, content); raises InputError where the archive is damaged.
    """

    wnid: str
    where: str
    size: int
    images: int | None
    read: Callable[[], Iterator[tuple[str, bytes]]]


@contextmanager
def open_train(path: Path, devkit: Devkit | None) -> Iterator[list[ClassImages]]:
    """Open ``ILSVRC2012_img_train.tar``, a tar of one tar a class.

    Args:
        path: The archive.
        devkit: What to compare its classes and their images with.

    Raises:
        InputError: It is no such archive, is cut off, or its classes are not those of the devkit.
    """
    with _open(path) as archive:
        classes: dict[str, ClassImages] = {}
        for member in _members(archive, str(path), _CLASS_TAR, "nXXXXXXXX.tar, as in ILSVRC2012_img_train.tar"):
            wnid = member.name.removesuffix(".tar")
            if wnid in classes:
                raise InputError(f"{path} holds {member.name} twice.")
            images = devkit.train_images.get(wnid) if devkit else None
            classes[wnid] = ClassImages(wnid, f"{path}:{member.name}", member.size, images, _inner(archive, member, path))
        if devkit:
            _same_classes(path, set(classes), set(devkit.train_images))
        if not classes:
            raise InputError(f"{path} holds no classes.")
        yield [classes[wnid] for wnid in sorted(classes)]


@contextmanager
def open_val(path: Path, devkit: Devkit) -> Iterator[list[ClassImages]]:
    """Open ``ILSVRC2012_img_val.tar``, all validation images in one folder, sorted here by the devkit's ground truth.

    Raises:
        InputError: It is no such archive, is cut off, or its images are not as many as the ground truth says.
    """
    with _open(path) as archive:
        total = len(devkit.val_wnids)
        by_class: dict[str, list[tarfile.TarInfo]] = defaultdict(list)
        seen: set[int] = set()
        for member in _members(archive, str(path), _VAL_IMAGE, "ILSVRC2012_val_NNNNNNNN.JPEG, as in ILSVRC2012_img_val.tar"):
            number = int(member.name[-len("00000001.JPEG") : -len(".JPEG")])
            if number in seen:
                raise InputError(f"{path} holds {member.name} twice.")
            if not 1 <= number <= total:
                raise InputError(f"{path} holds {member.name}, and the devkit's ground truth has {total:,} lines.")
            seen.add(number)
            by_class[devkit.val_wnids[number - 1]].append(member)
        if len(seen) != total:
            first = next(number for number in range(1, total + 1) if number not in seen)
            raise InputError(
                f"{path} holds {len(seen):,} images, and the devkit's ground truth has {total:,} lines "
                f"(ILSVRC2012_val_{first:08d}.JPEG is missing). Download it again."
            )
        yield [
            ClassImages(wnid, str(path), sum(m.size for m in members), len(members), _flat(archive, members, path))
            for wnid, members in sorted(by_class.items())
        ]


def _same_classes(path: Path, found: set[str], expected: set[str]) -> None:
    for names, what in ((expected - found, "lacks"), (found - expected, "holds but the devkit does not know")):
        if names:
            some = ", ".join(sorted(names)[:3]) + (", ..." if len(names) > 3 else "")
            raise InputError(
                f"{path} {what} {len(names):,} classes ({some}); the devkit has {len(expected):,}. Download it again."
            )


def _inner(archive: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> Callable[[], Iterator[tuple[str, bytes]]]:
    """Return what reads the images of a class's own archive in place."""

    def read() -> Iterator[tuple[str, bytes]]:
        where = f"{path}:{member.name}"
        with _readable(where), tarfile.open(fileobj=_file(archive, member), mode="r:") as inner:
            for image in _members(inner, where, _TRAIN_IMAGE, "a name like n01440764_18.JPEG"):
                yield image.name, _content(inner, image, where)

    return read


def _flat(archive: tarfile.TarFile, members: list[tarfile.TarInfo], path: Path) -> Callable[[], Iterator[tuple[str, bytes]]]:
    def read() -> Iterator[tuple[str, bytes]]:
        with _readable(str(path)):
            for image in members:
                yield image.name, _content(archive, image, str(path))

    return read


def _members(archive: tarfile.TarFile, where: str, form: re.Pattern[str], form_in_words: str) -> Iterator[tarfile.TarInfo]:
    """Yield the files of an archive in order, their names checked and freed of a leading ``./``."""
    for member in archive:
        name = posixpath.normpath(member.name)
        if member.isdir() and name == ".":
            continue
        if not member.isreg() or not form.fullmatch(name):
            raise InputError(f"{where} holds {member.name!r}, where only files belong that are called {form_in_words}.")
        if not member.size:
            raise InputError(f"{where}:{name} is empty.")
        member.name = name
        yield member
    _check_end(archive, where)


def _check_end(archive: tarfile.TarFile, where: str) -> None:
    """Raise unless zeros follow the last file: tarfile takes a damaged header, and a missing one, for the end."""
    file = cast("IO[bytes]", archive.fileobj)
    file.seek(archive.offset)
    length = 0
    while block := file.read(2**20):
        if block.count(0) != len(block):
            raise InputError(
                f"{where} is damaged at byte {archive.offset + length:,}: no header of tar's. Download it again."
            )
        length += len(block)
    if not length:
        raise InputError(f"{where} is cut off: tar's mark of the end is missing. Download it again.")


def _file(archive: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    return cast("IO[bytes]", archive.extractfile(member))  # None only for what is no file


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo, where: str) -> bytes:
    with _file(archive, member) as file:
        content = file.read()
    if len(content) != member.size:
        raise InputError(f"{where} is cut off in {member.name}. Download it again.")
    return content


@contextmanager
def _open(path: Path) -> Iterator[tarfile.TarFile]:
    if not path.is_file():
        raise InputError(f"{path}: no such file.")
    with _readable(str(path)), tarfile.open(path, mode="r:") as archive:
        yield archive


@contextmanager
def _readable(where: str) -> Iterator[None]:
    try:
        yield
    except tarfile.TarError as error:
        raise InputError(f"{where} is no whole tar archive: {str(error).splitlines()[0]}. Download it again.") from None
