"""ImageNet's archives as they are downloaded, read class by class without unpacking them first."""

import csv
import functools
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tarfile import TarInfo
from typing import IO

from ditcnn.data.archives import entries, inner, is_gzipped, unpacking
from ditcnn.data.decoding import MAX_IMAGE_BYTES
from ditcnn.data.imagenet_devkit import Devkit
from ditcnn.data.names import is_junk
from ditcnn.system.errors import InputError
from ditcnn.system.files import check_size, read_file

__all__ = ["ClassImages", "open_train", "open_val", "read_val_solution"]

_Image = tuple[str, int, Callable[[], bytes]]  # name, size, what reads it
_CLASS_TAR = re.compile(r"(n\d{8})\.tar")
_VAL_IMAGE = re.compile(r"ILSVRC2012_val_(\d{8})\.JPEG")
_TRAIN_IMAGE = re.compile(r"\w[\w-]*\.jpe?g", re.IGNORECASE | re.ASCII)  # no path, so none that leads out of the folder
_VAL_FORM = "ILSVRC2012_val_NNNNNNNN.JPEG, as in ILSVRC2012_img_val.tar"
_SOLUTION_BYTES = 2**26


@dataclass(frozen=True)
class ClassImages:
    """The images of one class in an archive."""

    wnid: str
    """WordNet id, the name of the class's folder."""
    where: str
    """The archive's name, for messages."""
    size: int
    """Bytes of the archive that they take."""
    images: int | None
    """How many there must be, where something says so."""
    read: Callable[[], Iterator[tuple[str, bytes]]]
    """Returns an iterator over (name, content); raises InputError where the archive is damaged."""


@contextmanager
def open_train(path: Path, devkit: Devkit | None) -> Iterator[list[ClassImages]]:
    """Open ``ILSVRC2012_img_train.tar``, a tar of one tar a class.

    Raises:
        InputError: It is no such archive, is cut off, or its classes are not those of the devkit.
    """
    with _open(path) as archive:
        classes: dict[str, ClassImages] = {}
        for entry in _files(archive, str(path), _CLASS_TAR, "nXXXXXXXX.tar, as in ILSVRC2012_img_train.tar"):
            wnid = entry.name.removesuffix(".tar")
            if wnid in classes:
                raise InputError(f"{path} holds {entry.name} twice.")
            images = devkit.train_images.get(wnid) if devkit else None
            where = f"{path}:{entry.name}"
            classes[wnid] = ClassImages(wnid, where, entry.size, images, functools.partial(_of_class, archive, entry, where))
        if devkit:
            _same_classes(path, set(classes), set(devkit.train_images))
        if not classes:
            raise InputError(f"{path} holds no classes.")
        yield [classes[wnid] for wnid in sorted(classes)]


@contextmanager
def open_val(path: Path, wnids: dict[int, str], truth: str) -> Iterator[list[ClassImages]]:
    """Open ``ILSVRC2012_img_val.tar``, or a folder of all validation images as Kaggle has it, sorted here by classes.

    Args:
        path: The archive or the folder.
        wnids: Number of an image, from 1 on -> its class.
        truth: What says so, for messages.

    Raises:
        InputError: It is no such archive or folder, is cut off, or its images are not those of ``wnids``.
    """
    if path.is_dir():
        yield _by_class(path, _val_files(path), wnids, truth)
        return
    with _open(path) as archive:
        found = [
            (entry.name, entry.size, functools.partial(_content, archive, entry, str(path)))
            for entry in _files(archive, str(path), _VAL_IMAGE, _VAL_FORM)
        ]
        yield _by_class(path, found, wnids, truth)


def _val_files(path: Path) -> Iterator[_Image]:
    for file in sorted(path.iterdir()):
        if is_junk(file.name):
            continue
        if not _VAL_IMAGE.fullmatch(file.name) or not file.is_file():
            raise InputError(f"{path} holds {file.name!r}, where only files belong that are called {_VAL_FORM}.")
        if not (size := file.stat().st_size):
            raise InputError(f"{file} is empty.")
        yield file.name, size, functools.partial(read_file, file, MAX_IMAGE_BYTES)


