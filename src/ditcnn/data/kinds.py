"""What lies at a path, without decoding it: so that a recipe can be matched to its images."""

import itertools
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from ditcnn.data.archives import is_gzipped
from ditcnn.data.cifar import CifarName, cifar_in
from ditcnn.data.class_folders import FORMS, class_folders_in
from ditcnn.data.decoding import MAX_IMAGE_BYTES, image_size
from ditcnn.data.files import Files, Walk, open_files
from ditcnn.data.idx import has_idx, idx_files, idx_shape, read_array
from ditcnn.data.images import MAX_SIDE
from ditcnn.data.names import PART_OF, is_image, is_junk
from ditcnn.system.errors import InputError
from ditcnn.system.files import read_file

__all__ = ["Found", "Kind", "look_at"]

Item = TypeVar("Item")
Kind = Literal["cifar", "idx", "folders", "tar", "hub", "shards"]
MAX_LISTED = 200_000  # files of a folder; one with more has its class folders counted, and images estimated
SAMPLES = 32  # images whose size is looked at
FOLDERS_COUNTED = 64  # of a large set's class folders


@dataclass(frozen=True)
class Found:
    """What lies at a path.

    Attributes:
        where: The path, as it was given.
        kind: ``cifar`` and ``idx`` are read into memory alone; ``folders`` and ``tar`` hold class folders; ``hub`` and
            ``shards`` are ``hfds/`` and ``wds/``, of which nothing is looked at but the shards' names.
        images: Number of images in ``train``, ``val``, ``test``, or in ``all`` where class folders stand alone; None where
            they were not counted.
        classes: Number of classes; None where they were not counted.
        sizes: (height, width) of some images.
        modes: Pillow's modes of them, each once: ``L``, ``RGB`` and so on.
        name: Which of CIFAR's sets it is.
        exact: Whether ``images`` are counts; else estimates.
        compressed: Whether it is a ``.tar.gz``, which can be read into memory alone.
    """

    where: str
    kind: Kind
    images: dict[str, int | None]
    classes: int | None = None
    sizes: tuple[tuple[int, int], ...] = ()
    modes: tuple[str, ...] = ()
    name: CifarName | None = None
    exact: bool = True
    compressed: bool = False

    @property
    def plain(self) -> bool:
        """Whether class folders stand alone, without train and val."""
        return "all" in self.images

    @property
    def small(self) -> bool:
        """Whether its images, so far as they were looked at, can be kept in memory as they are: of one size, at most 64."""
        return len(set(self.sizes)) == 1 and max(self.sizes[0]) <= MAX_SIDE

    @property
    def grey(self) -> bool:
        """Whether the images that were looked at have one channel."""
        return bool(self.modes) and set(self.modes) <= {"1", "L", "LA"}


def look_at(data: str | Path) -> Found:
    """Say what lies at a path, as `ditcnn.data.open_data` and `ditcnn.data.stream.open_source` take it.

    Of a folder names are listed, up to `MAX_LISTED`, and some images read. An archive's headers are read; a gzipped one
    is unpacked on the way, twice, within the limits of `ditcnn.data.archives`.

    Raises:
        InputError: There is no such path, nothing of a known form, or it is damaged.
    """
    where = str(data)
    prefix, slash, rest = where.partition("/")
    if slash and prefix.lower() == "hfds":
        return Found(where, "hub", {})
    if slash and prefix.lower() == "wds":
        return _shards(where, Path(rest))
    path = Path(data)
    if path.is_dir() and len(list(itertools.islice(Walk(path).files(), MAX_LISTED))) == MAX_LISTED:
        return _large_folder(path)
    return _inside(where, open_files(path))


