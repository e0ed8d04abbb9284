"""Class folders on disk: ``<class>/<image>``."""

import os
from collections.abc import Sequence
from pathlib import Path

from ditcnn.data.decoding import MAX_IMAGE_BYTES, BadImage
from ditcnn.data.files import Walk, read_file
from ditcnn.data.names import IMAGE_ENDINGS, classes_by_folder, is_image, is_junk, unread_pictures
from ditcnn.data.stream.source import FileSource, labelled
from ditcnn.system.errors import InputError

__all__ = ["FolderSource"]


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
        _refuse_empty(folder, {name.partition("/")[0] for name in names})
        order, labels, known = labelled(str(folder), list(zip(names, class_names, strict=True)), classes)
        super().__init__(str(folder), [names[i] for i in order], labels, known)
        self.notes = walk.notes + unread_pictures(files)

    def content(self, index: int) -> bytes:
        """Return an image's undecoded bytes."""
        try:
            return read_file(Path(self.path(index)), MAX_IMAGE_BYTES)
        except InputError as error:
            raise BadImage(str(error)) from None

    def size(self, index: int) -> int:
        """Return the number of those bytes."""
        return os.stat(self.path(index)).st_size


def _refuse_empty(folder: Path, filled: set[str]) -> None:
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.is_dir() and not is_junk(entry.name) and entry.name not in filled:
            raise InputError(
                f"class folder {entry.path} holds no images ({', '.join(IMAGE_ENDINGS)}). Unpack it again, or remove it."
            )