def read_val_solution(path: Path) -> dict[int, str]:
    """Read Kaggle's ``LOC_val_solution.csv``: return the class of each validation image, by its number.

    Its lines are ``ILSVRC2012_val_00048981,n03995372 85 1 499 272``: an image, and classes with boxes, which are all one.

    Raises:
        InputError: It is no such table.
    """
    rows = csv.reader(read_file(path, _SOLUTION_BYTES).decode(errors="replace").splitlines())
    wnids: dict[int, str] = {}
    for line, row in enumerate(rows, start=1):
        if not row or row[0] == "ImageId":
            continue
        image = _VAL_IMAGE.fullmatch(f"{row[0]}.JPEG")
        classes = {word for word in row[1].split() if re.fullmatch(r"n\d{8}", word)} if len(row) == 2 else set()
        if not image or len(classes) != 1:
            raise InputError(
                f"{path}, line {line}: {','.join(row)[:80]!r} is not an image and its class, as in LOC_val_solution.csv: "
                "ILSVRC2012_val_00048981,n03995372 85 1 499 272."
            )
        if int(image[1]) in wnids:
            raise InputError(f"{path}, line {line}: {row[0]} comes twice.")
        wnids[int(image[1])] = classes.pop()
    if not wnids:
        raise InputError(f"{path} names no image; it should be Kaggle's LOC_val_solution.csv.")
    return wnids


def _by_class(path: Path, images: Iterable[_Image], wnids: dict[int, str], truth: str) -> list[ClassImages]:
    by_class: dict[str, list[_Image]] = defaultdict(list)
    seen: set[int] = set()
    for image in images:
        name = image[0]
        number = int(name[-len("00000001.JPEG") : -len(".JPEG")])
        if number in seen:
            raise InputError(f"{path} holds {name} twice.")
        if number not in wnids:
            raise InputError(f"{path} holds {name}, and {truth} has {len(wnids):,} lines.")
        seen.add(number)
        by_class[wnids[number]].append(image)
    if len(seen) != len(wnids):
        first = min(set(wnids) - seen)
        raise InputError(
            f"{path} holds {len(seen):,} images, and {truth} has {len(wnids):,} lines "
            f"(ILSVRC2012_val_{first:08d}.JPEG is missing). Download it again."
        )

    def contents(own: list[_Image]) -> Iterator[tuple[str, bytes]]:
        return ((name, read()) for name, _, read in own)

    return [
        ClassImages(wnid, str(path), sum(size for _, size, _ in own), len(own), functools.partial(contents, own))
        for wnid, own in sorted(by_class.items())
    ]


def _same_classes(path: Path, found: set[str], expected: set[str]) -> None:
    for names, what in ((expected - found, "lacks"), (found - expected, "holds but the devkit does not know")):
        if names:
            some = ", ".join(sorted(names)[:3]) + (", ..." if len(names) > 3 else "")
            raise InputError(
                f"{path} {what} {len(names):,} classes ({some}); the devkit has {len(expected):,}. Download it again."
            )


def _of_class(archive: IO[bytes], entry: TarInfo, where: str) -> Iterator[tuple[str, bytes]]:
    """Yield the images of a class's own archive, read in place."""
    file = inner(archive, entry)
    for image in _files(file, where, _TRAIN_IMAGE, "a name like n01440764_18.JPEG"):
        yield image.name, _content(file, image, where)


def _files(file: IO[bytes], where: str, form: re.Pattern[str], form_in_words: str) -> Iterator[TarInfo]:
    """Yield the files of an archive in order, their names checked."""
    for entry in entries(file, where):
        if entry.isdir() and entry.name == ".":
            continue
        if not entry.isreg() or entry.issparse() or not form.fullmatch(entry.name):
            raise InputError(f"{where} holds {entry.name!r}, where only files belong that are called {form_in_words}.")
        if not entry.size:
            raise InputError(f"{where}:{entry.name} is empty.")
        yield entry


def _content(file: IO[bytes], entry: TarInfo, where: str) -> bytes:
    check_size(f"{where}:{entry.name}", entry.size, MAX_IMAGE_BYTES)
    file.seek(entry.offset_data)
    content = file.read(entry.size)
    if len(content) != entry.size:
        raise InputError(f"{where} is cut off in {entry.name}. Download it again.")
    return content


@contextmanager
def _open(path: Path) -> Iterator[IO[bytes]]:
    if not path.is_file():
        raise InputError(f"{path}: no such file.")
    if is_gzipped(path):
        raise InputError(f"{path} is compressed, which ImageNet's archives are not; decompress it first.")
    with unpacking(path) as archive:
        yield archive
