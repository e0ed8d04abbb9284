"""From what a user names as data - paths, torch Datasets, arrays - to what a run trains on, watches and tests on."""

import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset
from torchvision.transforms.functional import pil_to_tensor

from ditcnn.data import DatasetSource, channel_statistics, from_arrays, open_data, resized
from ditcnn.data.decoding import BadImage
from ditcnn.data.images import ImageData, ImageSet, digest_of
from ditcnn.data.kinds import look_at
from ditcnn.data.split import hold_out, hold_out_places
from ditcnn.data.stream import EvalTransform, ImageSource, open_source
from ditcnn.data.stream.randomness import seeded
from ditcnn.data.stream.source import subset
from ditcnn.recipes import RECIPES, Recipe
from ditcnn.system.display import Display
from ditcnn.system.errors import InputError
from ditcnn.system.processes import Processes
from ditcnn.train.matching import holds_small_images
from ditcnn.train.selection import Selection, selection_of
from ditcnn.train.sources import MemorySource, Source, StreamSource

__all__ = ["Inputs", "named_data", "open_inputs"]

Data = str | Path | Dataset[Any] | tuple[Any, Any] | ImageData | None
Part = ImageSet | ImageSource
SAMPLED = 1000  # images from which mean and deviation of a streamed set are computed


@dataclass(frozen=True)
class Inputs:
    """The images of a run, and the recipe with what they decide: mean, deviation and size.

    Attributes:
        recipe: The recipe, complete.
        train: What is trained on.
        selection: What is watched and tested on.
        classes: Names of the classes.
        digest: A text that tells the images from others.
        evaluation: How images are brought to their size where they are evaluated; for images of one size, nothing to do.
        upright: Whether they are turned by their EXIF orientation.
        summary: Their counts, in words.
    """

    recipe: Recipe
    train: Source
    selection: Selection
    classes: tuple[str, ...]
    digest: str
    evaluation: EvalTransform
    upright: bool
    summary: str


def named_data(data: Data) -> str | None:
    """Return what a run's settings say of data: an absolute path, or the kind of a Python object."""
    if data is None or isinstance(data, ImageData):
        return None
    if isinstance(data, str | Path):
        prefix = str(data).partition("/")[0].lower()
        if prefix == "hfds" and "/" in str(data):
            return str(data)
        folder = str(data).partition("/")[2] if prefix == "wds" and "/" in str(data) else str(data)
        absolute = str(Path(folder).expanduser().absolute())
        return absolute if folder == str(data) else f"wds/{absolute}"
    kind = type(data[0] if isinstance(data, tuple) else data)
    return f"python:{kind.__module__}.{kind.__qualname__}"


def open_inputs(
    train: Data,
    val: Data,
    test: Data,
    recipe: Recipe,
    name: str | None,
    given: set[str],
    *,
    processes: Processes,
    size_of_model: Callable[[], int],
    interpolation_of_model: Callable[[], str],
    workers: int,
    skip_bad_images: bool,
    display: Display,
) -> Inputs:
    """Open the data; every process must see the same.

    Args:
        train, val, test: As of `ditcnn.fit`.
        recipe: The recipe so far.
        name: Its name, which says what data it is for.
        given: The settings that were asked for.
        processes: Those that train together.
        size_of_model, interpolation_of_model: What the model's name says of its images.
        workers, skip_bad_images: Of streamed images.
        display: Is told what was decided.

    Raises:
        InputError: There is nothing to read, it is damaged, or the parts do not fit each other.
    """
    parts = processes.on_all(lambda: _open_parts(train, val, test, recipe, name, display.say))
    _tell_absent(parts.val or parts.test, display)
    for note in parts.notes:
        display.say(note)
    digest = processes.on_all(lambda: _digest(parts))
    expected = processes.on_first(lambda: digest)
    processes.on_all(lambda: _refuse_other(digest, expected))

    def arranged() -> Inputs:
        return _arranged(
            parts, recipe, given, digest, size_of_model, interpolation_of_model, workers, skip_bad_images, display
        )

    return processes.on_all(arranged)


