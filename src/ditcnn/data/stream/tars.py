"""Class folders in tar archives, read where they lie."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ditcnn.data.archives import Member, list_archive, read_member
from ditcnn.data.decoding import MAX_IMAGE_BYTES, BadImage
from ditcnn.data.names import IMAGE_ENDINGS, classes_by_folder, is_image, unread_pictures
from ditcnn.data.stream.source import FileSource, labelled
from ditcnn.system.errors import InputError

__all__ = ["Member", "TarSource", "images_in", "read_member"]


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
        try:
            return read_member(Member(self.name(index), self._archives[archive], offset, size), MAX_IMAGE_BYTES)
        except InputError as error:
            raise BadImage(str(error)) from None

    def size(self, index: int) -> int:
        """Return the number of those bytes."""
        return int(self._places[index, 2])


def images_in(archives: Sequence[Path], *, named: bool = False) -> list[Member]:
    """Return the images in archives, junk left out; see `listed_images`."""
    return listed_images(archives, named=named)[0]


def listed_images(archives: Sequence[Path], *, named: bool = False) -> tuple[list[Member], tuple[str, ...]]:
    """Return the images in archives, junk left out, and what a person should be told of them.

    Args:
        archives: Paths.
        named: Files count as below a folder with their archive's name.

    Raises:
        InputError: An archive is damaged, compressed or empty.
    """
    found: list[Member] = []
    notes: tuple[str, ...] = ()
    for archive in archives:
        prefix = archive.stem + "/" if named else ""
        listing = list_archive(archive, compressed=False)
        images = [m._replace(name=prefix + m.name) if named else m for m in listing.members if is_image(m.name)]
        if not images:
            raise InputError(f"{archive} holds no images ({', '.join(IMAGE_ENDINGS)}).")
        found += images
        notes += listing.notes + unread_pictures(m.name for m in listing.members)
    return found, notes
