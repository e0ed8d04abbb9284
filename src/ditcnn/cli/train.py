"""``ditcnn train``."""

import shutil
import socket
import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ditcnn.cli.parsing import given
from ditcnn.cli.settings import TrainFlags, as_settings, recipe_of, settings_for
from ditcnn.data import channel_statistics, open_data
from ditcnn.data.stream import open_source
from ditcnn.recipes import RECIPES
from ditcnn.system.devices import choose_device
from ditcnn.system.display import Display
from ditcnn.system.environment import record_launch
from ditcnn.system.errors import InputError, ToldElsewhere, reason
from ditcnn.system.failures import explained
from ditcnn.system.processes import Processes
from ditcnn.system.signals import Stopped
from ditcnn.train import RunFolder, StreamTrainer, Trainer
from ditcnn.train.run import Run

__all__ = ["train_command"]

TIME_TO_DIE = 15.0  # seconds until a network's disk has let go of a killed process's lock


def train_command(argv: list[str]) -> None:
    """Train, alone or with the other processes of torchrun; print the result and where it lies."""
    try:
        _train(argv, Processes.join())
    except RuntimeError as error:  # before or after the run, which tells more
        if (failure := explained(error)) is error:
            raise
        raise failure from None


def _train(argv: list[str], processes: Processes) -> None:
    display = Display(quiet=not processes.first)
    restarted = processes.any_restarted()
    if restarted and not given("resume", argv):  # the run is the one that the processes before have begun
        argv = [*argv, "--resume"]
    # Settings and folder are one process's business: the others may not see the disk, or may see it half written.
    flags, folder, new = processes.on_first(lambda: _begin(argv, display, processes))
    device = processes.on_all(lambda: processes.own_device(choose_device(flags.device)))
    trainer: Run
    if flags.streamed:
        trainer, summary = _streamed(flags, folder, device, display, processes)
    elif processes.size > 1:
        raise processes.agreed(
            InputError(f"recipe {flags.name} keeps its images in memory and trains in one process: run it without torchrun.")
        )
    else:
        flags, trainer, summary = _in_memory(flags, folder, device, display, argv)
    with ExitStack() as lock:
        patience = TIME_TO_DIE if restarted else 0.0
        processes.on_first(lambda: lock.enter_context(folder.locked(patience)))
        if new:
            processes.on_first(lambda: folder.create(as_settings(flags)))
        trainer.restore()
        for difference in processes.on_first(lambda: record_launch(folder.environment, device, processes.size)):
            display.warn(f"resumed with other {difference}; bits may differ from an uninterrupted run.")
        display.say(f"{flags.model} on {device} in {flags.precision}: {summary}; {folder.path}")
        try:
            result = trainer.run()
        except (Stopped, ToldElsewhere) as stop:  # all of them do
            if isinstance(stop, Stopped) or isinstance(stop.error, Stopped):
                processes.leave()
            raise
        except OSError as error:
            raise InputError(
                f"{reason(error)}. The newest checkpoint stands; go on with --resume when there is room."
            ) from None
    processes.leave()
    if processes.first:
        _print_result(result, flags, folder)


def _begin(argv: list[str], display: Display, processes: Processes) -> tuple[TrainFlags, RunFolder, bool]:
    """Return the settings, the folder, and whether the run is a new one."""
    flags, folder = settings_for(argv)
    if processes.max_restarts and flags.out is None:
        raise InputError("torchrun's --max-restarts needs --out DIR, by which restarted processes find their run.")
    new = not folder.config.exists()
    if new:
        if flags.resume:
            display.say(f"{folder.path} holds no run: beginning one")
        display.say(_schedule(flags))
        if flags.streamed and flags.pretrained:
            display.say(
                f"images of {flags.img_size} pixels ({flags.interpolation}), mean {flags.mean}, deviation {flags.std}; "
                f"from {flags.pretrained}"
            )
    return flags, folder, new


def _in_memory(
    flags: TrainFlags, folder: RunFolder, device: torch.device, display: Display, argv: list[str]
) -> tuple[TrainFlags, Trainer, str]:
    """Return the flags, completed by what the images decide, the trainer, and a summary of its images."""
    name = RECIPES[flags.name].data
    assert name != "imagenet"
    data = open_data(None if flags.data is None else Path(flags.data), name)
    if len(flags.mean) != data.image_shape[0]:
        if flags.mean and given("mean", argv):
            raise InputError(f"--mean has {len(flags.mean)} values, the images {data.image_shape[0]} channels.")
        mean, std = channel_statistics(data.train)
        flags = replace(flags, mean=mean, std=std)
        display.say(f"normalising with the training images' mean {mean} and deviation {std}")
    trainer = Trainer(recipe_of(flags), data, folder, device, display, flags.checkpoint_minutes)
    return flags, trainer, (
        f"{len(trainer.train)} training images, {len(trainer.watched)} {trainer.watched_name}, {len(data.classes)} classes"
    )  # fmt: skip


