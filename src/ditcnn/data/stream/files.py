"""Class folders on disk, ``<class>/<image>``, and in tar archives, read where they lie."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ditcnn.data.archives import Member, list_archive, read_member
from ditcnn.data.decoding import MAX_IMAGE_BYTES
from ditcnn.data.files import Walk
from ditcnn.data.names import IMAGE_ENDINGS, classes_by_folder, is_image, is_junk, unread_pictures
from ditcnn.data.stream.source import FileSource, labelled
from ditcnn.system.errors import InputError
from ditcnn.system.files import read_file

__all__ = ["FolderSource", "TarSource", "images_in"]


class FolderSource(FileSource):
    """The images below a folder; the class is the first folder that an image lies in, see `classes_by_folder`.

    Raises:
        InputError: There are none, an empty class folder, or a class that is not among ``classes``.
    """

    def __init__(self, folder: Path, classes: Sequence[str] | None = None) -> None:
        walk = Walk(folder)
        files = list(walk.files())
        names = [name for name in files if is_image(name)]
        _, class_names = classes_by_folder(str(folder), names)
        filled = {name.partition("/")[0] for name in names}
        for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
            if entry.is_dir() and not is_junk(entry.name) and entry.name not in filled:
                raise InputError(
                    f"class folder {entry.path} holds no images ({', '.join(IMAGE_ENDINGS)}). Unpack it again, or remove it."
                )
        order, labels, known = labelled(str(folder), list(zip(names, class_names, strict=True)), classes)
        super().__init__(str(folder), [names[i] for i in order], labels, known)
        self.notes = walk.notes + unread_pictures(files)

    def content(self, index: int) -> bytes:
        """Return an image's undecoded bytes."""
        return read_file(Path(self.path(index)), MAX_IMAGE_BYTES)

    def size(self, index: int) -> int:
        """Return the number of those bytes."""
        return os.stat(self.path(index)).st_size


class TarSource(FileSource):
    """Images of archives; the class is the first folder, or inner tar, that an image lies in, see `classes_by_folder`.

    Args:
        where: Where the images come from, as messages name it.
        members: The images; names are given below the part of the data set that they are of.
        classes: As in `labelled`.
        class_of: Class of each member. Default: as above.
        inside: What stands before the members' names in their archive.
        notes: As in `ImageSource`.

    Raises:
        InputError: There are none, or a class that is not among ``classes``.
    """

    def __init__(
        self,
        where: str,
        members: Sequence[Member],
        classes: Sequence[str] | None = None,
        class_of: Sequence[str] | None = None,
        inside: str = "",
        notes: tuple[str, ...] = (),
    ) -> None:
        self._inside = inside
        self.notes = notes
        names = class_of or classes_by_folder(where, [m.name for m in members])[1]
        found = [(member.name, class_name) for member, class_name in zip(members, names, strict=True)]
        order, labels, known = labelled(where, found, classes)
        super().__init__(where, [members[i].name for i in order], labels, known)
        self._archives = sorted({member.archive for member in members})
        number = {archive: n for n, archive in enumerate(self._archives)}
        self._places = np.array([(number[members[i].archive], members[i].offset, members[i].size) for i in order], np.int64)

    def path(self, index: int) -> str:
        """Return where an image lies: ARCHIVE:NAME."""
        return f"{self._archives[self._places[index, 0]]}:{self._inside}{self.name(index)}"

    def content(self, index: int) -> bytes:
        """Return an image's undecoded bytes."""
        archive, offset, size = self._places[index].tolist()
        return read_member(Member(self.name(index), self._archives[archive], offset, size), MAX_IMAGE_BYTES)

    def size(self, index: int) -> int:
        """Return the number of those bytes."""
        return int(self._places[index, 2])


def images_in(archives: Sequence[Path], *, named: bool = False) -> tuple[list[Member], tuple[str, ...]]:
    """Return the images in archives, and what a person should be told of them; ``named``: as below a folder of its name.

    Raises:
        InputError: An archive is damaged, compressed or empty.
    """
    found: list[Member] = []
    notes: tuple[str, ...] = ()
    for archive in archives:
        prefix = archive.stem + "/" if named else ""
        listing = list_archive(archive, compressed=False)
        images = [member._replace(name=prefix + member.name) for member in listing.members if is_image(member.name)]
        if not images:
            raise InputError(f"{archive} holds no images ({', '.join(IMAGE_ENDINGS)}).")
        found += images
        notes += listing.notes + unread_pictures(member.name for member in listing.members)
    return found, notes