def _inside(where: str, files: Files) -> Found:
    """Look at a folder or archive whose names are all known."""
    compressed = files.path.is_file() and is_gzipped(files.path)
    if kinds := cifar_in(files):
        counts: dict[str, int | None] = {"train": 50_000, "test": 10_000}  # as published; files may be cut
        return Found(where, "cifar", counts, {"cifar10": 10, "cifar100": 100}[kinds[0]], ((32, 32),), ("RGB",), kinds[0],
                     exact=False, compressed=compressed)  # fmt: skip
    if has_idx(files):
        shapes = {part: idx_shape(files, name) for (part, kind), name in idx_files(files).items() if kind == "images"}
        labels = idx_files(files).get(("train", "labels"))
        classes = None if labels is None else len(read_array(files, labels, 1).unique())
        sizes = tuple({(shape[1], shape[2]) for shape in shapes.values() if len(shape) == 3})
        images: dict[str, int | None] = {part: shape[0] for part, shape in shapes.items()}
        return Found(where, "idx", images, classes, sizes, ("L",), compressed=compressed)
    if (layout := class_folders_in(files)) is not None:
        images = {part: len(content.names) for part, content in layout.parts.items()}
        first = layout.parts.get("train") or next(iter(layout.parts.values()))
        seen = _seen(content for _, content in files.read_all(_spread(first.names, SAMPLES), MAX_IMAGE_BYTES))
        kind: Kind = "folders" if files.path.is_dir() else "tar"
        return Found(where, kind, images, len(set(first.classes)), *seen, compressed=compressed)
    inside = {name: [f for f in files.names if f.startswith(f"{name}/") and f.endswith(".tar")] for name in PART_OF}
    there = {PART_OF[name]: len(tars) for name, tars in inside.items() if tars or f"{name}.tar" in files.names}
    if there:  # train.tar, or train/<class>.tar
        return Found(where, "folders", dict.fromkeys(there), there.get("train") or None)
    raise InputError(f"{files.path} holds no images of a known form: {FORMS}.")


def _large_folder(path: Path) -> Found:
    """Look at a folder with too many files to list: count its class folders, and the images of some of them."""
    images: dict[str, int | None] = {}
    classes: int | None = None
    some: list[str] = []
    parts = {PART_OF[name]: path / name for name in reversed(PART_OF) if (path / name).is_dir()}  # timm's first name counts
    for part, folder in (parts or {"all": path}).items():
        folders = sorted(entry.path for entry in os.scandir(folder) if not is_junk(entry.name) and entry.is_dir())
        counted = _spread(folders, FOLDERS_COUNTED)
        inside = [[e.path for e in os.scandir(f) if is_image(e.name) and not is_junk(e.name)] for f in counted]
        images[part] = round(sum(map(len, inside)) * len(folders) / len(counted)) if any(inside) else None
        if any(inside) and (classes is None or part == "train"):
            classes = len(folders)
            some = [names[0] for names in _spread([names for names in inside if names], SAMPLES)]
    seen = _seen(read_file(Path(image), MAX_IMAGE_BYTES) for image in some)
    return Found(str(path), "folders", images, classes, *seen, exact=False)


def _shards(where: str, folder: Path) -> Found:
    if not folder.is_dir():
        raise InputError(f"{where}: no such folder of shards.")
    shards = [entry.name.lower() for entry in os.scandir(folder) if entry.name.endswith(".tar") and not is_junk(entry.name)]
    return Found(where, "shards", dict.fromkeys(part for name, part in PART_OF.items() if any(name in s for s in shards)))


def _seen(images: Iterable[bytes]) -> tuple[tuple[tuple[int, int], ...], tuple[str, ...]]:
    """Return sizes and modes of images; those that cannot be decoded are left out."""
    known = [size for content in images if (size := image_size(content))]
    return tuple((height, width) for height, width, _ in known), tuple(sorted({mode for _, _, mode in known}))


def _spread(items: Sequence[Item], count: int) -> list[Item]:
    """Return some items, evenly spaced, the first and the last among them."""
    if len(items) <= count:
        return list(items)
    return [items[i * (len(items) - 1) // (count - 1)] for i in range(count)]
