"""Batches of a source, read by worker processes, the same at any number of processes."""

import atexit
import errno
import multiprocessing
import pickle
import shutil
import signal
import weakref
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from multiprocessing.process import BaseProcess
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from ditcnn.data.batches import derived_seed
from ditcnn.data.stream.randomness import seeded
from ditcnn.data.stream.source import BadImage, ImageSource
from ditcnn.data.stream.transforms import EvalTransform, ImageTransform
from ditcnn.data.stream.workers import IMPORTED_MAIN, at_start, start_method
from ditcnn.system.errors import InputError, RunFailed, reason
from ditcnn.system.text import one_line

__all__ = ["Step", "epoch_order", "eval_batches_of", "micro_batches_per_rank", "steps_per_epoch_of", "train_batches_of"]

Batch = tuple[Tensor, Tensor]
MOST_BAD_IN_A_ROW = 100  # then it is not an image that is bad, but the data
_READ = 3  # keeps draws where an image is read apart from those of its transform


def epoch_order(images: int, seed: int, epoch: int) -> Tensor:
    """Return the order of the images in an epoch ``[N]``, a function of (seed, epoch) alone."""
    return torch.randperm(images, generator=torch.Generator().manual_seed(derived_seed(seed, epoch)))


def steps_per_epoch_of(images: int, global_batch: int) -> int:
    """Return the steps of an epoch: whole global batches; the images that are left over are not used.

    timm's script drops the last incomplete micro-batch alone, and ends an epoch with a shorter step of what is left: 313
    steps of ImageNet at 4096 images, against 312 here, where all steps have the gradient of as many images.

    Raises:
        InputError: There is not one whole batch.
    """
    if images < global_batch:
        raise InputError(f"{images} training images are fewer than a batch of {global_batch}; make it smaller.")
    return images // global_batch


def micro_batches_per_rank(global_batch: int, batch_size: int, world_size: int) -> int:
    """Return how many micro-batches of ``batch_size`` images each process computes in a step.

    Raises:
        InputError: The global batch cannot be cut so.
    """
    if min(global_batch, batch_size) < 1:
        raise InputError(f"`global_batch` and `batch_size` must be above 0; got {global_batch} and {batch_size}.")
    if global_batch % (batch_size * world_size):
        raise InputError(
            f"`global_batch` {global_batch} is not a multiple of `batch_size` {batch_size} times {world_size} "
            f"process{'es' if world_size > 1 else ''}; change one of them."
        )
    return global_batch // (batch_size * world_size)


class Step:
    """A step's micro-batches for one process, each read when its turn comes; ``len`` is known before."""

    def __init__(self, number: int, micro_batches: int, batches: Iterator[Batch]) -> None:
        self.number = number
        self._count = micro_batches
        self._left = micro_batches
        self._batches = batches

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Batch]:
        """Yield uint8 images ``[B, 3, H, W]`` and labels ``[B]``, once."""
        while self._left:
            self._left -= 1
            yield next(self._batches)


