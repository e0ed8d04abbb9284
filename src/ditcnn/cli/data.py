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
    from ditcnn.data.imagenet_devkit import Devkit
    from ditcnn.data.imagenet_folders import Preparation, Prepared

__all__ = ["data_command"]

_SETS = ("imagenet",)
_USAGE = """usage: ditcnn data imagenet --train-tar T --val-tar V --devkit D --out DIR
       ditcnn data imagenet --val-folder V --val-solution LOC_val_solution.csv --out DIR

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
    """ILSVRC2012_img_val.tar; needs --devkit or --val-solution, which say the class of each image."""
    val_folder: Path | None = None
    """A folder of the same images, as Kaggle has it (ILSVRC/Data/CLS-LOC/val), in place of --val-tar; they are copied."""
    val_solution: Path | None = None
    """Kaggle's LOC_val_solution.csv, in place of --devkit for the classes of the validation images."""
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
    if flags.train_tar is None and flags.val_tar is None and flags.val_folder is None:
        raise InputError("name an archive with --train-tar or --val-tar, or a folder with --val-folder.")
    if flags.val_tar is not None and flags.val_folder is not None:
        raise InputError("--val-tar and --val-folder hold the same images; name one of them.")
    val = flags.val_tar or flags.val_folder
    if val is not None and flags.devkit is None and flags.val_solution is None:
        raise InputError(
            f"{'--val-tar' if flags.val_tar else '--val-folder'} needs --devkit ILSVRC2012_devkit_t12.tar.gz or "
            "--val-solution LOC_val_solution.csv: the images do not say which class they are of."
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
        if val is not None:
            wnids, truth = _truth(flags, devkit)
            parts["val"] = stack.enter_context(open_val(val, wnids, truth))
        preparation = Preparation(flags.out, parts)
        preparation.check_disk()
        prepared = _run(preparation)
    for part, done in prepared.items():
        says = "the devkit says" if devkit else f"{flags.val_solution} says" if part == "val" else None
        print(f"{visible(flags.out / part)}: {_summary(done, says)}")


def _truth(flags: ImagenetFlags, devkit: "Devkit | None") -> tuple[dict[int, str], str]:
    """Return the class of each validation image by its number, and what says so."""
    if flags.val_solution is not None:
        from ditcnn.data.imagenet_archives import read_val_solution

        wnids = read_val_solution(flags.val_solution)
        if devkit is not None and wnids != devkit.val_numbers:
            raise InputError(f"{flags.val_solution} and {flags.devkit} name different classes; leave out one of them.")
        return wnids, str(flags.val_solution)
    assert devkit is not None  # one of the two is asked for
    return devkit.val_numbers, "the devkit's ground truth"


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


def _summary(done: "Prepared", says: str | None) -> str:
    before = done.classes - done.written
    text = f"{done.classes:,} classes, {done.images:,} images"
    text += f", as many as {says}" if says else ", not compared with the devkit (--devkit)"
    return text + (f"; {before:,} classes were there already" if before else "")