def _streamed(
    flags: TrainFlags, folder: RunFolder, device: torch.device, display: Display, processes: Processes
) -> tuple[StreamTrainer, str]:
    """Return the trainer, and a summary of its images and steps."""
    data = flags.data
    assert data is not None  # as TrainFlags.check has seen to
    train = processes.on_all(lambda: open_source(data, "train"))
    val = processes.on_all(lambda: open_source(data, "val", classes=train.classes))
    digest = processes.on_all(lambda: f"{train.digest} {val.digest}")
    expected = processes.on_first(lambda: digest)
    processes.on_all(lambda: _refuse_other(digest, expected))
    if absent := val.absent:
        display.warn(f"val has no image of {len(absent)} of the {len(val.classes)} classes ({absent[0]}, ...).")
    trainer = processes.on_all(
        lambda: StreamTrainer(
            recipe_of(flags),
            train,
            val,
            folder,
            device,
            display,
            processes=processes,
            workers=flags.workers,
            skip_bad_images=flags.skip_bad_images,
            checkpoint_minutes=flags.checkpoint_minutes,
        )
    )
    return trainer, (
        f"{len(train)} training images, {len(val)} val, {len(trainer.classes)} classes; {trainer.steps} steps an epoch, "
        f"each of a global batch of {trainer.global_batch} = {processes.size} process{'es' if processes.size > 1 else ''} x "
        f"{trainer.micro_batches} x {flags.batch_size} images"
    )


def _refuse_other(digest: str, expected: str) -> None:
    if digest != expected:
        raise InputError(f"{socket.gethostname()}: --data holds other images than the first process's.")


def _schedule(flags: TrainFlags) -> str:
    """Return the schedule in words; a number of epochs has moved milestones and warm-up."""
    own = RECIPES[flags.name].recipe.epochs
    rescaled = f" (the recipe's {own} rescaled)" if flags.epochs != own else ""
    drops = flags.milestones if flags.schedule == "multistep" else ()
    milestones = f", milestones at {', '.join(f'{m:g}' for m in drops)}" if drops else ""
    return f"schedule: {flags.epochs} epochs{rescaled}{milestones}, warm-up of {flags.warmup_epochs:g} epochs"


_WEIGHTS = {"raw": "the weights themselves", "ema": "the moving average"}


def _print_result(result: dict[str, Any], flags: TrainFlags, folder: RunFolder) -> None:
    if result.get("watched") == "val":
        print(f"val accuracy    {result['val_top1']:.2f}% after the last epoch, of the weights")
        if "val_ema_top1" in result:
            print(f"                {result['val_ema_top1']:.2f}% of their moving average")
        print(
            f"                {result['best_val_top1']:.2f}% in the best epoch, {result['best_val_epoch']}, of "
            f"{_WEIGHTS[result['best_val_of']]}: selected on val, so no measure of the model"
        )
        which = _WEIGHTS[result["model"]]
        print(f"model           that of the last epoch, {which}")
    elif result["selected_on"] == "holdout":
        print(
            f"test accuracy   {result['test_top1']:.2f}% (model of epoch {result['selected_epoch']}, selected on held-out "
            f"training images at {result['holdout_top1']:.2f}%)"
        )
    else:
        print(f"test accuracy   {result['test_top1']:.2f}% after the last epoch, which is the saved model")
        print(
            f"                {result['best_test_top1']:.2f}% in the best epoch, {result['best_test_epoch']}: selected on "
            "test, as the paper reports it"
        )
    print(f"run folder      {folder.path}")
    if flags.recipe == "digits":
        program = _program()
        print(f"next, CIFAR-10  {program} train cifar10-warmup    10 epochs; downloads to ./data, or --data PATH")
        print(f"                {program} train cifar10           the paper's 160 epochs")


def _program() -> str:
    """Return how this program was called, for a person to repeat."""
    called = sys.argv[0]
    if called.endswith("__main__.py"):
        return "python -m ditcnn"
    return "ditcnn" if shutil.which("ditcnn") == called else called
