"""Which folder, archive or split of a data set is its training part, and which its validation part."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from ditcnn.data.archives import Member
from ditcnn.data.names import PART_OF, PARTS, hold_out_by_name, is_junk, without_wrapper
from ditcnn.data.stream.files import FolderSource, TarSource, images_in
from ditcnn.data.stream.hub import HubSource
from ditcnn.data.stream.shards import open_shards
from ditcnn.data.stream.source import ImageSource, subset
from ditcnn.system.errors import InputError

__all__ = ["SPLIT_NAMES", "Split", "open_source"]

Split = Literal["train", "val", "all"]
# test stands last, as sets without a validation part have it.
_VAL = PARTS["val"] + PARTS["test"]
SPLIT_NAMES: dict[Split, tuple[str, ...]] = {"train": PARTS["train"], "val": _VAL, "all": _VAL}


def open_source(
    data: str | Path,
    split: Split,
    classes: Sequence[str] | None = None,
    *,
    upright: bool = False,
    image_column: str = "image",
    label_column: str = "label",
) -> ImageSource:
    """Open the training or the validation part of a data set.

    Class folders that stand alone, ``<class>/*``, are split by a hash of the images' names: a tenth is ``val``, and the
    source's ``notes`` say so.

    Args:
        data: A folder with class folders ``train/<class>/*`` and ``val/<class>/*`` (or `SPLIT_NAMES`), with ``train.tar``
            and ``val.tar``, or with ``train/<class>.tar``; class folders alone; a tar of either; ``hfds/NAME`` for
            sets of the package ``datasets``; ``wds/DIR`` for WebDataset's shards.
        split: The part. ``all`` is ``val``, but all images of class folders that stand alone: for models that were
            trained on others.
        classes: Names that labels index, as the training part's; an image of another class is an error. Default: the classes
            of the part itself; of class folders that stand alone, of both parts.
        upright: Turn images as their EXIF orientation says; published ImageNet figures are of images as they are stored.
        image_column, label_column: Names of the columns of ``hfds/NAME``.

    Raises:
        InputError: There is no such part, it is empty or damaged, or has a class that is not among ``classes``.
    """
    prefix, slash, rest = str(data).partition("/")
    alone = False
    if slash and prefix.lower() == "hfds":
        source: ImageSource = HubSource(rest, SPLIT_NAMES[split], classes, image_column, label_column)
    elif slash and prefix.lower() == "wds":
        source = open_shards(Path(rest), SPLIT_NAMES[split], classes)
    elif (path := Path(data)).is_dir():
        source, alone = _open_folder(path, split, classes)
    elif path.is_file():
        source, alone = _open_archive(path, split, classes)
    else:
        raise InputError(f"{path}: no such folder or archive. (hfds/NAME and wds/DIR name data of other forms.)")
    source.upright = upright
    return _plain(source, split) if alone else source


def _open_folder(path: Path, split: Split, classes: Sequence[str] | None) -> tuple[ImageSource, bool]:
    """Return a part of a folder; or all of it, and that its class folders stand alone."""
    for name in SPLIT_NAMES[split]:
        if (folder := path / name).is_dir() and _holds_classes(folder):
            archives = sorted(archive for archive in folder.glob("*.tar") if not is_junk(archive.name))
            if archives:
                members, notes = images_in(archives, named=True)
                return TarSource(str(folder), members, classes, notes=notes), False
            return FolderSource(folder, classes), False
        if (archive := path / f"{name}.tar").is_file():
            members, notes = images_in([archive])
            return TarSource(str(archive), members, classes, notes=notes), False
    if any(_holds_classes(path / name) or (path / f"{name}.tar").exists() for name in PART_OF):
        raise _missing(path, split)
    return FolderSource(path, classes), True


def _open_archive(path: Path, split: Split, classes: Sequence[str] | None) -> tuple[ImageSource, bool]:
    images, notes = images_in([path])
    members, inside = _part_of(path, images, split)
    return TarSource(str(path), members, classes, inside=inside, notes=notes), not inside


def _plain(source: ImageSource, split: Split) -> ImageSource:
    """Return a part of class folders that stand alone."""
    if set(source.classes) <= set(PART_OF):
        raise InputError(f"{source.path(0)} lies in no class folder; images must lie as train/<class>/<image>.")
    if split == "all":
        return source
    names = [source.name(i) for i in range(len(source))]
    held = hold_out_by_name(without_wrapper(names))
    if held.all() or not held.any():
        raise InputError(f"{source.where} holds {len(source)} images in class folders alone: too few to hold out a part.")
    note = (
        f"{source.where} has class folders alone, without train and val: {int(held.sum())} of its {len(source)} images, "
        "chosen by a hash of their names, are val"
    )
    return subset(source, held if split == "val" else ~held, note)


def _holds_classes(folder: Path) -> bool:
    """Say whether a folder holds classes: one that holds images alone is a class itself, which may be called train."""
    return folder.is_dir() and any(
        (entry.is_dir() or entry.suffix == ".tar") and not is_junk(entry.name) for entry in folder.iterdir()
    )


def _part_of(path: Path, members: list[Member], split: Split) -> tuple[list[Member], str]:
    """Return an archive's members of a part, their names as they go on behind its folder, and what stands before them.

    The part's folder stands first in their names, or below one other folder.
    """
    for depth in (0, 1):
        parts = [member.name.split("/", depth + 1) for member in members]
        inside = [
            (m, words) for m, words in zip(members, parts, strict=True) if len(words) == depth + 2 and "/" in words[-1]
        ]
        tops = {words[depth] for _, words in inside}
        if top := next((name for name in SPLIT_NAMES[split] if name in tops), None):
            own = [(m, words) for m, words in inside if words[depth] == top]
            before = {"".join(f"{word}/" for word in words[:-1]) for _, words in own}
            if len(before) > 1:
                raise InputError(f"{path} holds several parts {top!r}: {', '.join(sorted(before))}.")
            return [member._replace(name=words[-1]) for member, words in own], before.pop()
        if not tops.isdisjoint(PART_OF):
            raise _missing(path, split)
    return members, ""


def _missing(path: Path, split: Split) -> InputError:
    return InputError(
        f"{path} holds no part {split!r}: neither a folder nor a .tar called {' or '.join(SPLIT_NAMES[split])}."
    )
