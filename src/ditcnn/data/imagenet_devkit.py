"""The development kit of ILSVRC2012: which classes there are, and the class of each validation image."""

import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.io import loadmat

from ditcnn.data.files import Files, open_files
from ditcnn.system.errors import InputError

__all__ = ["Devkit", "read_devkit"]

_MAX_BYTES = 2**24
_META = "data/meta.mat"
_GROUND_TRUTH = "data/ILSVRC2012_validation_ground_truth.txt"


@dataclass(frozen=True)
class Devkit:
    """What the development kit says.

    Attributes:
        train_images: WordNet id of each class -> how many training images it has; 1,000 classes in the real one.
        val_wnids: The class of ``ILSVRC2012_val_{n:08d}.JPEG`` stands at n - 1; 50,000 in the real one.
    """

    train_images: dict[str, int]
    val_wnids: tuple[str, ...]

    @property
    def val_numbers(self) -> dict[int, str]:
        """Number of a validation image, from 1 on -> its class."""
        return dict(enumerate(self.val_wnids, start=1))


def read_devkit(path: Path) -> Devkit:
    """Read ``ILSVRC2012_devkit_t12.tar.gz``, or the folder that it unpacks to.

    Raises:
        InputError: It is not there, lacks one of the two files, or one of them makes no sense.
    """
    files = open_files(path)
    meta, truth = (_find(files, name) for name in (_META, _GROUND_TRUTH))
    by_id, train_images = _classes(files.read(meta, _MAX_BYTES), files.where(meta))
    val_wnids = []
    for number, line in enumerate(files.read(truth, _MAX_BYTES).split(), start=1):
        wnid = by_id.get(int(line)) if line.isdigit() else None
        if wnid is None:
            text = line.decode(errors="replace")
            raise InputError(f"{files.where(truth)}, line {number}: {text!r} is no class number of {files.where(meta)}.")
        val_wnids.append(wnid)
    if not val_wnids:
        raise InputError(f"{files.where(truth)} is empty; it must name the class of each validation image.")
    return Devkit(train_images, tuple(val_wnids))


def _find(files: Files, name: str) -> str:
    found = [known for known in files.names if f"/{known}".endswith(f"/{name}")]
    if not found:
        raise InputError(f"{files.path} holds no {name}; --devkit must name ILSVRC2012_devkit_t12.tar.gz.")
    return found[0]


def _classes(content: bytes, where: str) -> tuple[dict[int, str], dict[str, int]]:
    """Return class number -> WordNet id, and WordNet id -> training images.

    Of the synsets only the leaves of the hierarchy (without children) are classes.
    """
    try:
        synsets: Any = np.atleast_1d(loadmat(io.BytesIO(content), squeeze_me=True)["synsets"])
        leaves = [synset for synset in synsets if int(synset["num_children"]) == 0]
        by_id = {int(leaf["ILSVRC2012_ID"]): str(leaf["WNID"]) for leaf in leaves}
        train_images = {str(leaf["WNID"]): int(leaf["num_train_images"]) for leaf in leaves}
    except Exception as error:  # a damaged file of MATLAB's can raise anything
        raise InputError(f"{where} is no table of ILSVRC2012's synsets: {error or type(error).__name__}.") from None
    if not by_id:
        raise InputError(f"{where} names no class.")
    for wnid in by_id.values():
        if not re.fullmatch(r"n\d{8}", wnid):  # they become folders
            raise InputError(f"{where} has the WordNet id {wnid!r}, which is not of the form n01440764.")
    return by_id, train_images