def _arranged(
    parts: "_Parts",
    recipe: Recipe,
    given: set[str],
    digest: str,
    size_of_model: Callable[[], int],
    interpolation_of_model: Callable[[], str],
    workers: int,
    skip_bad_images: bool,
    display: Display,
) -> Inputs:
    """Return what is trained on, watched and tested on, and the recipe with what the images decide."""
    held_out: Part | None = None
    unwatched = parts.val is None and (parts.test is None or recipe.protocol == "holdout")
    if unwatched and recipe.protocol != "paper":
        whole = parts.train
        kept, held_out = _held_out(whole)
        parts = replace(parts, train=kept, whole=whole)
    recipe = _of_floats(recipe, parts, given) if parts.floats else _with_statistics(recipe, parts, given, display.say)
    streamed = not isinstance(parts.train, ImageSet)
    if streamed:
        size = recipe.img_size or (None if parts.size else size_of_model())
        shape = parts.size if size is None and parts.size is not None else (3, size or 0, size or 0)
        interpolation = recipe.interpolation or interpolation_of_model()
    else:
        assert isinstance(parts.train, ImageSet)
        channels, height, width = parts.train.images.shape[1:]
        shape = (channels, height, width)
        interpolation = recipe.interpolation or "bicubic"
    evaluation = EvalTransform(
        shape[1] if shape[1] == shape[2] else (shape[1], shape[2]),
        crop_pct=recipe.crop_pct,
        interpolation=interpolation,
        mean=recipe.mean if len(recipe.mean) == 3 else (0.5, 0.5, 0.5),
    )

    def source(part: Part | None) -> Source | None:
        if part is None:
            return None
        if isinstance(part, ImageSet):
            return MemorySource(part, parts.classes, recipe, where=parts.where)
        return StreamSource(part, recipe, shape, evaluation, workers=workers, skip_bad_images=skip_bad_images)

    trained = source(parts.train)
    assert trained is not None
    selection = selection_of(recipe.protocol, source(held_out), source(parts.val), source(parts.test))
    tested = selection.test
    counts = f"{len(trained)} training images, {len(selection.watched)} {selection.name}"
    if tested is not None and tested is not selection.watched:
        counts += f", {len(tested)} test"
    upright = parts.train.upright if isinstance(parts.train, ImageSource) else True  # as memory sets are read
    summary = f"{counts}, {len(parts.classes)} classes"
    return Inputs(recipe, trained, selection, parts.classes, digest, evaluation, upright, summary)


def _held_out(whole: Part) -> tuple[Part, Part]:
    if isinstance(whole, ImageSet):
        return hold_out(whole)
    kept, held = hold_out_places(torch.from_numpy(whole.labels))
    return subset(whole, kept.numpy()), subset(whole, held.numpy())


@dataclass(frozen=True)
class _Parts:
    train: Part
    val: Part | None
    test: Part | None
    classes: tuple[str, ...]
    where: str
    size: tuple[int, int, int] | None = None  # (C, H, W) of images that are all of one
    floats: bool = False  # images are floats, which are taken as they are
    whole: Part | None = None  # train with what is held out
    notes: tuple[str, ...] = ()  # what a person should be told


def _open_parts(train: Data, val: Data, test: Data, recipe: Recipe, name: str | None, say: Callable[[str], None]) -> _Parts:
    """Open what is named; the data of a name alone have a second part, which is val in the protocol ``last``, else test."""
    if val is None and test is None and (train is None or isinstance(train, str | Path | ImageData)):
        return _open_set(train, recipe, name, say)
    if train is None:
        raise InputError("name the images to train on.")
    first = _open_part(train, "train", None)
    classes = None if isinstance(first, ImageSet) else first.classes
    named: tuple[tuple[str, Data], ...] = (("val", val), ("test", test))
    opened: dict[str, Part | None] = {"train": first}
    opened |= {part: None if data is None else _open_part(data, part, classes) for part, data in named}
    kinds = {isinstance(part, ImageSet) for part in opened.values() if part is not None}
    if len(kinds) > 1:
        raise InputError("train, val and test must be of one kind: all arrays, or all paths and Datasets.")
    if isinstance(first, ImageSet):
        count = max(int(part.labels.max()) for part in opened.values() if isinstance(part, ImageSet)) + 1
        shapes = {tuple(part.images.shape[1:]) for part in opened.values() if isinstance(part, ImageSet)}
        if len(shapes) > 1:
            raise InputError(f"images of all parts must be of one size; got {' and '.join(map(str, sorted(shapes)))}.")
        if recipe.img_size is not None:
            opened = {part: resized(x, recipe.img_size) if isinstance(x, ImageSet) else None for part, x in opened.items()}
        names = tuple(map(str, range(count)))
        return _Parts(opened["train"] or first, opened["val"], opened["test"], names, "the images")
    size, floats = _size_of(first) if isinstance(first, DatasetSource) else (None, False)
    return _Parts(first, opened["val"], opened["test"], first.classes, first.where, size, floats)


def _size_of(source: DatasetSource) -> tuple[tuple[int, int, int] | None, bool]:
    """Return the shape of a Dataset's images where some, spread over it, have one, and whether they are floats."""
    shapes, floats = set[tuple[int, int, int]](), set[bool]()
    for index in torch.linspace(0, len(source) - 1, min(len(source), source.samples_in_digest)).long().tolist():
        with seeded(0, index), suppress(BadImage):
            image = source.read(index)[0]
            channels, height, width = _values(image).shape
            shapes.add((channels, height, width))
            floats.add(isinstance(image, torch.Tensor))
    if floats == {True} and len(shapes) == 1:
        return shapes.pop(), True
    if floats != {False}:
        what = (
            f"floats of several shapes, {sorted(shapes)[:2]}" if floats == {True} else "no image" if not floats else "bytes"
        )
        raise InputError(f"{source.where} holds {what}; its images must be all bytes, or all floats of one shape.")
    return shapes.pop() if len(shapes) == 1 else None, False


