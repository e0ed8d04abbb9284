"""Where the steps of a run come from: images in memory, or read as they are needed. A new source is one class like these."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import rgb_to_grayscale

from ditcnn.data.batches import EpochDraws
from ditcnn.data.images import ImageSet
from ditcnn.data.stream import (
    EvalTransform,
    ImageSource,
    ImageTransform,
    Step,
    TrainTransform,
    WholeTransform,
    eval_batches_of,
    steps_per_epoch_of,
    train_batches_of,
)
from ditcnn.data.stream.source import subset
from ditcnn.recipes import Recipe
from ditcnn.system.errors import InputError

__all__ = ["Batch", "Cut", "MemorySource", "Source", "StreamSource", "eval_transform_of", "train_transform_of"]

EVAL_BATCH = 500  # of images in memory: no gradients are kept
SAMPLE_BATCH = 50
Batch = tuple[Tensor, Tensor]  # images uint8 or float [B, C, H, W], labels [B]


@dataclass(frozen=True)
class Cut:
    """How a step's images are cut into micro-batches, and which of them are this process's: every ``size``-th.

    So neither the images of a step nor its micro-batches depend on the number of processes, unless ``shared``: then each
    process has its part of a batch that one process would compute whole.
    """

    global_batch: int
    batch_size: int
    rank: int = 0
    size: int = 1
    shared: bool = False

    @classmethod
    def of(cls, recipe: Recipe, rank: int, size: int) -> "Cut":
        """Cut a recipe's batches for process ``rank`` of ``size``.

        Raises:
            InputError: They cannot be shared evenly.
        """
        if recipe.global_batch is None:
            if recipe.batch_size % size:
                raise InputError(
                    f"`batch_size` {recipe.batch_size} cannot be shared by {size} processes; make it a multiple."
                )
            return cls(recipe.batch_size, recipe.batch_size // size, rank, size, shared=size > 1)
        if recipe.global_batch % (recipe.batch_size * size):
            raise InputError(
                f"`global_batch` {recipe.global_batch} is not a multiple of `batch_size` {recipe.batch_size} times {size} "
                f"process{'es' if size > 1 else ''}; change one of them."
            )
        return cls(recipe.global_batch, recipe.batch_size, rank, size)

    @property
    def micro_batches(self) -> int:
        """Micro-batches of a step, of all processes."""
        return self.global_batch // self.batch_size


class Source(Protocol):
    """Labelled images, cut into the steps of an epoch; the same for any number of processes and any beginning."""

    classes: tuple[str, ...]
    image_shape: tuple[int, int, int]
    where: str
    topk: tuple[int, ...]

    def __len__(self) -> int: ...

    @property
    def digest(self) -> str:
        """A text that tells the images from others."""
        ...

    def steps(self, cut: Cut) -> int:
        """Return the steps of an epoch."""
        ...

    def sizes(self, cut: Cut) -> set[int]:
        """Return how many images the micro-batches of an epoch have."""
        ...

    def train_steps(self, cut: Cut, epoch: int, first: int) -> Iterator[Step]:
        """Yield an epoch's steps from ``first`` on, this process's micro-batches of each, shuffled and augmented."""
        ...

    def eval_batches(self, batch_size: int, rank: int, size: int) -> Iterator[Batch]:
        """Yield each image once, in one of the processes, as it is."""
        ...

    def sample(self, count: int) -> Tensor:
        """Return at most so many images, spread evenly over the source, as they are."""
        ...


class MemorySource:
    """Images in memory. The last step of an epoch may be smaller.

    Args:
        data: uint8 images, or floats that are taken as they are.
        classes: Names that labels index.
        recipe: How they are augmented.
        digest: A text that tells them from others.
        where: Where they come from, for messages.
    """

    topk: tuple[int, ...] = (1,)

    def __init__(self, data: ImageSet, classes: tuple[str, ...], recipe: Recipe, digest: str = "", where: str = "") -> None:
        self.data, self.classes, self.recipe, self.digest, self.where = data, classes, recipe, digest, where
        channels, height, width = data.images.shape[1:]
        self.image_shape: tuple[int, int, int] = (channels, height, width)
        drawn_one_by_one = recipe.scale is not None or recipe.auto_augment is not None
        self.transform = train_transform_of(recipe, (height, width)) if drawn_one_by_one else None
        if self.transform is not None and data.images.is_floating_point():
            raise InputError("`scale` and `auto_augment` need images of bytes (uint8); these are floats.")
        _refuse_wide_reflection(recipe, (height, width))

    def __len__(self) -> int:
        return len(self.data)

    def steps(self, cut: Cut) -> int:
        """Return the steps of an epoch, the last and smaller one included where each micro-batch of it has an image."""
        whole, rest = divmod(len(self), cut.global_batch)
        return whole + (rest >= cut.micro_batches)

    def sizes(self, cut: Cut) -> set[int]:
        """Return how many images the micro-batches of an epoch have."""
        whole, rest = divmod(len(self), cut.global_batch)
        parts = {rest // cut.micro_batches, -(-rest // cut.micro_batches)} if rest >= cut.micro_batches else set()
        return parts | ({cut.batch_size} if whole else set())

    def train_steps(self, cut: Cut, epoch: int, first: int) -> Iterator[Step]:
        """Yield an epoch's steps from ``first`` on."""
        draws = _draws_of(self.recipe, len(self), epoch)
        for number in range(first, self.steps(cut)):
            index = draws.order[number * cut.global_batch : (number + 1) * cut.global_batch]
            rows = index.tensor_split(cut.micro_batches)[cut.rank :: cut.size]
            yield Step(number, len(rows), ((self._drawn(row, draws, epoch), self.data.labels[row]) for row in rows))

    def _drawn(self, row: Tensor, draws: EpochDraws, epoch: int) -> Tensor:
        images = self.data.images[row]
        if self.transform is not None:
            images = torch.stack([self._one(image, epoch, i) for image, i in zip(images, row.tolist(), strict=True)])
        return _in_batch(self.recipe, draws, images, row)

    def _one(self, image: Tensor, epoch: int, index: int) -> Tensor:
        assert self.transform is not None
        grey = len(image) == 1
        picture = Image.fromarray((image[0] if grey else image.permute(1, 2, 0)).numpy()).convert("RGB")
        pixels = self.transform(picture, epoch, index)
        return rgb_to_grayscale(pixels) if grey else pixels

    def eval_batches(self, batch_size: int, rank: int, size: int) -> Iterator[Batch]:
        """Yield each image once, in one of the processes."""
        images, labels = self.data.images[rank::size], self.data.labels[rank::size]
        yield from zip(images.split(EVAL_BATCH), labels.split(EVAL_BATCH), strict=True)

    def sample(self, count: int) -> Tensor:
        """Return at most so many images, spread evenly over the set."""
        return self.data.images[_spread(len(self), count)]


