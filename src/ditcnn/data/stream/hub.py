"""Data sets of Hugging Face's ``datasets`` package, through timm's reader."""

import io
from collections.abc import Sequence
from contextlib import redirect_stdout
from typing import Any

import numpy as np
from numpy.typing import NDArray
from timm.data.readers import create_reader

from ditcnn.data.names import natural_key
from ditcnn.data.stream.source import FileSource
from ditcnn.system.errors import InputError
from ditcnn.system.text import in_words

__all__ = ["HubSource"]


class HubSource(FileSource):
    """``hfds/NAME``: a set of the hub, or a folder that ``datasets.load_dataset`` reads.

    Labels are whole numbers, called as the set calls them, or text, which names the classes itself.

    Args:
        name: As ``datasets.load_dataset`` takes it.
        splits: Names of the part; the first that exists is taken.
        classes: Names that labels index; they must be the set's own.
        image_column, label_column: Names of the columns.

    Raises:
        InputError: The package or the set is not there, its columns or classes are others, or it has no labels.
    """

    def __init__(
        self,
        name: str,
        splits: Sequence[str],
        classes: Sequence[str] | None = None,
        image_column: str = "image",
        label_column: str = "label",
    ) -> None:
        self._reader = _open(name, splits, image_column, label_column)
        where = f"hfds/{name}/{self._reader.split}"
        columns = self._reader.dataset.column_names
        if label_column not in columns:
            raise InputError(f"{where} has the columns {', '.join(columns)}, and no {label_column}: {_WAY_OUT}")
        values = np.asarray(self._reader.dataset.with_format("numpy")[label_column][:])
        if values.size == 0:
            raise InputError(f"{where} holds no images.")
        labels, names = _as_numbers(values, where, tuple(self._reader.class_to_idx), classes)
        if labels.min() < 0 or labels.max() >= len(names):
            raise InputError(
                f"{where} has labels from {labels.min()} to {labels.max()}, but there are {len(names)} classes; parts for "
                "testing often have none (-1)."
            )
        if classes is not None and tuple(classes) != names:
            raise InputError(f"hfds/{name} has {len(names)} classes ({', '.join(names[:3])}, ...), not the known ones.")
        super().__init__(where, [str(i) for i in range(len(labels))], labels, names)

    def content(self, index: int) -> bytes:
        """Return an image's undecoded bytes."""
        file, _ = self._reader[index]
        with file:
            content: bytes = file.read()
        return content


_WAY_OUT = "name the columns of images and labels by the fields image_column and label_column."


def _as_numbers(
    values: NDArray[Any], where: str, own: tuple[str, ...], classes: Sequence[str] | None
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Return labels as numbers, and the names that they index."""
    if values.ndim == 1 and all(isinstance(value, str) for value in values.tolist()):
        words = values.tolist()
        names = tuple(classes or sorted(set(words), key=lambda word: (natural_key(word), word)))
        number = {name: label for label, name in enumerate(names)}
        if strange := set(words) - set(names):
            raise InputError(f"{where} has a class {min(strange)!r} that is not among the {len(names)} known ones.")
        return np.array([number[word] for word in words], np.int64), names
    if values.ndim != 1 or values.dtype.kind not in "iu":
        raise InputError(f"{where} has labels that are not one whole number an image.")
    # A set without names of its classes: they are those of the part before, which may have a class more.
    return values.astype(np.int64), own or tuple(classes or map(str, range(int(values.max()) + 1)))


def _open(name: str, splits: Sequence[str], image_column: str, label_column: str) -> Any:
    reason: Exception | None = None
    for split in splits:
        try:
            with redirect_stdout(io.StringIO()):  # timm says in its own words that the package is missing
                return create_reader(f"hfds/{name}", split=split, input_key=image_column, target_key=label_column)
        except ImportError:
            raise InputError(f"hfds/{name} needs the package datasets: pip install datasets.") from None
        except Exception as error:  # the package's own errors have no common class
            if "split" not in str(error).lower():
                reason = error
                break
            reason = reason or error
    raise InputError(
        f"hfds/{name}: {in_words(reason)}. (It needs columns {image_column} and {label_column}; {_WAY_OUT})"
    ) from None
