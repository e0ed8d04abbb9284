"""What lies at a path, without decoding it: so that a recipe can be matched to its images."""

import itertools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from ditcnn.data.archives import is_gzipped, read_members
from ditcnn.data.cifar import CifarName, cifar_in
from ditcnn.data.decoding import MAX_IMAGE_BYTES, image_size
from ditcnn.data.files import ArchiveFiles, Files, FolderFiles, Walk, read_file
from ditcnn.data.idx import has_idx, idx_files, idx_shape, read_array
from ditcnn.data.images import MAX_SIDE
from ditcnn.data.layout import class_folders_in
from ditcnn.data.names import TRAIN_NAMES, VAL_NAMES, is_image, is_junk
from ditcnn.system.errors import InputError

__all__ = ["Found", "Kind", "look_at"]

Item = TypeVar("Item")
Kind = Literal["cifar", "idx", "folders", "tar", "hub", "shards"]
MAX_LISTED = 200_000  # files of a folder; one with more has its class folders counted, and images estimated
SAMPLES = 32  # images whose size is looked at
FOLDERS_COUNTED = 64  # of a large set's class folders
_HEAD = 2**18  # bytes of an image in which its size stands


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
        notes: What a person should be told.
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
    notes: tuple[str, ...] = ()

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

    Of a folder names are listed, up to `MAX_LISTED`, and the first bytes of some images read. An archive's headers
    are read; a gzipped one is unpacked on the way, twice, within the limits of `ditcnn.data.archives`.

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
    if path.is_dir():
        names = list(itertools.islice(Walk(path).files(), MAX_LISTED))
        return _large_folder(path) if len(names) == MAX_LISTED else _inside(where, FolderFiles(path))
    if path.is_file():
        return _inside(where, ArchiveFiles(path))
    raise InputError(f"{path} is neither a folder nor a file." if path.exists() else f"{path}: no such folder or archive.")


def _inside(where: str, files: Files) -> Found:
    """Look at a folder or archive whose names are all known."""
    in_tar = isinstance(files, ArchiveFiles)
    compressed = in_tar and is_gzipped(files.path)
    if kinds := cifar_in(files):
        name = kinds[0]
        counts: dict[str, int | None] = {"train": 50_000, "test": 10_000}  # as published; files may be cut
        return Found(where, "cifar", counts, {"cifar10": 10, "cifar100": 100}[name], ((32, 32),), ("RGB",), name,
                     exact=False, compressed=compressed)  # fmt: skip
    if has_idx(files):
        return _idx(where, files, compressed)
    layout = class_folders_in(files)
    if layout is None:
        tars = _tars_in(files)
        if tars is not None:
            return Found(where, "folders", tars[0], tars[1], notes=files.notes)
        raise InputError(
            f"{files.path} holds no images of a known form: class folders (train/<class>/*, or <class>/* alone), tars "
            f"of them, "
            "IDX files (train-images-idx3-ubyte, ...) or CIFAR's batches (cifar-10-batches-py)."
        )
    images = {part: len(content.names) for part, content in layout.parts.items()}
    first = layout.parts.get("train") or next(iter(layout.parts.values()))
    sizes, modes = _sampled(files, _spread(first.names, SAMPLES))
    return Found(
        where,
        "tar" if in_tar else "folders",
        dict(images),
        len(set(first.classes)),
        sizes,
        modes,
        compressed=compressed,
        notes=layout.notes,
    )


def _idx(where: str, files: Files, compressed: bool) -> Found:
    images: dict[str, int | None] = {}
    sizes: set[tuple[int, int]] = set()
    for (part, kind), name in idx_files(files).items():
        if kind == "images":
            shape = idx_shape(_head(files, name), files.where(name))
            if len(shape) == 3:
                images[part] = shape[0]
                sizes.add((shape[1], shape[2]))
    labels = idx_files(files).get(("train", "labels"))
    classes = None if labels is None else len(read_array(files, labels, 1).unique())
    return Found(where, "idx", images, classes, tuple(sizes), ("L",), compressed=compressed, notes=files.notes)


