"""A cell that trains a network: one run of the engine, in a folder of its own, resumable within the run."""

import dataclasses
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from ditcnn.cost import cost_of
from ditcnn.data import ImageData, ImageSet, channel_statistics
from ditcnn.experiments.context import Context
from ditcnn.experiments.experiment import Cell, Numbers
from ditcnn.experiments.nets import recipe_of
from ditcnn.experiments.provenance import run_record
from ditcnn.experiments.reported import selected_on
from ditcnn.recipes import Recipe
from ditcnn.system.devices import choose_device
from ditcnn.system.display import Display
from ditcnn.system.environment import record_launch
from ditcnn.system.errors import Diverged, InputError
from ditcnn.system.signals import Stopped
from ditcnn.train import RunFolder, Trainer, build_model
from ditcnn.train.metrics import read_metrics

__all__ = [
    "cost_of_cell",
    "folder_of",
    "made_images",
    "train_cell",
    "train_run",
]

_DECIDES = ("data", "net", "depth", "schedule", "seed")  # what decides a run
_KEEPERS = ("comparison", "table2", "table5", "fig5")  # experiments whose runs the others take over where they lie beside


def train_cell(cell: Cell, context: Context, *, take_over: bool = True) -> Numbers:
    """Train the network of a cell, or go on with it, or take over a finished run; return its figures.

    Args:
        cell: Its settings decide the run.
        context: Images, and where runs lie.
        take_over: Use a run of an experiment that lies beside this one, if it has finished or broken off.

    Returns:
        Accuracies in percent: ``test_top1`` and ``holdout_top1`` (in the paper's protocol ``best_test_top1``) of epoch
        ``selected_epoch``, ``epoch_top1`` after each epoch on the images watched; ``epoch_train_loss`` in nats,
        ``epoch_seconds`` and ``median_epoch_seconds``; ``parameters``, ``macs`` and ``macs_executed`` of one image.
        ``failed`` says why a run broke off; its accuracies are then chance, but for ``epoch_top1``, which is of the epochs
        it finished. ``run`` is where the run lies and what it ran on.

    Raises:
        InputError: A finished run has lost its checkpoint.
        RunFailed: The machine could not do it, as for want of memory.
        Stopped: SIGTERM or SIGINT came.
    """
    data, folder = context.images(cell["data"]), _run_folder(cell, context, _KEEPERS if take_over else ())
    failed = folder.failure()
    if failed is None:
        try:
            result = train_run(recipe_of(cell), data, folder, context.progress, name=cell["data"]).result
        except Diverged as error:
            failed = str(error)
    if failed is not None:
        chosen_by = "best_test_top1" if selected_on(cell) == "test" else "holdout_top1"
        result = dict.fromkeys(("test_top1", chosen_by), 100 / len(data.classes)) | {"selected_epoch": 0}
    lines = [line for line in read_metrics(folder.metrics) if "train_loss" in line]
    watched = f"{selected_on(cell)}_top1"
    model = build_model(recipe_of(cell).model, data.image_shape, len(data.classes), **recipe_of(cell).model_arguments())
    cost = cost_of(model, data.image_shape, 2)
    return {
        "test_top1": result["test_top1"],
        "best_test_top1": result.get("best_test_top1"),
        "holdout_top1": result.get("holdout_top1"),
        "selected_epoch": result["selected_epoch"],
        "epoch_top1": [line[watched] for line in lines],
        "epoch_train_loss": [line["train_loss"] for line in lines],
        "epoch_seconds": [line["seconds"] for line in lines],
        "median_epoch_seconds": statistics.median(line["seconds"] for line in lines) if lines else None,
        "parameters": cost.parameters,
        "macs": cost.macs,
        "macs_executed": cost.macs_executed,
        "failed": failed,
        "run": run_record(folder, context),
    }


def folder_of(numbers: Numbers, context: Context) -> RunFolder:
    """Return the folder of the run whose figures `train_cell` returned."""
    return RunFolder(context.out.parent / numbers["run"]["folder"])


