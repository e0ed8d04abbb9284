"""Which folder, archive or split of a data set is its training part, and which its validation part."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

from ditcnn.data.stream.folders import FolderSource
from ditcnn.data.stream.hub import HubSource
from ditcnn.data.stream.shards import open_shards
from ditcnn.data.stream.source import ImageSource, is_hidden
from ditcnn.data.stream.tars import Member, TarSource, images_in
from ditcnn.system.errors import InputError

__all__ = ["SPLIT_NAMES", "Split", "open_source"]

Split = Literal["train", "val"]
# timm's names and order; test stands last, as sets without a validation part have it.
SPLIT_NAMES: dict[Split, tuple[str, ...]] = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "eval", "evaluation", "test"),
}


def open_source(data: str | Path, split: Split, classes: Sequence[str] | None = None) -> ImageSource:
    """Open the training or the validation part of a data set.

    Args:
        data: A folder with class folders ``train/<class>/*`` and ``val/<class>/*`` (or `SPLIT_NAMES`), with ``train.tar``
            and ``val.tar``, or with ``train/<class>.tar``; a tar with class folders or such parts; ``hfds/NAME`` for sets of
            the package ``datasets``; ``wds/DIR`` for WebDataset's shards. Class folders that stand alone count as ``val``.
        split: The part.
        classes: Names that labels index, as the training part's; an image of another class is an error. Default: the classes
            of the part itself.

    Raises:
        InputError: There is no such part, it is empty or damaged, or has a class that is not among ``classes``.
    """
    prefix, slash, rest = str(data).partition("/")
    if slash and prefix.lower() == "hfds":
        return HubSource(rest, SPLIT_NAMES[split], classes)
    if slash and prefix.lower() == "wds":
        return open_shards(Path(rest), SPLIT_NAMES[split], classes)
    path = Path(data)
    if path.is_dir():
        return _open_folder(path, split, classes)
    if path.is_file():
        members, inside = _part_of(path, images_in([path]), split)
        return TarSource(str(path), members, classes, inside=inside)
    raise InputError(f"{path}: no such folder or archive. (hfds/NAME and wds/DIR name data of other forms.)")


def _open_folder(path: Path, split: Split, classes: Sequence[str] | None) -> ImageSource:
    for name in SPLIT_NAMES[split]:
        if (folder := path / name).is_dir():
            archives = sorted(archive for archive in folder.glob("*.tar") if not is_hidden(archive.name))
            if archives:
                return TarSource(str(folder), images_in(archives, named=True), classes)
            return FolderSource(folder, classes)
        if (archive := path / f"{name}.tar").is_file():
            return TarSource(str(archive), images_in([archive]), classes)
    _refuse_missing(path, split, any(_holds_classes(path / n) or (path / f"{n}.tar").exists() for n in SPLIT_NAMES["train"]))
    return FolderSource(path, classes)


def _holds_classes(folder: Path) -> bool:
    """Say whether a folder holds classes: one that holds images is a class itself, which may be called train."""
    return folder.is_dir() and any(entry.is_dir() or entry.suffix == ".tar" for entry in folder.iterdir())


def _part_of(path: Path, members: list[Member], split: Split) -> tuple[list[Member], str]:
    """Return an archive's members of a part, their names as they go on behind its folder, and what stands before them.

    The part's folder stands first in their names, or below one other folder.
    """
    for depth in (0, 1):
        parts = [member.name.split("/", depth + 1) for member in members]
        tops = {words[depth] for words in parts if len(words) == depth + 2}
        if top := _first(SPLIT_NAMES[split], tops):
            inside = [(m, words) for m, words in zip(members, parts, strict=True) if len(words) == depth + 2]
            own = [(m, words) for m, words in inside if words[depth] == top]
            before = {"".join(f"{word}/" for word in words[:-1]) for _, words in own}
            if len(before) > 1:
                raise InputError(f"{path} holds several parts {top!r}: {', '.join(sorted(before))}.")
            return [member._replace(name=words[-1]) for member, words in own], before.pop()
        if _first(SPLIT_NAMES["train"], tops):
            _refuse_missing(path, split, True)
    _refuse_missing(path, split, False)
    return members, ""


def _first(names: Iterable[str], among: set[str]) -> str | None:
    return next((name for name in names if name in among), None)


def _refuse_missing(path: Path, split: Split, has_train: bool) -> None:
    if split == "train" or has_train:
        raise InputError(
            f"{path} holds no part {split!r}: neither a folder nor a .tar called {' or '.join(SPLIT_NAMES[split])}."
        )
