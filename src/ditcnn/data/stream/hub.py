"""Data sets of Hugging Face's ``datasets`` package, through timm's reader."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from timm.data.readers import create_reader

from ditcnn.data.stream.source import ImageSource
from ditcnn.system.errors import InputError

__all__ = ["HubSource"]


class HubSource(ImageSource):
    """``hfds/NAME``: a set of the hub, or a folder that ``datasets.load_dataset`` reads, with columns image and label.

    Args:
        name: As ``datasets.load_dataset`` takes it.
        splits: Names of the part; the first that exists is taken.
        classes: Names that labels index; they must be the set's own.

    Raises:
        InputError: The package or the set is not there, its columns or classes are others, or it has no labels.
    """

    def __init__(self, name: str, splits: Sequence[str], classes: Sequence[str] | None = None) -> None:
        self._reader = _open(name, splits)
        where = f"hfds/{name}/{self._reader.split}"
        columns = self._reader.dataset.column_names
        if "label" not in columns:
            raise InputError(f"{where} has the columns {', '.join(columns)}; it needs image and label.")
        labels = np.asarray(self._reader.dataset.with_format("numpy")["label"][:])
        if labels.size == 0:
            raise InputError(f"{where} holds no images.")
        if labels.ndim != 1 or labels.dtype.kind not in "iu":
            raise InputError(f"{where} has labels that are not one whole number an image.")
        # A set without names of its classes: they are those of the part before, which may have a class more.
        names = tuple(self._reader.class_to_idx) or tuple(classes or map(str, range(int(labels.max()) + 1)))
        if labels.min() < 0 or labels.max() >= len(names):
            raise InputError(
                f"{where} has labels from {labels.min()} to {labels.max()}, but there are {len(names)} classes; parts for "
                "testing often have none (-1)."
            )
        if classes is not None and tuple(classes) != names:
            raise InputError(f"hfds/{name} has {len(names)} classes ({', '.join(names[:3])}, ...), not the known ones.")
        super().__init__(where, [str(i) for i in range(len(labels))], labels.tolist(), names)

    def content(self, index: int) -> bytes:
        """Return an image's undecoded bytes."""
        file, _ = self._reader[index]
        with file:
            content: bytes = file.read()
        return content

    def size(self, index: int) -> int:
        """Return the number of those bytes."""
        return len(self.content(index))


def _open(name: str, splits: Sequence[str]) -> Any:
    reason: Exception | None = None
    for split in splits:
        try:
            return create_reader(f"hfds/{name}", split=split)
        except ImportError:
            raise InputError(f"hfds/{name} needs the package datasets: pip install datasets.") from None
        except Exception as error:  # the package's own errors have no common class
            if "split" not in str(error).lower():
                reason = error
                break
            reason = reason or error
    text = " ".join(str(reason).split())
    raise InputError(f"hfds/{name}: {text} (It needs the columns image and label.)") from None
