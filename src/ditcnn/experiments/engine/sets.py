"""The data sets of an experiment: found below ``--data``, or made."""

from collections.abc import Callable, Iterable
from pathlib import Path

from ditcnn.data import DataName, ImageData, open_data
from ditcnn.system.errors import InputError

__all__ = ["ImageSets", "find_sets", "made_sets"]

ENDINGS = ("", ".tar", ".tar.gz", ".tgz")
TITLES = {
    "mnist": "MNIST (IDX files)",
    "arabic_digits": "MADBase, the Arabic digits (IDX files)",
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
}


class ImageSets:
    """Image sets by name; each is read or made at its first use, and kept."""

    def __init__(self, readers: dict[str, Callable[[], ImageData]]) -> None:
        self._readers = readers
        self._read: dict[str, ImageData] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the sets."""
        return tuple(self._readers)

    def __getitem__(self, name: str) -> ImageData:
        if name not in self._read:
            self._read[name] = self._readers[name]()
        return self._read[name]

    def digests(self, names: Iterable[str]) -> dict[str, str]:
        """Return a text for each named set that changes when an image or a label does; the others are not read."""
        return {name: self[name].digest for name in names}


def made_sets(names: tuple[str, ...], make: Callable[[str], ImageData] | None) -> ImageSets:
    """Return sets that are made."""
    if names and make is None:
        raise ValueError("an experiment that needs data must be able to make some for its smoke budget.")
    return ImageSets({name: lambda name=name: make(name) for name in names} if make else {})  # type: ignore[misc]


def find_sets(path: Path | None, needs: tuple[str, ...], may_use: tuple[str, ...], wanted_by: str) -> ImageSets:
    """Return the sets that lie below ``path``, under their names: ``mnist/``, ``mnist.tar``, ``mnist.tar.gz`` and so on.

    Where a single set is needed, ``path`` may be that set itself. Case does not matter.

    Raises:
        InputError: A needed set is not there, or ``path`` is given where no data is of use.
    """
    if path is None:
        if needs:
            raise InputError(f"{wanted_by} needs --data DIR with {_wanted(needs)}{_also(may_use)}.")
        return ImageSets({})
    if not needs and not may_use:
        raise InputError(f"{wanted_by} makes its own data; leave out --data.")
    if not path.exists():
        raise InputError(f"--data {path}: no such folder or archive. {wanted_by} needs {_wanted(needs)}{_also(may_use)}.")
    found = {name: place for name in (*needs, *may_use) if (place := _named(path, name)) is not None}
    if not found and len(needs) == 1:
        found = {needs[0]: path}
    missing = tuple(name for name in needs if name not in found)
    if missing or not found:
        raise InputError(f"{wanted_by} needs {_wanted(missing or needs or may_use)} in --data {path}; it is not there.")
    return ImageSets({name: lambda name=name, place=place: _open(place, name) for name, place in found.items()})  # type: ignore[misc]


def _open(place: Path, name: str) -> ImageData:
    kind: DataName = "cifar100" if name == "cifar100" else "cifar10" if name == "cifar10" else "digits"
    return open_data(place, kind)


def _named(folder: Path, name: str) -> Path | None:
    """Return the folder or archive of this name, a folder before an archive."""
    if not folder.is_dir():
        return None
    entries = {entry.name.lower(): entry for entry in sorted(folder.iterdir())}
    return next((entries[name + ending] for ending in ENDINGS if name + ending in entries), None)


def _wanted(names: tuple[str, ...]) -> str:
    return " and ".join(f"{TITLES.get(name, name)} as {name}/ or {name}.tar[.gz]" for name in names)


def _also(names: tuple[str, ...]) -> str:
    return f" (and, if you have it, {_wanted(names)})" if names else ""
