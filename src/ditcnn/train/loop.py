"""The training loop for images in memory, selected on held-out images."""

import copy
import math
import time
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from ditcnn.data import ImageData, ImageSet
from ditcnn.data.batches import derived_seed, normalise, steps_per_epoch, train_batches
from ditcnn.data.split import parts_of
from ditcnn.recipes import STREAMED_ONLY, Recipe
from ditcnn.system.devices import autocast
from ditcnn.system.display import Display
from ditcnn.system.errors import InputError
from ditcnn.system.processes import Processes
from ditcnn.train.evaluate import evaluate
from ditcnn.train.folder import RunFolder
from ditcnn.train.optim import set_lr
from ditcnn.train.run import Run
from ditcnn.train.saved import export_model

__all__ = ["Trainer"]


class Trainer(Run):
    """One run of a recipe on a data set.

    Order of images, their augmentation and each step's random numbers are functions of the seed and the place in the run;
    so a run that was stopped anywhere and goes on has the same bits as one that never stopped, on a CPU with as many
    threads.

    Args:
        recipe: What to compute, normalisation included.
        data: The images.
        folder: The run's folder; it exists and holds the settings.
        device: Where to compute.
        display: Where to report.
        checkpoint_minutes: Time between checkpoints within an epoch; there is one after each epoch.

    Raises:
        InputError: The model does not fit the images, or too few can be held out.
    """

    def __init__(
        self,
        recipe: Recipe,
        data: ImageData,
        folder: RunFolder,
        device: torch.device,
        display: Display,
        checkpoint_minutes: float = 5.0,
    ) -> None:
        super().__init__(recipe, folder, display, checkpoint_minutes, Processes())
        recipe.refuse(STREAMED_ONLY, "images in memory")
        self.data, self.device = data, device
        self.train, self.watched, self.watched_name = parts_of(data, recipe.protocol)
        self.steps = steps_per_epoch(len(self.train), recipe.batch_size)
        self._set_up(data.image_shape, device)
        _check_smallest_batch(self.model, data.image_shape, len(self.train), recipe.batch_size)
        self.forward: nn.Module = torch.compile(self.model) if recipe.compile else self.model  # type: ignore[assignment]

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        return self.data.classes

    @property
    def digest(self) -> str:
        """A text that tells the images from others."""
        return self.data.digest

    def _train_epoch(self) -> None:
        recipe, progress = self.recipe, self.progress
        batches = train_batches(
            self.train,
            batch_size=recipe.batch_size,
            seed=recipe.seed,
            epoch=progress.epoch,
            crop_padding=recipe.crop_padding,
            flip=recipe.flip,
            first=progress.step,
        )
        self.forward.train()
        started = time.monotonic() - progress.seconds
        for images, labels in batches:
            self._leave_if_asked()
            self._train_step(images.to(self.device), labels.to(self.device))
            progress.seconds = time.monotonic() - started
            self.display.step(f"epoch {progress.epoch + 1}/{recipe.epochs}, loss {progress.loss_sum / progress.seen:.3f}")
            if time.monotonic() - self.saved_at > self.checkpoint_seconds:
                self._save()

    def _train_step(self, images: Tensor, labels: Tensor) -> None:
        recipe, progress = self.recipe, self.progress
        torch.manual_seed(derived_seed(recipe.seed, progress.epoch, progress.step))
        set_lr(self.optimizer, self._lr(progress.step))
        x = normalise(images, recipe.mean, recipe.std)
        if recipe.channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        with autocast(self.device, recipe.precision):
            logits = self.forward(x)
        loss = F.cross_entropy(logits.float(), labels)
        if not math.isfinite(value := loss.item()):
            raise self._diverged(f"the loss became {value}")
        self.scaler.scale(loss).backward()
        self._count_update(self._update())
        progress.step += 1
        progress.loss_sum += value * len(labels)
        progress.hits += int((logits.argmax(1) == labels).sum())
        progress.seen += len(labels)

    def _close_epoch(self) -> None:
        """Evaluate, record, keep the model if it is chosen, save."""
        progress, part = self.progress, self.watched_name
        scores = self._evaluate(self.watched, self.forward)
        if not math.isfinite(scores["loss"]):
            raise self._diverged(f"the {part} loss became {scores['loss']}")
        line = {
            "epoch": progress.epoch + 1,
            "lr": self._lr(self.steps - 1),
            "train_loss": progress.loss_sum / progress.seen,
            "train_top1": 100 * progress.hits / progress.seen,
            f"{part}_loss": scores["loss"],
            f"{part}_top1": scores["top1"],
            **self._skipped_steps(),
            "seconds": round(progress.seconds, 3),
        }
        progress.epoch += 1
        progress.step, progress.loss_sum, progress.hits, progress.seen, progress.seconds = 0, 0.0, 0, 0, 0.0
        progress.skipped_steps = 0
        best = (scores["top1"], -scores["loss"]) > (progress.best_top1, -progress.best_loss)
        if best:
            progress.best_epoch, progress.best_top1, progress.best_loss = progress.epoch, scores["top1"], scores["loss"]
        if best if part == "holdout" else progress.epoch == self.recipe.epochs:
            self._export()
        self.log.write(line)
        self._save()
        self.display.say(
            f"epoch {progress.epoch:>3}  loss {line['train_loss']:.4f}  train {line['train_top1']:6.2f}%  "
            f"{part} {scores['top1']:6.2f}%{' *' if best else '  '} {line['seconds']:7.1f} s"
        )

    def _finish(self) -> None:
        """Evaluate the chosen model on test, once, and record the result. The checkpoint keeps the last epoch's model."""
        progress = self.progress
        line: dict[str, Any] = {"epoch": progress.epoch, "final": True}
        if self.watched_name == "holdout":
            chosen = copy.deepcopy(self.model)
            chosen.load_state_dict(load_file(self.folder.weights))
            scores = self._evaluate(self.data.test, chosen)
            line |= {
                "selected_on": "holdout",
                "selected_epoch": progress.best_epoch,
                "holdout_top1": progress.best_top1,
                "test_top1": scores["top1"],
                "test_loss": scores["loss"],
            }
        else:
            scores = self._evaluate(self.data.test, self.model)
            line |= {
                "selected_on": "test",
                "selected_epoch": progress.epoch,
                "test_top1": scores["top1"],
                "best_test_top1": progress.best_top1,
                "best_test_epoch": progress.best_epoch,
            }
        self.log.write(line)
        self.result = line
        progress.finished = True
        self._save()

    def _evaluate(self, part: ImageSet, model: nn.Module) -> dict[str, float]:
        return evaluate(
            model,
            part,
            mean=self.recipe.mean,
            std=self.recipe.std,
            device=self.device,
            precision=self.recipe.precision,
        )

    def _export(self) -> None:
        export_model(
            self.model,
            self.folder,
            image_shape=self.data.image_shape,
            classes=self.data.classes,
            mean=self.recipe.mean,
            std=self.recipe.std,
        )


def _check_smallest_batch(model: nn.Module, image_shape: tuple[int, int, int], images: int, batch_size: int) -> None:
    """Raise unless the model can train on the last batch of an epoch: normalising one number over itself is no use."""
    if (images % batch_size or batch_size) > 1:
        return
    try:
        device = next(model.parameters()).device
        copy.deepcopy(model).train()(torch.zeros(1, *image_shape, device=device))
    except ValueError as error:
        raise InputError(
            f"{images} training images in batches of {batch_size} leave a batch of one, which this model cannot train on "
            f"({error}). Choose another --batch-size."
        ) from None
