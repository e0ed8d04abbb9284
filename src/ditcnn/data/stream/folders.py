"""Class folders on disk: ``<class>/<image>``."""

import os
from collections.abc import Sequence
from pathlib import Path

from timm.data.readers.reader_image_folder import find_images_and_targets
from torchvision.datasets.folder import IMG_EXTENSIONS

from ditcnn.data.stream.source import ImageSource, is_hidden, labelled, refuse_merged
from ditcnn.system.errors import InputError

__all__ = ["FolderSource"]


class FolderSource(ImageSource):
    """The images below a folder, found as timm finds them; the class is the name of the folder that an image lies in.

    Raises:
        InputError: There are none, an empty class folder, or a class that is not among ``classes``.
    """

    def __init__(self, folder: Path, classes: Sequence[str] | None = None) -> None:
        images, index = find_images_and_targets(str(folder), types=IMG_EXTENSIONS, sort=False)
        class_of = {label: name for name, label in index.items()}
        found = [(os.path.relpath(path, folder), class_of[label]) for path, label in images]
        found = [(name, class_name) for name, class_name in found if not is_hidden(name)]
        _refuse_empty(folder, {name.partition(os.sep)[0] for name, _ in found})
        refuse_merged(str(folder), (os.path.dirname(name) for name, _ in found))
        order, labels, known = labelled(str(folder), found, classes)
        super().__init__(str(folder), [found[i][0] for i in order], labels, known)

    def content(self, index: int) -> bytes:
        """Return an image's undecoded bytes."""
        return Path(self.path(index)).read_bytes()

    def size(self, index: int) -> int:
        """Return the number of those bytes."""
        return os.stat(self.path(index)).st_size


def _refuse_empty(folder: Path, filled: set[str]) -> None:
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.is_dir() and not is_hidden(entry.name) and entry.name not in filled:
            raise InputError(
                f"class folder {entry.path} holds no images ({', '.join(IMG_EXTENSIONS)}). Unpack it again, or remove it."
            )
