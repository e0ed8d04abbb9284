"""Names of files and folders: which are images, which are left behind by systems, and what class they stand for."""

import hashlib
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from torchvision.datasets.folder import IMG_EXTENSIONS

from ditcnn.system.errors import InputError

__all__ = [
    "IMAGE_ENDINGS",
    "PARTS",
    "PART_OF",
    "classes_by_folder",
    "hold_out_by_name",
    "is_image",
    "is_junk",
    "natural_key",
    "one_form",
    "unread_pictures",
    "without_wrapper",
]

# Names of parts, as timm knows them.
PARTS = {"train": ("train", "training"), "val": ("val", "valid", "validation", "eval", "evaluation"), "test": ("test",)}
PART_OF = {name: part for part, names in PARTS.items() for name in names}
IMAGE_ENDINGS = (*IMG_EXTENSIONS, ".jfif")
_UNREAD = frozenset(
    {".gif", ".heic", ".heif", ".avif", ".jp2", ".j2k", ".jxl", ".jpe", ".tga", ".psd", ".svg", ".dng", ".raw"}
)
# What systems leave beside data, at any level: macOS, Windows, Synology, QNAP, ext4.
_JUNK = frozenset({"__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "@eadir", "#recycle", "@recycle", "lost+found"})
_JUNK |= {"$recycle.bin", "system volume information"}


def is_junk(name: str) -> bool:
    """Say whether a file below a data set, or a folder that it lies in, is hidden or left there by a system.

    >>> is_junk("train/@eaDir/a.jpg"), is_junk("a/._b.jpg"), is_junk("train/a.jpg")
    (True, True, False)
    """
    return any(part.startswith(".") or part.lower() in _JUNK for part in name.split("/"))


def is_image(name: str) -> bool:
    """Say whether a name is that of an image which is read; the content decides on the format."""
    return name.lower().endswith(IMAGE_ENDINGS)


def unread_pictures(names: Iterable[str]) -> tuple[str, ...]:
    """Return, as a note, how many files are pictures of formats that are not read."""
    endings = [ending for name in names if (ending := name[name.rfind(".") :].lower()) in _UNREAD]
    if not endings:
        return ()
    kinds = ", ".join(sorted(set(endings)))
    return (
        f"{len(endings)} pictures ({kinds}) are left out, as their formats are not read: {', '.join(IMAGE_ENDINGS)} are",
    )


def one_form(name: str) -> str:
    """Return a name in Unicode's composed form (NFC): macOS and some archives write accents apart (NFD)."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def natural_key(name: str) -> list[str | tuple[int, str]]:
    """Return a key that sorts numbers in names as numbers, as timm does; any text will do.

    >>> sorted(["b10", "b9", "A1"], key=natural_key)
    ['A1', 'b9', 'b10']
    """
    # (number of digits, digits) compares as the number: int() takes neither all that is called a digit nor any length.
    parts = re.split(r"([0-9]+)", one_form(name).lower())
    return [(len(p.lstrip("0")), p.lstrip("0")) if i % 2 else p for i, p in enumerate(parts)]


def classes_by_folder(where: str, names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return names of images, freed of a folder around all of them, and the class of each: its first folder.

    A class may keep its images in folders of its own: ``<class>/more/*`` beside ``<class>/*``, or
    ``<class>/images/*`` alone.

    Args:
        where: What they lie in, for messages.
        names: Their names below it.

    Raises:
        InputError: An image lies in no folder; or a folder holds several folders of images and no image itself, which may be
            one class or many.
    """
    names = without_wrapper(names)
    below: dict[str, set[str]] = defaultdict(set)  # class -> second parts of its images' names; "" for an image itself
    classes = []
    for name in names:
        first, slash, rest = name.partition("/")
        if not slash:
            raise InputError(f"{where}: {name} lies in no class folder; images must lie as <class>/<image>.")
        inner, slash, _ = rest.partition("/")
        below[first].add(inner if slash else "")
        classes.append(one_form(first))
    for folder, inside in below.items():
        if "" not in inside and len(inside) > 1:
            some = " and ".join(sorted(inside)[:2]) + (", ..." if len(inside) > 2 else "")
            raise InputError(
                f"{where}: {folder} holds no image itself but the folders {some}: is it one class or {len(inside)}? "
                "Images must lie as <class>/<image>."
            )
    return names, classes


def without_wrapper(names: Sequence[str]) -> list[str]:
    """Return names without one folder that stands before all of them and holds several class folders."""
    parts = [name.split("/", 2) for name in names]
    around = {words[0] for words in parts}
    if len(around) == 1 and all(len(words) == 3 for words in parts) and len({words[1] for words in parts}) > 1:
        return ["/".join(words[1:]) for words in parts]
    return list(names)


def hold_out_by_name(names: Sequence[str], share: float = 0.1) -> NDArray[np.bool_]:
    """Say for each image, ``<class>/<image>``, whether it is held out: a function of the names in its class alone.

    An image is held out where a hash of its name falls below ``share``, so neither order nor other images move it. A class
    of two images or more has at least one on each side: there the one of lowest, or highest, hash decides.

    Args:
        names: Names below the data set; Unicode's forms of one name are alike.
        share: Which share to hold out, in 0..1.

    Raises:
        InputError: ``share`` is not between 0 and 1.

    >>> names = [f"cat/{i}.jpg" for i in range(20)]
    >>> held = hold_out_by_name(names)
    >>> bool((hold_out_by_name(names[::-1])[::-1] == held).all())
    True
    """
    if not 0 < share < 1:
        raise InputError(f"the share to hold out must be between 0 and 1; got {share}.")
    hashes = np.array([_hash(name) for name in names], dtype=np.float64)
    held: NDArray[np.bool_] = hashes < share
    by_class: dict[str, list[int]] = defaultdict(list)
    for index, name in enumerate(names):
        by_class[one_form(name.partition("/")[0])].append(index)
    for indices in by_class.values():
        if len(indices) > 1:
            order = sorted(indices, key=lambda i: (hashes[i], one_form(names[i])))
            held[order[0]], held[order[-1]] = True, False
    return held


def _hash(name: str) -> float:
    """Return a number in 0..1 that is a function of a name."""
    return int.from_bytes(hashlib.sha256(one_form(name).encode(errors="surrogatepass")).digest()[:8], "big") / 2**64
