"""``ditcnn data``."""

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ditcnn.cli.parsing import parse
from ditcnn.system.errors import InputError, nearest
from ditcnn.system.text import plain_console, visible

if TYPE_CHECKING:
    from ditcnn.data.imagenet_archives import ClassImages
    from ditcnn.data.imagenet_folders import Preparation, Prepared

__all__ = ["data_command"]

_SETS = ("imagenet",)
_USAGE = """usage: ditcnn data imagenet --train-tar T --val-tar V --devkit D --out DIR

ditcnn data imagenet --help lists the flags."""


@dataclass(frozen=True)
class ImagenetFlags:
    """Make class folders of ImageNet-1K's archives as downloaded: OUT/train/<wnid>/*.JPEG and OUT/val/<wnid>/*.JPEG.

    Interrupted, the same command goes on without redoing finished classes; OUT/train and OUT/val appear when they are whole.
    """

    out: Path
    """Folder to write to; the whole set takes about 145 GiB."""
    train_tar: Path | None = None
    """ILSVRC2012_img_train.tar, a tar of a tar for each class."""
    val_tar: Path | None = None
    """ILSVRC2012_img_val.tar; needs --devkit, which says the class of each image."""
    devkit: Path | None = None
    """ILSVRC2012_devkit_t12.tar.gz, or the folder that it unpacks to; training images are counted against it."""


def data_command(argv: list[str]) -> None:
    """Prepare a data set."""
    if not argv or argv[0] in ("-h", "--help"):
        print(_USAGE)
    elif argv[0] not in _SETS:
        raise InputError(
            f"ditcnn data prepares {', '.join(_SETS)}, not {argv[0]!r}.{nearest(argv[0], _SETS)} "
            "Other data needs no preparation: name it with --data."
        )
    else:
        _prepare_imagenet(parse(ImagenetFlags, argv[1:], "ditcnn data imagenet"))


def _prepare_imagenet(flags: ImagenetFlags) -> None:
    if flags.train_tar is None and flags.val_tar is None:
        raise InputError("name an archive with --train-tar or --val-tar.")
    if flags.val_tar is not None and flags.devkit is None:
        raise InputError(
            "--val-tar needs --devkit ILSVRC2012_devkit_t12.tar.gz: the archive does not say which class an image is of."
        )
    if flags.out.exists() and not flags.out.is_dir():
        raise InputError(f"{flags.out} is a file; --out must name a folder.")
    from ditcnn.data.imagenet_archives import open_train, open_val
    from ditcnn.data.imagenet_devkit import read_devkit
    from ditcnn.data.imagenet_folders import Preparation

    devkit = read_devkit(flags.devkit) if flags.devkit else None
    with ExitStack() as stack:
        parts: dict[str, list[ClassImages]] = {}
        if flags.train_tar is not None:
            parts["train"] = stack.enter_context(open_train(flags.train_tar, devkit))
        if flags.val_tar is not None and devkit:
            parts["val"] = stack.enter_context(open_val(flags.val_tar, devkit))
        preparation = Preparation(flags.out, parts)
        preparation.check_disk()
        prepared = _run(preparation)
    for part, done in prepared.items():
        print(f"{visible(flags.out / part)}: {_summary(done, counted=devkit is not None)}")


def _run(preparation: "Preparation") -> "dict[str, Prepared]":
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    console = plain_console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
    )
    left = (TextColumn("left"), TimeRemainingColumn())
    with Progress(*columns, *left, console=console, disable=not console.is_terminal, transient=True) as progress:
        tasks = {}
        for part, classes in preparation.parts.items():
            total = sum(images.size for images in classes)
            missing = sum(images.size for images in preparation.missing[part])
            tasks[part] = progress.add_task(part, total=total, completed=total - missing)
        return preparation.run(lambda part, size: progress.advance(tasks[part], size))


def _summary(done: "Prepared", counted: bool) -> str:
    before = done.classes - done.written
    text = f"{done.classes:,} classes, {done.images:,} images"
    text += ", as many as the devkit says" if counted else ", not compared with the devkit (--devkit)"
    return text + (f"; {before:,} classes were there already" if before else "")
