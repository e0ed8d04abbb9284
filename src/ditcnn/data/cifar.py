"""CIFAR-10 and CIFAR-100 as their authors publish them: pickles of arrays, in torchvision's folders."""

import urllib.error
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torchvision.datasets import CIFAR10, CIFAR100
from torchvision.datasets.utils import check_integrity, download_and_extract_archive

from ditcnn.data.files import Files
from ditcnn.data.images import ImageData, ImageSet
from ditcnn.data.pickles import Refused, read_pickle
from ditcnn.system.errors import InputError
from ditcnn.system.locks import locked_folder
from ditcnn.system.text import in_words

__all__ = ["CifarName", "cifar_in", "download_cifar", "read_cifar"]

MAX_BYTES = 2**28  # CIFAR-100's training part has 155 MB
CifarName = Literal["cifar10", "cifar100"]
_SOURCES: dict[CifarName, type[CIFAR10]] = {"cifar10": CIFAR10, "cifar100": CIFAR100}


def cifar_in(files: Files) -> list[CifarName]:
    """Return which of the two sets lie here: in torchvision's folder, or the folder itself."""
    return [kind for kind in _SOURCES if _folder(files, kind) is not None]


def download_cifar(root: Path, kind: CifarName) -> None:
    """Download and unpack a set below ``root`` with torchvision's code and checksums, unless it is there whole.

    Raises:
        InputError: The download failed.
    """
    source = _SOURCES[kind]
    needed = [*source.train_list, *source.test_list, (source.meta["filename"], source.meta["md5"])]

    def whole() -> bool:
        return all(check_integrity(str(root / source.base_folder / name), md5) for name, md5 in needed)

    if whole():
        return
    try:
        with locked_folder(root, "downloads", patience=3600):  # the other processes of torchrun wait for the one that does
            if not whole():
                download_and_extract_archive(source.url, str(root), filename=source.filename, md5=source.tgz_md5)
    except (urllib.error.URLError, RuntimeError, OSError) as error:
        raise InputError(
            f"could not download {source.url}: {error}. Unpack it below {root} by hand, or name other data with --data PATH."
        ) from None


def read_cifar(files: Files, kind: CifarName) -> ImageData:
    """Read a set without trusting its pickles, see `read_pickle`.

    Raises:
        InputError: A file is missing, damaged, or holds anything else.
    """
    source = _SOURCES[kind]
    folder = _folder(files, kind)
    if folder is None:
        raise InputError(f"{files.path} holds no {source.base_folder}.")
    batches = [[folder + name for name, _ in part] for part in (source.train_list, source.test_list)]
    meta_name = folder + source.meta["filename"]
    for name in (*batches[0], *batches[1], meta_name):
        if name not in files.names:
            raise InputError(f"{files.where(name)} is missing.")
    content = dict(files.read_all([*batches[0], *batches[1], meta_name], MAX_BYTES))
    sets = []
    for names in batches:
        parts = [_batch(content.pop(name), files.where(name)) for name in names]
        images = torch.from_numpy(np.concatenate([images for images, _ in parts]).reshape(-1, 3, 32, 32))
        sets.append(ImageSet(images, torch.tensor([label for _, labels in parts for label in labels])))
    meta = _unpickle(content[meta_name], files.where(meta_name))
    key = source.meta["key"]
    if not isinstance(meta, dict) or not isinstance(meta.get(key), list):
        raise InputError(f"{files.where(meta_name)} holds no list {key!r} of class names.")
    return ImageData(sets[0], sets[1], tuple(str(name) for name in meta[key]), files.notes)


def _folder(files: Files, kind: CifarName) -> str | None:
    """Return what stands before the names of a set's files, or None if the set is not here."""
    source = _SOURCES[kind]
    first = source.train_list[0][0]
    return next((f for f in (source.base_folder + "/", "") if f + first in files.names), None)


def _batch(content: bytes, where: str) -> tuple[Any, list[int]]:
    batch = _unpickle(content, where)
    if isinstance(batch, dict):
        images: Any = batch.get("data")
        labels: Any = batch.get("labels", batch.get("fine_labels"))
        of_bytes = isinstance(images, np.ndarray) and images.dtype == np.uint8 and isinstance(labels, list)
        of_bytes = of_bytes and all(type(label) is int and 0 <= label < 100 for label in labels)
        if of_bytes and images.shape == (len(labels), 3072):
            return images, labels
    raise InputError(f"{where} is not a CIFAR batch: it needs 'data', uint8 of [N, 3072], and N 'labels' (integers).")


def _unpickle(content: bytes, where: str) -> Any:
    try:
        return read_pickle(content)
    except Refused as error:
        raise InputError(f"{where} is refused: {error}.") from None
    except Exception as error:  # a damaged pickle can raise anything
        raise InputError(f"{where} is damaged: {in_words(error)}.") from None