def train_batches_of(
    source: ImageSource,
    transform: ImageTransform,
    *,
    seed: int,
    epoch: int,
    global_batch: int,
    batch_size: int,
    rank: int = 0,
    world_size: int = 1,
    first_step: int = 0,
    workers: int = 0,
    skip_bad_images: bool = False,
    bad_images: dict[str, str] | None = None,
    finish: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> Iterator[Step]:
    """Yield an epoch's steps from ``first_step`` on.

    Step s is ``order[s*G : (s+1)*G]`` of `epoch_order`, cut into micro-batches; micro-batch m is read by process
    m mod ``world_size``. So neither order nor micro-batches depend on the number of processes.

    Args:
        source, transform: The images, and what is done to each.
        seed, epoch: What the order is a function of.
        global_batch: Images of a step, over all processes.
        batch_size: Images of a micro-batch.
        rank, world_size: Number of this process, and of all.
        first_step: Number of the first step; earlier ones are not read.
        workers: Worker processes that read; 0: this one does. They are no copies of this process: they import its main
            script anew, whose calls therefore stand under ``if __name__ == "__main__"``, and settings of libraries outside
            it; ``source`` and ``transform`` are pickled, so that their classes are in a module.
        skip_bad_images: Take the next readable image in the source's order for one that cannot be decoded. Which one that is
            depends on the files alone: all processes go on with the same images.
        bad_images: Filled with message by path of what this process skipped.
        finish: Returns the images of a micro-batch as they are wanted, from them and their places in the set.

    Raises:
        InputError: Sizes that do not fit, an image that cannot be decoded or read.
        RunFailed: A worker died.
    """
    steps = steps_per_epoch_of(len(source), global_batch)
    count = micro_batches_per_rank(global_batch, batch_size, world_size)
    order = epoch_order(len(source), seed, epoch)[: steps * global_batch].view(-1, batch_size)
    own = order[first_step * count * world_size :][rank::world_size]
    fetch = _Fetch(source, _AtEpoch(transform, epoch), (seed, epoch), replace=skip_bad_images)

    def run() -> Iterator[Step]:
        read = _read(fetch, _Rows(own), workers, skip_bad_images, bad_images)
        batches = (
            (images if finish is None else finish(images, row), labels)
            for row, (images, labels) in zip(own, read, strict=False)
        )
        try:
            for number in range(first_step, steps):
                step = Step(number, count, batches)
                yield step
                for _ in step:  # what was left of it, so that the next one has its own
                    pass
        finally:
            read.close()

    return run()


def eval_batches_of(
    source: ImageSource,
    transform: EvalTransform,
    *,
    batch_size: int,
    rank: int = 0,
    world_size: int = 1,
    workers: int = 0,
    skip_bad_images: bool = False,
    bad_images: dict[str, str] | None = None,
) -> Iterator[Batch]:
    """Yield uint8 images ``[B, 3, H, W]`` and labels ``[B]``: each image once, in exactly one of the processes.

    No image is repeated to make shares equal: processes have shares that differ by at most one image, or none at all. Bad
    images that are skipped are left out, not replaced. Arguments and errors as those of `train_batches_of`.
    """
    own = torch.arange(len(source))[rank::world_size]
    rows = own.split(batch_size) if len(own) else ()
    fetch = _Fetch(source, _AnyEpoch(transform), (), replace=False)
    for images, labels in _read(fetch, _Rows(rows), workers, skip_bad_images, bad_images):
        if len(labels):
            yield images, labels


class _AtEpoch:
    def __init__(self, transform: ImageTransform, epoch: int) -> None:
        self.transform, self.epoch = transform, epoch

    def __call__(self, image: Image.Image, index: int) -> Tensor:
        return self.transform(image, self.epoch, index)


class _AnyEpoch:
    def __init__(self, transform: EvalTransform) -> None:
        self.transform = transform

    def __call__(self, image: Image.Image, index: int) -> Tensor:
        return self.transform(image)


class _Rows:
    """A batch sampler over rows of indices."""

    def __init__(self, rows: Tensor | Sequence[Tensor]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[list[int]]:
        for row in self.rows:
            yield row.tolist()


class _Sample(NamedTuple):
    """An image's pixels and label, or None; path and message if the one asked for is bad; what ends the run."""

    pixels: Tensor | None
    label: int
    bad: list[tuple[str, str]]
    fatal: Exception | None


class _Fetch(Dataset[_Sample]):
    """Reads by index. Errors are returned, as torch turns those of workers into tracebacks.

    Args:
        source: The images.
        transform: What is done to an image and its place.
        place: Numbers of which, with its index, what is drawn where an image is read is a function.
        replace: Take the next image for one that is bad.
    """

    def __init__(
        self,
        source: ImageSource,
        transform: Callable[[Image.Image, int], Tensor],
        place: tuple[int, ...],
        *,
        replace: bool,
    ) -> None:
        self.source, self.transform, self.place, self.replace = source, transform, place, replace

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> _Sample:
        bad: list[tuple[str, str]] = []
        tries = min(MOST_BAD_IN_A_ROW, len(self.source)) if self.replace else 1
        for candidate in (i % len(self.source) for i in range(index, index + tries)):
            try:
                image, label = self._read(candidate)
                pixels = image if isinstance(image, Tensor) else self.transform(image, index)  # floats stay as they are
                return _Sample(pixels, label, bad, None)
            except BadImage as error:
                last = str(error)
                if candidate == index:  # a bad neighbour is counted in its own turn
                    bad.append((self.source.path(candidate), last))
            except Exception as error:  # not the same in each process: the disk's fault, or of code of the user's own
                return _Sample(None, 0, bad, self._fatal(error, candidate))
        fatal = InputError(f"{last} So were the {tries - 1} before it: mend the data.") if self.replace else None
        return _Sample(None, 0, bad, fatal)

    def _read(self, index: int) -> tuple[Any, int]:
        if not self.source.draws:
            return self.source.read(index)
        with seeded(*self.place, index, _READ):
            return self.source.read(index)

    def _fatal(self, error: Exception, index: int) -> Exception:
        path = self.source.path(index)
        if isinstance(error, InputError):
            return InputError(str(error))
        if isinstance(error, OSError):
            return InputError(f"{path} cannot be read: {reason(error)}.")
        if isinstance(error, MemoryError):
            return RunFailed(f"{path}: out of memory; try fewer `workers` or a smaller `batch_size`.")
        return InputError(f"{path} cannot be made an input: {type(error).__name__}: {one_line(error, 300)}.")


def _collate(samples: list[_Sample]) -> tuple[Tensor, list[int], list[tuple[str, str]], list[Exception]]:
    """Return images, labels, bad ones and what ends the run.

    Labels are no tensor: that would be put into shared memory on its way, where a failure is lost and the reader waits on.
    """
    good = [sample for sample in samples if sample.pixels is not None]
    fatal = [sample.fatal for sample in samples if sample.fatal]
    kinds = {(tuple(sample.pixels.shape), sample.pixels.dtype) for sample in good if sample.pixels is not None}
    if len(kinds) > 1:
        (one, other, *_) = sorted(f"{dtype} {list(shape)}" for shape, dtype in kinds)
        fatal.append(InputError(f"images of a batch must be of one size and type; got {one} and {other}."))
    if fatal:
        return torch.empty(0), [], [], fatal
    try:
        images = default_collate([sample.pixels for sample in good]) if good else torch.empty(0, 3, 0, 0, dtype=torch.uint8)
    except RuntimeError as error:
        return torch.empty(0), [], [], [RunFailed(f"a data worker failed: {one_line(error, 300)}.{_room()}")]
    return images, [sample.label for sample in good], [place for sample in samples for place in sample.bad], []


def _read(
    fetch: _Fetch, rows: _Rows, workers: int, skip_bad_images: bool, bad_images: dict[str, str] | None
) -> Generator[Batch, None, None]:
    """Yield images and labels of each row of indices."""
    batches = _load(fetch, rows, workers)
    try:
        for images, labels, bad, fatal in batches:
            if fatal:
                raise fatal[0]
            if bad and not skip_bad_images:
                raise InputError(f"{bad[0][1]} Mend or remove it, or go on without it: `skip_bad_images`.")
            if bad_images is not None:
                bad_images.update(bad)
            yield images, torch.tensor(labels, dtype=torch.int64)
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise _death(batches, error) from None
    finally:
        _end(batches)


def _death(batches: Any, error: RuntimeError) -> Exception:
    """Return what the death of data workers amounts to: their exit codes tell more than torch does."""
    codes = {worker.exitcode for worker in getattr(batches, "_workers", ()) if worker.exitcode}
    if IMPORTED_MAIN in codes:
        return InputError(
            "each data worker imports the script that was started, and comes to its call of ditcnn.fit: put that below "
            "`if __name__ == '__main__':`, or set `workers` to 0."
        )
    if -signal.SIGBUS in codes:
        return RunFailed(f"data workers ran out of shared memory.{_room()}")
    if "ancdata" in str(error) or "Too many open files" in str(error):  # each tensor takes a descriptor on its way
        return RunFailed(_TOO_MANY_FILES)
    if -signal.SIGKILL in codes:
        return RunFailed("a data worker was killed, as the system does when memory is short; try fewer `workers`.")
    last = next((line for line in reversed(str(error).splitlines()) if line.strip()), "")
    return RunFailed(f"a data worker died: {one_line(last, 300)} What it told stands above; try `workers` 0.")


_TOO_MANY_FILES = "too many open files for data workers: raise the limit (ulimit -n), or take fewer `workers`, 0 for none."


def _room() -> str:
    """Return what a person can do who has too little shared memory, through which workers hand over their batches."""
    try:
        room = shutil.disk_usage("/dev/shm")
    except OSError:
        return ""
    size = f"{room.total >> 20:,} MiB"
    return f" /dev/shm has {size}: give it more (docker run --shm-size=2g), or take fewer `workers`, 0 for none."


# A process that ends with workers at work would wait for them without end: they ignore the signal by which it ends them.
_at_work: "weakref.WeakSet[Any]" = weakref.WeakSet()


def _load(fetch: _Fetch, rows: _Rows, workers: int) -> Any:
    """Return torch's iterator over collated rows."""
    loader = DataLoader(
        fetch,
        batch_sampler=rows,
        num_workers=workers,
        collate_fn=_collate,
        pin_memory=torch.cuda.is_available(),
        multiprocessing_context=start_method() if workers else None,
        worker_init_fn=at_start,
        generator=torch.Generator(),  # else it draws from the global one
    )
    if not workers:
        return iter(loader)
    others = set(multiprocessing.active_children())
    try:
        batches = iter(loader)
    except BaseException as error:  # an interruption too: those that have started already would be waited for at the end
        _kill(set(multiprocessing.active_children()) - others)
        if isinstance(error, EOFError | ConnectionError):
            raise RunFailed("data workers cannot be started, as their server has ended; try `workers` 0.") from None
        if isinstance(error, OSError) and error.errno in (errno.ENFILE, errno.EMFILE):
            raise RunFailed(_TOO_MANY_FILES) from None
        if isinstance(error, pickle.PicklingError | AttributeError | TypeError):
            raise InputError(
                f"the images cannot be sent to data workers: {one_line(error, 300)}. Define their Dataset and its "
                "transforms in a module, by name and not as a lambda, or set `workers` to 0."
            ) from None
        raise
    _at_work.add(batches)
    return batches


def _end(batches: Any) -> None:
    """End an iterator's workers, once more where they have ended.

    Whether it is in the set does not tell: of an epoch that is collected as garbage it has gone before.
    """
    if workers := getattr(batches, "_workers", ()):
        _at_work.discard(batches)
        batches._shutdown_workers()
        _kill(workers)


def _kill(workers: Iterable[BaseProcess]) -> None:
    for worker in workers:
        worker.kill()


@atexit.register
def _end_all() -> None:
    for batches in list(_at_work):
        _end(batches)