def _open_set(data: Any, recipe: Recipe, name: str | None, say: Callable[[str], None]) -> _Parts:
    kind = RECIPES[name].data if name is not None else None
    if isinstance(data, ImageData):
        return _in_memory(data, recipe, "the images")
    if kind == "photographs" or (kind is None and not holds_small_images(data)):
        upright = name is None or RECIPES[name].upright
        train = open_source(data, "train", upright=upright)
        other = open_source(data, "val", classes=train.classes, upright=upright)
        last = recipe.protocol == "last"
        val, test = (other, None) if last else (None, other)
        return _Parts(train, val, test, train.classes, train.where, notes=tuple(dict.fromkeys((*train.notes, *other.notes))))
    path = None if data is None else Path(data).expanduser()
    images = open_data(path, kind or "cifar10", recipe.img_size, say)
    return _in_memory(images, recipe, str(path or name))


def _in_memory(images: ImageData, recipe: Recipe, where: str) -> _Parts:
    watched, tested = (images.test, None) if recipe.protocol == "last" else (None, images.test)
    return _Parts(images.train, watched, tested, images.classes, where, notes=images.notes)


def _open_part(data: Data, part: str, classes: Sequence[str] | None) -> Part:
    if isinstance(data, tuple):
        if len(data) != 2:
            raise InputError(f"{part} must be a pair (images, labels); got {len(data)} values.")
        return from_arrays(*data)
    if isinstance(data, str | Path):
        return _named_part(data, part, classes)
    if isinstance(data, ImageData):
        raise InputError(f"{part} must be images alone, not a set with parts of its own.")
    assert data is not None
    return DatasetSource(data, classes)


def _named_part(data: str | Path, part: str, classes: Sequence[str] | None) -> Part:
    """Return a part of what lies at a path; of class folders that stand alone all is that part."""
    found = look_at(data)
    if found.kind in ("cifar", "idx"):
        images = open_data(Path(data), "cifar10")
        return images.train if part == "train" else images.test
    return open_source(data, "train" if part == "train" and not found.plain else "all", classes, upright=True)


def _digest(parts: _Parts) -> str:
    known = [part for part in (parts.train, parts.val, parts.test) if part is not None]
    if all(isinstance(part, ImageSet) for part in known):
        return digest_of(*(part for part in known if isinstance(part, ImageSet)))
    return " ".join(part.digest for part in known if isinstance(part, ImageSource))


def _refuse_other(digest: str, expected: str) -> None:
    if digest != expected:
        raise InputError(f"{socket.gethostname()}: it sees other images than the first process.")


def _tell_absent(part: Part | None, display: Display) -> None:
    if isinstance(part, ImageSource) and (absent := part.absent):
        display.warn(f"val has no image of {len(absent)} of the {len(part.classes)} classes ({absent[0]}, ...).")


def _with_statistics(recipe: Recipe, parts: _Parts, given: set[str], say: Callable[[str], None]) -> Recipe:
    """Return the recipe with the training images' mean and deviation where it has none for so many channels."""
    images = parts.whole or parts.train
    channels = images.images.shape[1] if isinstance(images, ImageSet) else 3 if parts.size is None else parts.size[0]
    if len(recipe.mean) == channels:
        return recipe
    if recipe.mean and "mean" in given:
        raise InputError(f"`mean` has {len(recipe.mean)} values, the images {channels} channels.")
    mean, std = channel_statistics(images) if isinstance(images, ImageSet) else _statistics_of_some(images)
    say(f"normalising with the training images' mean {mean} and deviation {std}")
    return replace(recipe, mean=mean, std=std)


def _of_floats(recipe: Recipe, parts: _Parts, given: set[str]) -> Recipe:
    """Return the recipe for images that the user's own code makes: no more is done to each than what is asked for."""
    for name in ("scale", "auto_augment"):
        if name in given and getattr(recipe, name) is not None:
            raise InputError(f"`{name}` needs images of bytes; {parts.where} has floats, which are taken as they are.")
    channels = (parts.size or (3,))[0]
    untouched: dict[str, Any] = {
        "mean": (0.0,) * channels,
        "std": (1.0,) * channels,
        "crop_padding": 0,
        "flip": False,
        "scale": None,
    }
    untouched |= {"auto_augment": None}
    return replace(recipe, **{name: value for name, value in untouched.items() if name not in given})


def _statistics_of_some(source: ImageSource) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and deviation per channel, in 0..1, of images spread over a source; those of floats as they are."""
    first = second = torch.zeros(1, dtype=torch.float64)
    count = 0
    for index in torch.linspace(0, len(source) - 1, min(len(source), SAMPLED)).long().tolist():
        pixels = _values(source.read(index)[0]).flatten(1)
        first, second, count = first + pixels.sum(1), second + pixels.square().sum(1), count + pixels.shape[1]
    mean = first / count
    std = (second / count - mean.square()).clamp(min=0).sqrt()
    return tuple(round(v, 4) for v in mean.tolist()), tuple(max(round(v, 4), 1e-4) for v in std.tolist())


def _values(image: Any) -> torch.Tensor:
    """Return an image's values, float64 ``[C, H, W]``."""
    return image.double() if isinstance(image, torch.Tensor) else pil_to_tensor(image).double() / 255