def _tars_in(files: Files) -> tuple[dict[str, int | None], int | None] | None:
    """Return parts and number of classes of ``train.tar`` and ``train/<class>.tar``."""
    images: dict[str, int | None] = {}
    classes = None
    for part, names in (("train", TRAIN_NAMES), ("val", VAL_NAMES), ("test", ("test",))):
        for name in names:
            inside = [f for f in files.names if f.startswith(f"{name}/") and f.endswith(".tar")]
            if f"{name}.tar" in files.names or inside:
                images.setdefault(part, None)
                classes = len(inside) or None if part == "train" else classes
    return (images, classes) if images else None


def _large_folder(path: Path) -> Found:
    """Look at a folder with too many files to list: count its class folders, and the images of some of them."""
    images: dict[str, int | None] = {}
    classes: int | None = None
    some: list[Path] = []
    parts = [(part, path / name) for part, names in (("train", TRAIN_NAMES), ("val", VAL_NAMES), ("test", ("test",)))
             for name in names if (path / name).is_dir()]  # fmt: skip
    for part, folder in parts or [("all", path)]:
        if part in images:
            continue
        folders = sorted(entry.path for entry in os.scandir(folder) if not is_junk(entry.name) and entry.is_dir())
        counted = _spread(folders, FOLDERS_COUNTED)
        inside = [[e.path for e in os.scandir(f) if is_image(e.name) and not is_junk(e.name)] for f in counted]
        if not folders or not any(inside):
            images[part] = None
            continue
        images[part] = round(sum(map(len, inside)) * len(folders) / len(counted))
        if classes is None or part == "train":
            classes = len(folders)
            some = [Path(names[0]) for names in _spread([names for names in inside if names], SAMPLES)]
    found = [image_size(_head_of(image)) for image in some]
    known = [size for size in found if size]
    return Found(
        str(path),
        "folders",
        images,
        classes,
        tuple((height, width) for height, width, _ in known),
        tuple(sorted({mode for _, _, mode in known})),
        exact=False,
    )


def _shards(where: str, folder: Path) -> Found:
    if not folder.is_dir():
        raise InputError(f"{where}: no such folder of shards.")
    shards = [entry.name.lower() for entry in os.scandir(folder) if entry.name.endswith(".tar") and not is_junk(entry.name)]
    parts = {"train": TRAIN_NAMES, "val": VAL_NAMES, "test": ("test",)}
    images: dict[str, int | None] = {p: None for p, names in parts.items() if any(n in s for s in shards for n in names)}
    return Found(where, "shards", images)


def _sampled(files: Files, names: Sequence[str]) -> tuple[tuple[tuple[int, int], ...], tuple[str, ...]]:
    """Return sizes and modes of images; those that cannot be decoded are left out."""
    known = [size for content in _heads(files, names) if (size := image_size(content))]
    return tuple((height, width) for height, width, _ in known), tuple(sorted({mode for _, _, mode in known}))


def _heads(files: Files, names: Sequence[str]) -> Iterator[bytes]:
    if isinstance(files, ArchiveFiles):
        for _, content in read_members(files.path, [files.members[name] for name in names], MAX_IMAGE_BYTES):
            yield content
    else:
        for name in names:
            yield _head_of(files.path / name)


def _head(files: Files, name: str) -> bytes:
    return next(_heads(files, [name]))


def _head_of(path: Path) -> bytes:
    """Return an image's first bytes; all of them, where it is of a format whose sizes may stand at its end."""
    if path.suffix.lower() in (".tif", ".tiff"):
        return read_file(path, MAX_IMAGE_BYTES)
    with path.open("rb") as file:
        return file.read(_HEAD)


def _spread(items: Sequence[Item], count: int) -> list[Item]:
    """Return some items, evenly spaced, the first and the last among them."""
    if len(items) <= count:
        return list(items)
    return [items[i * (len(items) - 1) // (count - 1)] for i in range(count)]
