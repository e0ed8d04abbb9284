"""IDX files, the format of MNIST and its kin."""

import gzip
import math
import re
import zlib

import numpy as np
import torch
from torch import Tensor

from ditcnn.data.files import Files, only_parent
from ditcnn.data.images import ImageData, ImageSet
from ditcnn.system.errors import InputError

__all__ = ["has_idx", "read_idx"]

_NAME = re.compile(r"(?P<parent>.*/)?(?P<part>train|t10k|test)-(?P<kind>images|labels)[-.]idx[13]-ubyte(?:\.gz)?")


def has_idx(files: Files) -> bool:
    """Say whether there is an IDX file of images."""
    return any((m := _NAME.fullmatch(name)) and m["kind"] == "images" for name in files.names)


def read_idx(files: Files) -> ImageData:
    """Read ``train-images-idx3-ubyte``, ``t10k-labels-idx1-ubyte`` and so on, gzipped or not; classes are the labels.

    Raises:
        InputError: One of the four files is missing or damaged.
    """
    # Plain before gzipped where both lie, as torchvision leaves them.
    matches = [m for name in reversed(files.names) if (m := _NAME.fullmatch(name))]
    only_parent({m["parent"] or "" for m in matches}, files.path, "IDX files")
    found = {(m["part"], m["kind"]): m.string for m in matches}
    test = "test" if ("test", "images") in found else "t10k"
    arrays = {}
    for part in ("train", test):
        for kind, dimensions in (("images", 3), ("labels", 1)):
            if (part, kind) not in found:
                raise InputError(f"{files.path} lacks {part}-{kind}-idx{dimensions}-ubyte beside its other IDX files.")
            name = found[part, kind]
            arrays[part, kind] = _parse(files.read(name), dimensions, files.where(name))
    names = torch.cat([arrays["train", "labels"], arrays[test, "labels"]]).unique()
    train_set, test_set = (
        ImageSet(arrays[part, "images"].unsqueeze(1), torch.searchsorted(names, arrays[part, "labels"]))
        for part in ("train", test)
    )
    return ImageData(train_set, test_set, tuple(str(int(n)) for n in names))


def _parse(content: bytes, dimensions: int, where: str) -> Tensor:
    """Return the array of an IDX file: two zero bytes, type 8 (uint8), dimensions, each size as big-endian int32, data."""
    try:
        if content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{where} is not a readable gzip file: {error}.") from None
    header = 4 + 4 * dimensions
    if len(content) < header or content[:4] != bytes([0, 0, 8, dimensions]):
        raise InputError(f"{where} is not an IDX file of bytes in {dimensions} dimension{'s' if dimensions > 1 else ''}.")
    shape = np.frombuffer(content[4:header], ">u4").tolist()
    if len(content) - header != math.prod(shape):
        raise InputError(f"{where} holds {len(content) - header} bytes of data where its header says {shape}.")
    return torch.from_numpy(np.frombuffer(content, np.uint8, offset=header).reshape(shape).copy())