class StreamSource:
    """Images that are read and decoded as they are needed. An epoch has whole steps alone.

    Args:
        source: The images.
        recipe: How they are augmented.
        image_shape: (C, H, W) that they are brought to.
        evaluation: How they are resized where they are evaluated.
        workers: Processes that read images.
        skip_bad_images: Go on without images that cannot be decoded; ``bad_images`` has them, message by path.
    """

    topk: tuple[int, ...] = (1, 5)

    def __init__(
        self,
        source: ImageSource,
        recipe: Recipe,
        image_shape: tuple[int, int, int],
        evaluation: EvalTransform,
        *,
        workers: int = 0,
        skip_bad_images: bool = False,
    ) -> None:
        self.source, self.recipe, self.image_shape, self.evaluation = source, recipe, image_shape, evaluation
        self.classes, self.where = source.classes, source.where
        self.workers, self.skip_bad_images = workers, skip_bad_images
        self.bad_images: dict[str, str] = {}
        self.transform = train_transform_of(recipe, image_shape[1:], evaluation)
        _refuse_wide_reflection(recipe, image_shape[1:])

    def __len__(self) -> int:
        return len(self.source)

    @property
    def digest(self) -> str:
        """A text that tells the images from others."""
        return self.source.digest

    def steps(self, cut: Cut) -> int:
        """Return the steps of an epoch: whole global batches; the images that are left over are not used."""
        return steps_per_epoch_of(len(self), cut.global_batch)

    def sizes(self, cut: Cut) -> set[int]:
        """Return how many images the micro-batches of an epoch have."""
        return {cut.batch_size}

    def train_steps(self, cut: Cut, epoch: int, first: int) -> Iterator[Step]:
        """Yield an epoch's steps from ``first`` on."""
        recipe, finish = self.recipe, None
        if recipe.crop_padding or _flips_in_batch(recipe):
            draws = _draws_of(recipe, len(self), epoch)

            def finish(images: Tensor, row: Tensor) -> Tensor:
                return _in_batch(recipe, draws, images, row)

        return train_batches_of(
            self.source,
            self.transform,
            seed=recipe.seed,
            epoch=epoch,
            global_batch=cut.global_batch,
            batch_size=cut.batch_size,
            rank=cut.rank,
            world_size=cut.size,
            first_step=first,
            workers=self.workers,
            skip_bad_images=self.skip_bad_images,
            bad_images=self.bad_images,
            finish=finish,
        )

    def eval_batches(self, batch_size: int, rank: int, size: int) -> Iterator[Batch]:
        """Yield each image once, in one of the processes."""
        return eval_batches_of(
            self.source,
            self.evaluation,
            batch_size=batch_size,
            rank=rank,
            world_size=size,
            workers=self.workers,
            skip_bad_images=self.skip_bad_images,
            bad_images=self.bad_images,
        )

    def sample(self, count: int) -> Tensor:
        """Return at most so many images, spread evenly over the source, resized as they are evaluated."""
        batches = eval_batches_of(
            subset(self.source, _spread(len(self), count).numpy()),
            self.evaluation,
            batch_size=SAMPLE_BATCH,
            workers=self.workers,
            skip_bad_images=self.skip_bad_images,
        )
        return torch.cat([images for images, _ in batches])