def _run_folder(cell: Cell, context: Context, keepers: tuple[str, ...]) -> RunFolder:
    """Return the folder of a cell's run: of an experiment beside this one if it ended there, or its own."""
    run = {key: cell[key] for key in _DECIDES}
    for keeper in keepers:
        folder = RunFolder(dataclasses.replace(context, out=context.out.parent / keeper).folder(run))
        if (folder.weights.exists() and _has_result(folder)) or folder.failure() is not None:
            return folder
    return RunFolder(context.folder(run))


def cost_of_cell(cell: Cell) -> float:
    """Return the relative time of a cell's run: epochs, depth, and what its network took on two cores of a CPU."""
    widened = {"dit": 1.1, "fan": 2.7, "quadralib": 2.7, "qres": 1.7, "plain-parameters": 1.9, "plain-macs": 1.9}
    small = 0.3 if cell["net"].startswith("convnext") else 1.0
    return float(recipe_of(cell).epochs * cell["depth"]) * widened.get(cell["net"], 1.0) * small


def made_images(name: str) -> ImageData:
    """Return 66 training and 30 test images of 32x32 in three classes that differ in brightness, with noise; for smoke."""
    draw = torch.Generator().manual_seed(0)

    def part(count: int) -> ImageSet:
        labels = torch.arange(count) % 3
        noise = torch.randint(0, 90, (count, 3, 32, 32), generator=draw)
        return ImageSet((70 * labels[:, None, None, None] + noise).to(torch.uint8), labels)

    return ImageData(part(66), part(30), ("dark", "grey", "bright"))


def train_run(
    recipe: Recipe, data: ImageData, folder: RunFolder, progress: Callable[[float], None], *, name: str, device: str = "auto"
) -> Trainer:
    """Train by a recipe in a folder, or go on with what lies there; return the trainer with its result.

    Args:
        recipe: What to compute; a normalisation that it leaves open is that of the training images.
        data: The images.
        folder: The run's folder; it need not be there.
        progress: Takes the fraction done, 0 to 1.
        name: Of the recipe, for the settings in the folder.
        device: As of ``ditcnn train``.

    Raises:
        InputError: The folder holds a finished run without its checkpoint: it is not trained again on top of it.
        Diverged: The loss or a weight became infinite or NaN.
        Stopped: SIGTERM or SIGINT came; a checkpoint is saved, of the whole run where it came in its last moments.
    """
    if not recipe.mean:
        mean, std = channel_statistics(data.train)
        recipe = dataclasses.replace(recipe, mean=mean, std=std)
    place, display = choose_device(device), _BarAlone(progress)
    trainer = Trainer(recipe, data, folder, place, display)
    if not trainer.begun() and _has_result(folder):
        raise InputError(f"{folder.path} holds a finished run that lost its last.pt; put it back, or delete the folder.")
    if not folder.config.exists():
        with folder.locked():
            settings = {"recipe": name, "device": device, "checkpoint_minutes": 5.0} | dataclasses.asdict(recipe)
            folder.create({key: list(v) if isinstance(v, tuple) else v for key, v in settings.items() if v is not None})
    trainer.restore()
    if not trainer.progress.finished:
        with folder.locked():
            for difference in record_launch(folder.environment, place):
                display.warn(f"{folder.path} goes on with other {difference}; bits may differ from an uninterrupted run.")
            try:
                trainer.run()
            except Diverged:
                if trainer.stop.signum is None:
                    raise
        if trainer.stop.signum is not None:  # too late for the run to stop; what would come after it shall not begin
            raise Stopped(trainer.stop.signum)
    return trainer


def _has_result(folder: RunFolder) -> bool:
    return folder.metrics.exists() and any(line.get("final") for line in read_metrics(folder.metrics))


class _BarAlone(Display):
    """A display that moves the experiment's bar and prints warnings alone."""

    def __init__(self, progress: Callable[[float], None]) -> None:
        super().__init__()
        self.tell = progress

    @contextmanager
    def bar(self, total: float, done: float, description: str = "") -> Iterator[None]:
        """Count steps meanwhile."""
        self.total, self.done = total, done
        yield

    def step(self, description: str) -> None:
        """Count one step."""
        self.done += 1
        self.tell(self.done / self.total)

    def say(self, message: str) -> None:
        """Say nothing: the run's own record has it."""
