"""Names of classes: ImageNet's, and how the classes of a data set meet those of a model."""

import functools
from collections.abc import Sequence

from timm.data import ImageNetInfo, infer_imagenet_subset

from ditcnn.system.errors import InputError

__all__ = ["describe", "imagenet_classes", "match_classes"]


def imagenet_classes(count: int) -> tuple[str, ...]:
    """Return the WordNet ids of the ImageNet classes that a model with ``count`` outputs has; nothing for other counts.

    >>> imagenet_classes(1000)[0]
    'n01440764'
    >>> imagenet_classes(10)
    ()
    """
    subset = infer_imagenet_subset({"num_classes": count})
    return tuple(_imagenet(subset).label_names()) if subset else ()


def describe(name: str) -> str:
    """Return what a WordNet id stands for, or a name that is none as it is.

    >>> describe("n01440764"), describe("truck")
    ('tench, Tinca tinca', 'truck')
    """
    try:
        return str(_imagenet("imagenet-1k").label_name_to_description(name))
    except KeyError:
        return name


@functools.cache
def _imagenet(subset: str) -> ImageNetInfo:
    return ImageNetInfo(subset)


def match_classes(data: Sequence[str], model: Sequence[str], count: int) -> list[int]:
    """Return the model's output for each class of a data set.

    Classes are met by name. Else, where all are numbers, as those of WebDataset's shards, they are the outputs' places; and
    where all are words, as those of Hugging Face's sets, they meet WordNet ids that these words describe.

    Args:
        data: The data's classes.
        model: Names of the model's outputs; empty where they have none.
        count: Number of outputs.

    Raises:
        InputError: The data has classes that the model does not know.

    >>> match_classes(["dog"], ["cat", "dog"], 2)
    [1]
    >>> match_classes(["0", "2"], ["a", "b", "c"], 3)
    [0, 2]
    >>> match_classes(["goldfish"], ["n01440764", "n01443537"], 2)
    [1]
    """
    if set(data) <= set(model):
        output = {name: number for number, name in enumerate(model)}
        return [output[name] for name in data]
    if all(name.isdecimal() and int(name) < count for name in data):
        return [int(name) for name in data]
    if not model and len(data) == count:
        return list(range(count))
    words = _outputs_by_words(model)
    if all(_plain(name) in words for name in data) and len({words[_plain(name)] for name in data}) == len(data):
        return [words[_plain(name)] for name in data]
    strange = next((name for name in data if name not in set(model)), "")
    known = f"{count} classes ({', '.join(model[:3])}, ...)" if model else f"{count} classes without names"
    raise InputError(
        f"the model knows {known}, the data has {len(data)} ({', '.join(data[:3])}, ...), {strange!r} among them: "
        "the data's class folders must be called as the model's classes."
    )


def _outputs_by_words(model: Sequence[str]) -> dict[str, int]:
    """Return the outputs by what describes them: the whole of it, or one of its words that no other output has."""
    whole: dict[str, list[int]] = {}
    parts: dict[str, list[int]] = {}
    for number, name in enumerate(model):
        words = _plain(describe(name))
        whole.setdefault(words, []).append(number)
        for word in words.split(", "):
            parts.setdefault(word, []).append(number)
    return {words: numbers[0] for words, numbers in (parts | whole).items() if len(numbers) == 1}


def _plain(name: str) -> str:
    return " ".join(name.replace("_", " ").lower().split())
