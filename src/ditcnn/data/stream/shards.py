"""WebDataset's shards, read at random access: ``KEY.jpg`` and ``KEY.cls`` beside each other in tar archives."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

from ditcnn.data.archives import Member, list_archive, read_member
from ditcnn.data.names import is_junk
from ditcnn.data.stream.files import TarSource
from ditcnn.data.stream.source import ImageSource
from ditcnn.system.errors import InputError

__all__ = ["open_shards"]

_LONGEST_LABEL = 100  # bytes
_IMAGES = ("jpg", "jpeg", "png", "webp")  # as timm's reader takes them


def open_shards(folder: Path, splits: Sequence[str], classes: Sequence[str] | None = None) -> ImageSource:
    """Open one part of a folder of shards.

    Shards are plain tars, so they are listed and read like other tars: shuffling is over the whole set, and a run resumes
    exactly, which a stream of shards does not allow. Labels are the numbers in ``.cls``; the classes are called by them.

    Args:
        folder: Holds the shards, and ``_info.json`` with timm's ``splits``, or shards whose names hold the part's name.
        splits: Names of the part; the first that is there is taken.
        classes: Names that labels index; a label must be below their number.

    Raises:
        InputError: No such part, a damaged shard, or an image without a label.
    """
    if not folder.is_dir():
        raise InputError(f"wds/{folder}: no such folder of shards.")
    members, labels = [], []
    for shard in _shards(folder, splits):
        for image, label in _samples(shard):
            members.append(image)
            labels.append(label)
    if not members:
        raise InputError(f"wds/{folder} holds no images ({', '.join(_IMAGES)}) of part {splits[0]!r}.")
    count = max(labels) + 1 if classes is None else len(classes)
    if max(labels) >= count or min(labels) < 0:
        raise InputError(f"wds/{folder} has labels from {min(labels)} to {max(labels)}, but there are {count} classes.")
    names = tuple(map(str, range(count))) if classes is None else tuple(classes)
    return TarSource(f"wds/{folder}", members, names, [names[label] for label in labels])


def _shards(folder: Path, splits: Sequence[str]) -> list[Path]:
    info = next((folder / name for name in ("_info.json", "info.json") if (folder / name).is_file()), None)
    if info is not None:
        try:
            known = json.loads(info.read_bytes())["splits"]
            split = next((known[name] for name in splits if name in known), None)
            if split is not None:
                return [folder / name for name in split["filenames"]]
        except (ValueError, LookupError, TypeError) as error:
            raise InputError(f"{info} is damaged: it needs splits with filenames ({error}).") from None
    for name in splits:
        word = re.compile(rf"(?<![a-z]){name}(?![a-z])")  # not within another: val is in retrieval
        if shards := sorted(p for p in folder.glob("*.tar") if word.search(p.stem.lower()) and not is_junk(p.name)):
            return shards
    raise InputError(f"wds/{folder} has no part {splits[0]!r}: neither in _info.json nor as shards *{splits[0]}*.tar.")


def _samples(shard: Path) -> list[tuple[Member, int]]:
    images: dict[str, Member] = {}
    labels: dict[str, int] = {}
    if not shard.is_file():
        raise InputError(f"{shard}: no such shard.")
    for member in list_archive(shard, compressed=False).members:
        folder, slash, base = member.name.rpartition("/")
        stem, _, kind = base.partition(".")  # WebDataset's keys end at the first dot
        key = folder + slash + stem
        if kind.lower() in _IMAGES:
            images[key] = member._replace(name=f"{shard.name}/{member.name}")
        elif kind == "cls":
            try:
                labels[key] = int(read_member(member, _LONGEST_LABEL))
            except ValueError:
                raise InputError(f"{shard}:{member.name} holds no number.") from None
    for key, image in images.items():
        if key not in labels:
            raise InputError(f"{shard}: {image.name.partition('/')[2]} has no label beside it ({key}.cls).")
    return [(image, labels[key]) for key, image in images.items()]
