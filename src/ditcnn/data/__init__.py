"""Where images come from, and batches of them."""

from pathlib import Path
from typing import Literal

from ditcnn.data.cache import cached
from ditcnn.data.cifar import cifar_in, download_cifar, read_cifar
from ditcnn.data.class_folders import decode_image, has_class_folders, read_class_folders
from ditcnn.data.digits import read_digits
from ditcnn.data.files import Files, fingerprint, open_files
from ditcnn.data.idx import has_idx, read_idx
from ditcnn.data.images import ImageData, ImageSet, channel_statistics
from ditcnn.system.errors import InputError

__all__ = ["DataName", "ImageData", "ImageSet", "channel_statistics", "decode_image", "open_data"]

DataName = Literal["digits", "cifar10", "cifar100"]


def open_data(path: Path | None, name: DataName) -> ImageData:
    """Return the images at ``path``, or without one the set called ``name``.

    Args:
        path: A folder in torchvision's CIFAR format; class folders ``train/<class>/*`` and ``test/<class>/*``, or a tar of
            them; IDX files as MNIST's, in a folder or tar.
        name: The set to take without a path: scikit-learn's digits, or CIFAR below ``./data``, downloaded when absent.
            With a path it decides between CIFAR-10 and CIFAR-100 where both lie there.

    Raises:
        InputError: There is nothing to read at ``path``, or what is there is damaged.
    """
    if path is not None:
        return cached(f"{fingerprint(path)[:32]}-{name}", lambda: _read(open_files(path), name))
    if name == "digits":
        return read_digits()
    download_cifar(Path("data"), name)
    return read_cifar(open_files(Path("data")), name)


def _read(files: Files, name: DataName) -> ImageData:
    kinds = cifar_in(files)
    if kinds:
        return read_cifar(files, name if name in kinds else kinds[0])
    if has_idx(files):
        return read_idx(files)
    if has_class_folders(files):
        return read_class_folders(files)
    raise InputError(
        f"{files.path} holds no images of a known form: class folders (train/<class>/*, test/<class>/*), a tar of them, IDX "
        "files (train-images-idx3-ubyte, ...) or CIFAR's batches (cifar-10-batches-py)."
    )
