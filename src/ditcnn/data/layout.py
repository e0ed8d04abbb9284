"""Which images of a folder or archive are for training, which for testing, and their classes."""

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ditcnn.data.files import Files, only_parent
from ditcnn.data.names import (
    TRAIN_NAMES,
    VAL_NAMES,
    classes_by_folder,
    hold_out_by_name,
    is_image,
    one_form,
    unread_pictures,
)
from ditcnn.system.errors import InputError

__all__ = ["Layout", "Part", "class_folders_in"]

# One folder around the parts is allowed, as archives often have. A path is read without it where it can be: a class may be
# called train, as one of CIFAR-100's is.
_PLACE = re.compile(rf"(?P<parent>[^/]+/)??(?P<part>{'|'.join((*TRAIN_NAMES, 'test', *VAL_NAMES))})/(?P<rest>.+)")


@dataclass
class Part:
    """The images of a part: their names in the folder or archive, and the class of each."""

    names: list[str] = field(default_factory=list)
    classes: list[str] = field(default_factory=list)


@dataclass
class Layout:
    """The parts, ``train`` and, where they are, ``test`` and ``val``; or ``all``, of class folders that stand alone."""

    parts: dict[str, Part]
    notes: tuple[str, ...] = ()

    def split(self) -> "Layout":
        """Return class folders that stand alone as ``train`` and ``test``, by a hash of their names; others as they are."""
        if "all" not in self.parts:
            return self
        whole = self.parts["all"]
        held = hold_out_by_name(_below(whole))
        parts = {
            name: Part([whole.names[i] for i in indices], [whole.classes[i] for i in indices])
            for name, indices in (("train", np.flatnonzero(~held).tolist()), ("test", np.flatnonzero(held).tolist()))
        }
        note = (
            f"class folders alone, without train and test: {int(held.sum())} of {len(held)} images, chosen by a hash "
            f"of their "
            "names, are the test part"
        )
        return Layout(parts, (*self.notes, note))


def class_folders_in(files: Files) -> Layout | None:
    """Return the images in class folders: ``train/<class>/*`` and ``test/<class>/*`` or ``val/<class>/*``, or ``<class>/*``.

    Raises:
        InputError: There are several sets, a class folder that is empty, or images that lie elsewhere.
    """
    images = [name for name in files.names if is_image(name)]
    notes = files.notes + unread_pictures(files.names)
    found: dict[str, list[tuple[str, str]]] = defaultdict(list)  # part -> (name, name below the part)
    parents = set()
    for name in images:
        if (place := _PLACE.fullmatch(name)) and "/" in place["rest"]:
            parents.add(place["parent"] or "")
            found[_part(place["part"])].append((name, place["rest"]))
    empty = {}  # part/class -> the same, of folders
    for folder in files.folders:
        if (place := _PLACE.fullmatch(folder)) and "/" not in place["rest"]:
            empty[_part(place["part"]), place["rest"]] = f"{place['part']}/{place['rest']}"
            if place["part"] in TRAIN_NAMES:
                parents.add(place["parent"] or "")
    if "train" in found or any(part == "train" for part, _ in empty):
        only_parent(parents, files.path, "class folders")
        parts = {}
        for part, pairs in found.items():
            _, classes = classes_by_folder(f"{files.path}, {part}", [rest for _, rest in pairs])
            parts[part] = Part([name for name, _ in pairs], classes)
        filled = {(part, rest.partition("/")[0]) for part, pairs in found.items() for _, rest in pairs}
        _refuse_empty(files, [words for place, words in empty.items() if place not in filled])
        return Layout(parts, notes)
    tops = {name.partition("/")[0] for name in images if "/" in name}
    if not images or not tops:
        return None
    below, classes = classes_by_folder(str(files.path), images)
    if len(set(classes)) < 2:
        return None
    around = images[0][: len(images[0]) - len(below[0])] if below else ""
    first = {name.partition("/")[0] for name in below}
    folders = [f.removeprefix(around) for f in files.folders if f.startswith(around)]
    _refuse_empty(files, [f for f in folders if f and "/" not in f and f not in first])
    return Layout({"all": Part(images, classes)}, notes)


def _part(name: str) -> str:
    return "train" if name in TRAIN_NAMES else "test" if name == "test" else "val"


def _below(part: Part) -> Sequence[str]:
    return classes_by_folder("", part.names)[0]


def _refuse_empty(files: Files, folders: list[str]) -> None:
    for folder in sorted(folders):
        raise InputError(f"{files.path}: class folder {one_form(folder)} holds no images. Unpack it again, or remove it.")
