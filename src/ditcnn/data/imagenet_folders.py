"""Class folders written from archives: a class is whole or not there, and so is a set."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ditcnn.data.imagenet_archives import ClassImages
from ditcnn.system.errors import InputError
from ditcnn.system.locks import try_lock

__all__ = ["Preparation", "Prepared"]

_WORK = ".preparing"
_BLOCKS = 1.02  # files end within blocks of the disk; against that, tar's headers are not written


@dataclass(frozen=True)
class Prepared:
    """A set that stands in its folder: how many classes and images it has, and how many classes were written just now."""

    classes: int
    images: int
    written: int


class Preparation:
    """The way from archives to ``OUT/<part>/<wnid>/*.JPEG``, taken up where an earlier run stopped.

    Classes are written below ``OUT/.preparing/<part>`` under a hidden name and renamed when they are whole; ``OUT/<part>``
    appears when all of them are. So a folder never looks finished that is not.

    Args:
        out: The folder.
        parts: ``"train"`` or ``"val"`` -> the classes of its archive.

    Raises:
        InputError: A part that is there already has other classes or counts.
    """

    def __init__(self, out: Path, parts: dict[str, list[ClassImages]]) -> None:
        self.out = out
        self.parts = parts
        self.missing: dict[str, list[ClassImages]] = {}
        for part, classes in parts.items():
            folder = self._finished(part) or self._work(part)
            known = {images.wnid: images for images in classes}
            there = _class_folders(folder)
            for wnid in sorted(there):
                _check_class(folder / wnid, known.get(wnid))
            self.missing[part] = [images for images in classes if images.wnid not in there]
            if self._finished(part) and self.missing[part]:
                raise InputError(
                    f"{folder} lacks {len(self.missing[part]):,} of the archive's {len(classes):,} classes "
                    f"({self.missing[part][0].wnid} first): it was not made of it. "
                    "Move it away, or name another folder with --out."
                )

    @property
    def missing_bytes(self) -> int:
        """Bytes that are still to be written."""
        return sum(images.size for classes in self.missing.values() for images in classes)

    def check_disk(self) -> None:
        """Raise unless what is missing fits on the disk.

        Raises:
            InputError: It does not.
        """
        place = self.out.absolute()
        while not place.exists():
            place = place.parent
        needed, free = int(self.missing_bytes * _BLOCKS), shutil.disk_usage(place).free
        if needed > free:
            parts = " and ".join(part for part, classes in self.missing.items() if classes)
            raise InputError(
                f"{self.out} needs about {needed / 2**30:,.1f} GiB more for {parts}, and {free / 2**30:,.1f} GiB are free. "
                "Make room, or name another folder with --out."
            )

    def run(self, advance: Callable[[str, int], None]) -> dict[str, Prepared]:
        """Write what is missing; return what each part has then.

        Args:
            advance: Is called with (part, bytes of its archive that were dealt with).

        Raises:
            InputError: An archive is damaged or its counts are wrong, or another process prepares the same folder.
        """
        with self._alone():
            for part, classes in self.missing.items():
                for images in classes:
                    self._write(part, images, lambda size, part=part: advance(part, size))  # type: ignore[misc]
                if not self._finished(part):
                    os.sync()
                    os.rename(self._work(part), self.out / part)
        return {part: self._prepared(part) for part in self.parts}

    def _write(self, part: str, images: ClassImages, advance: Callable[[int], None]) -> None:
        partial = self._work(part) / f".{images.wnid}"
        if partial.exists():
            shutil.rmtree(partial)  # what an interrupted run left
        partial.mkdir(parents=True)
        count = size = 0
        for name, content in images.read():
            try:
                with (partial / name).open("xb") as file:
                    file.write(content)
            except FileExistsError:
                raise InputError(f"{images.where} holds {name} twice.") from None
            count, size = count + 1, size + len(content)
            advance(len(content))
        if count != images.images if images.images is not None else not count:
            expected = "" if images.images is None else f", and the devkit says {images.images:,}"
            raise InputError(f"{images.where} holds {count:,} images{expected}. Download it again.")
        os.sync()  # one for all the class's files: the name must not reach the disk before them
        os.rename(partial, self._work(part) / images.wnid)
        advance(images.size - size)  # tar's headers

    def _prepared(self, part: str) -> Prepared:
        folder = self.out / part
        counts = [len(os.listdir(folder / images.wnid)) for images in self.parts[part]]
        return Prepared(len(counts), sum(counts), len(self.missing[part]))

    def _finished(self, part: str) -> Path | None:
        return self.out / part if (self.out / part).exists() else None

    def _work(self, part: str) -> Path:
        return self.out / _WORK / part

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep a second process from the same folder; leave no trace when all is done."""
        work = self.out / _WORK
        work.mkdir(parents=True, exist_ok=True)
        with (work / "lock").open("w") as lock:
            if not try_lock(lock.fileno()):
                raise InputError(f"another process is preparing {self.out}; wait for it.")
            yield
            (work / "lock").unlink()
        if not any(work.iterdir()):  # the other part may be waiting for its next run
            work.rmdir()


def _class_folders(folder: Path) -> set[str]:
    if not folder.is_dir():
        return set()
    return {entry.name for entry in os.scandir(folder) if not entry.name.startswith(".")}


def _check_class(folder: Path, images: ClassImages | None) -> None:
    """Raise unless a class that is there is one of the archive's, with as many images."""
    if images is None:
        raise InputError(f"{folder} is none of the archive's classes. Move it away, or name another folder with --out.")
    count = len(os.listdir(folder))
    if images.images not in (None, count):
        raise InputError(
            f"{folder} holds {count:,} files, and the devkit says {images.images:,}. Remove it and start again."
        )
