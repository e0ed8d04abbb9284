"""IDX files, the format of MNIST and its kin."""

import gzip
import io
import math
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, cast

import numpy as np
import torch
from torch import Tensor

from ditcnn.data.files import Files, only_parent
from ditcnn.data.images import ImageData, ImageSet
from ditcnn.system.errors import InputError
from ditcnn.system.files import check_size

__all__ = ["has_idx", "idx_files", "idx_shape", "read_array", "read_idx"]

MAX_BYTES = 2**30  # EMNIST's largest part has 547 MB
# The set's name stands before EMNIST's parts. Some archives put each file into a folder of its own name.
_NAME = re.compile(
    r"(?P<parent>.*/)?(?P<set>emnist-[a-z]+-)?(?P<part>train|t10k|test)-(?P<kind>images|labels)[-.]idx[13]-ubyte(?:\.gz)?"
)
_OWN_FOLDER = re.compile(r"[a-z0-9-]*(?:images|labels)[-.]idx[13]-ubyte(?:\.gz)?/\Z")


def has_idx(files: Files) -> bool:
    """Say whether there is an IDX file of images."""
    return any((m := _NAME.fullmatch(name)) and m["kind"] == "images" for name in files.names)


def idx_files(files: Files) -> dict[tuple[str, str], str]:
    """Return (part, kind) -> name of the IDX files of one set: ``("train", "images")`` and so on, ``test`` for ``t10k`` too.

    Raises:
        InputError: There are several sets.
    """
    # Plain before gzipped where both lie, as torchvision leaves them.
    matches = [m for name in reversed(files.names) if (m := _NAME.fullmatch(name))]
    only_parent({_OWN_FOLDER.sub("", m["parent"] or "") for m in matches}, files.path, "IDX files")
    if len(sets := {m["set"] or "" for m in matches}) > 1:
        names = ", ".join(sorted(name.rstrip("-") or "files without a name before them" for name in sets))
        raise InputError(
            f"{files.path} holds several sets of IDX files: {names}. Put the one that is meant into a folder alone."
        )
    return {("train" if m["part"] == "train" else "test", m["kind"]): m.string for m in matches}


def read_idx(files: Files) -> ImageData:
    """Read ``train-images-idx3-ubyte``, ``t10k-labels-idx1-ubyte`` and so on, gzipped or not; classes are the labels.

    EMNIST's files (``emnist-balanced-train-images-idx3-ubyte``) hold each image with rows and columns exchanged; it is put
    upright here, which its own readers, torchvision's too, leave to the user.

    Raises:
        InputError: One of the four files is missing or damaged.
    """
    found = idx_files(files)
    images: dict[str, Tensor] = {}
    labels: dict[str, Tensor] = {}
    for part, wanted in (("train", "train"), ("test", "t10k")):
        for kind, dimensions, arrays in (("images", 3, images), ("labels", 1, labels)):
            if (part, kind) not in found:
                raise InputError(f"{files.path} lacks {wanted}-{kind}-idx{dimensions}-ubyte beside its other IDX files.")
            arrays[part] = read_array(files, found[part, kind], dimensions)
    names = torch.cat([*labels.values()]).unique()
    notes = files.notes
    if "emnist-" in found["train", "images"].rpartition("/")[2]:
        notes += ("EMNIST's images lie with rows and columns exchanged; they are put upright",)
        images = {part: array.transpose(1, 2).contiguous() for part, array in images.items()}
    train, test = (ImageSet(images[p].unsqueeze(1), torch.searchsorted(names, labels[p])) for p in ("train", "test"))
    return ImageData(train, test, tuple(str(int(n)) for n in names), notes)


def idx_shape(files: Files, name: str) -> list[int]:
    """Return the sizes that the header of an IDX file says; errors as those of `read_array`."""
    with _opened(files, name) as file:
        return _shape(file, files.where(name))


def read_array(files: Files, name: str, dimensions: int) -> Tensor:
    """Return the array of an IDX file: two zero bytes, type 8 (uint8), dimensions, each size as big-endian int32, data.

    Raises:
        InputError: It is damaged, has other dimensions, or more than `MAX_BYTES`.
    """
    where = files.where(name)
    with _opened(files, name) as file:
        shape = _shape(file, where)
        if len(shape) != dimensions:
            plural = "s" if dimensions > 1 else ""
            raise InputError(f"{where} is not an IDX file of bytes in {dimensions} dimension{plural}.")
        size = math.prod(shape)
        check_size(f"{where}, as its header says {shape},", size, MAX_BYTES)
        data = file.read(size)
        if len(data) != size or file.read(1):  # the latter reads a gzipped file's checksum, too
            raise InputError(f"{where} holds {'more' if len(data) == size else len(data)} bytes of data where its header "
                             f"says {shape}.")  # fmt: skip
    return torch.from_numpy(np.frombuffer(data, np.uint8).reshape(shape).copy())


@contextmanager
def _opened(files: Files, name: str) -> Iterator[IO[bytes]]:
    content = files.read(name, MAX_BYTES)
    file = io.BytesIO(content)
    try:
        yield cast("IO[bytes]", gzip.GzipFile(fileobj=file)) if content[:2] == b"\x1f\x8b" else file
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{files.where(name)} is not a readable gzip file: {error}.") from None


def _shape(file: IO[bytes], where: str) -> list[int]:
    start = file.read(4)
    sizes = file.read(4 * start[3]) if start[:3] == b"\0\0\x08" and len(start) == 4 else b""
    if not sizes or len(sizes) != 4 * start[3]:
        raise InputError(f"{where} is not an IDX file of bytes.")
    shape: list[int] = np.frombuffer(sizes, ">u4").tolist()
    return shape