def _spread(length: int, count: int) -> Tensor:
    return torch.arange(min(count, length)) * length // min(count, length)


def _draws_of(recipe: Recipe, images: int, epoch: int) -> EpochDraws:
    return EpochDraws.of(images, recipe.seed, epoch, recipe.crop_padding, recipe.flip_mode == "alternating")


def _flips_in_batch(recipe: Recipe) -> bool:
    """Say whether flips are done in batches: a random resized crop has its own random flip."""
    return recipe.flip and (recipe.scale is None or recipe.flip_mode == "alternating")


def _in_batch(recipe: Recipe, draws: EpochDraws, images: Tensor, row: Tensor) -> Tensor:
    """Return images as they are drawn in an epoch, from them and their places in the set."""
    return draws.crop_and_flip(images, row, recipe.crop_padding, _flips_in_batch(recipe), recipe.padding_mode)


def _refuse_wide_reflection(recipe: Recipe, size: tuple[int, int]) -> None:
    if recipe.padding_mode == "reflect" and recipe.crop_padding >= min(size):
        raise InputError(
            f"`padding_mode` reflect needs `crop_padding` below the images' height and width; got {recipe.crop_padding} for "
            f"images of {size[0]}x{size[1]}."
        )


def train_transform_of(recipe: Recipe, size: tuple[int, int], evaluation: EvalTransform | None = None) -> ImageTransform:
    """Return what a recipe does to each image by itself; crops by padding and their flips are done in batches."""
    mean = recipe.mean if len(recipe.mean) == 3 else (0.5, 0.5, 0.5)
    if recipe.scale is None:
        whole = EvalTransform(size, crop_pct=1.0, crop_mode="squash", mean=mean) if evaluation is None else evaluation
        return WholeTransform(whole, recipe.auto_augment, recipe.seed)
    return TrainTransform(
        size if size[0] != size[1] else size[0],
        scale=recipe.scale,
        hflip=0.5 if recipe.flip and not _flips_in_batch(recipe) else 0.0,
        auto_augment=recipe.auto_augment,
        mean=mean,
        seed=recipe.seed,
    )


def eval_transform_of(recipe: Recipe, size: int, interpolation: str) -> EvalTransform:
    """Return how a recipe's images are resized where they are evaluated."""
    return EvalTransform(size, recipe.crop_pct, interpolation)
