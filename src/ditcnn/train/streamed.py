"""The training loop for sets that are streamed from disk, in any number of processes."""

import math
import signal
import time
from collections.abc import Iterator
from typing import Any

import timm
import torch
import torch.nn.functional as F
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from ditcnn.data.batches import derived_seed, normalise
from ditcnn.data.stream import (
    Erase,
    EvalTransform,
    ImageSource,
    Mix,
    Step,
    TrainTransform,
    eval_batches_of,
    micro_batches_per_rank,
    steps_per_epoch_of,
    train_batches_of,
)
from ditcnn.recipes import IN_MEMORY_ONLY, Recipe
from ditcnn.system.devices import autocast
from ditcnn.system.display import Display
from ditcnn.system.errors import InputError
from ditcnn.system.processes import Processes
from ditcnn.train.evaluate import evaluate_batches, mean_scores
from ditcnn.train.folder import RunFolder
from ditcnn.train.optim import set_lr
from ditcnn.train.run import Run
from ditcnn.train.saved import save_model

__all__ = ["StreamTrainer"]

MATURE = 3  # times 1/(1 - decay) updates: then the starting weights count for e^-3 = 5% of the average


class StreamTrainer(Run):
    """One run of a recipe on images that are read as they are needed, in one process or many.

    Each step has ``global_batch`` images, cut into micro-batches of ``batch_size``; micro-batch m belongs to process
    m mod P and gets its random numbers from (seed, epoch, step, m). So the images of a step, how they are augmented and
    mixed, and which blocks drop path passes over are the same for any number of processes P, and the gradient is the mean
    over the global batch: to the bit for one P, else to rounding.

    The images of ``val`` are watched, not selected on: the model of the last epoch counts. ``model.safetensors`` is the
    moving average of the weights once it has had 3/(1 - decay) updates, before that the weights themselves.

    Args:
        recipe: What to compute.
        train, val: The images; they have the same classes.
        folder: The run's folder; it exists and holds the settings.
        device: Where this process computes.
        display: Where to report.
        processes: Those that train together.
        workers: Processes that read images, for each of those.
        skip_bad_images: Go on without images that cannot be decoded, and count them. A resumed run may change it, as it
            decides nothing but whether a bad image ends the run.
        checkpoint_minutes: Time between checkpoints within an epoch; there is one after each epoch.

    Raises:
        InputError: The model does not fit the images, or the global batch cannot be kept.
    """

    def __init__(
        self,
        recipe: Recipe,
        train: ImageSource,
        val: ImageSource,
        folder: RunFolder,
        device: torch.device,
        display: Display,
        *,
        processes: Processes,
        workers: int = 0,
        skip_bad_images: bool = False,
        checkpoint_minutes: float = 5.0,
    ) -> None:
        super().__init__(recipe, folder, display, checkpoint_minutes, processes)
        recipe.refuse(IN_MEMORY_ONLY, "a streamed set")
        self.train, self.val, self.device = train, val, device
        self.workers, self.skip_bad_images = workers, skip_bad_images
        self.global_batch = recipe.global_batch or recipe.batch_size
        self.micro_batches = micro_batches_per_rank(self.global_batch, recipe.batch_size, processes.size)
        self.steps = steps_per_epoch_of(len(train), self.global_batch)
        size = recipe.img_size or _own(recipe.model, "input_size", (224,))[-1]
        self.interpolation = recipe.interpolation or _own(recipe.model, "interpolation", "bicubic")
        self.image_shape = (3, size, size)
        self.transform = TrainTransform(
            size,
            scale=recipe.scale,
            hflip=0.5 if recipe.flip else 0.0,
            auto_augment=recipe.auto_augment,
            mean=recipe.mean,
            seed=recipe.seed,
        )
        self.mix = Mix(len(self.classes), recipe.mixup, recipe.cutmix, smoothing=recipe.label_smoothing, seed=recipe.seed)
        self.erase = Erase(recipe.reprob, skip_first_half=recipe.resplit, seed=recipe.seed)
        self.bad_images: dict[str, str] = {}  # of the step under way: message by path
        self.told: set[str] = set()
        self.passed_over = False  # the newest step's update, by the scaler

        self._set_up(self.image_shape, device)
        self.ema = ModelEmaV3(self.model, decay=recipe.ema_decay) if recipe.ema_decay else None
        if self.ema and recipe.epochs * self.steps < self._mature_after():
            display.warn(
                f"{recipe.epochs * self.steps} updates are too few for a moving average of decay {recipe.ema_decay}, which "
                f"needs {self._mature_after()} to forget its start: its accuracy will mean little, and the weights "
                "themselves will be the model. Lower --ema-decay."
            )

    def restore(self) -> None:
        """Take over the folder's newest checkpoint, if there is one; then compile, and share gradients.

        Raises:
            InputError: The checkpoint is damaged, or of other settings or data.
        """
        super().restore()
        self.compiled: nn.Module = torch.compile(self.model) if self.recipe.compile else self.model  # type: ignore[assignment]
        self.forward = self.processes.wrap(self.compiled)
        if self.processes.size > 1:
            self._settle()

    def _settle(self) -> None:
        """Do a backward pass without effect, after which DDP has its buckets of gradients laid out for good.

        Left to itself it does so after the first step: then the first step of a resumed run would add the gradients of three
        or more processes in another order than a run that was not stopped.
        """
        buffers = [buffer.clone() for buffer in self.model.buffers()]
        self.forward.train()
        with autocast(self.device, self.recipe.precision):
            logits = self.forward(torch.zeros(self.recipe.batch_size, *self.image_shape, device=self.device))
        logits.float().sum().backward()
        self.optimizer.zero_grad()
        for buffer, before in zip(self.model.buffers(), buffers, strict=True):
            buffer.copy_(before)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        return tuple(self.train.classes)

    @property
    def digest(self) -> str:
        """A text that tells the images from others."""
        return f"{self.train.digest} {self.val.digest}"

    @property
    def updates(self) -> int:
        """Steps done in the whole run."""
        return self.progress.epoch * self.steps + self.progress.step

    @property
    def chosen(self) -> str:
        """Which weights are exported: ``ema``, the moving average once it has forgotten its start, else ``raw``."""
        return "ema" if self.ema and self.updates >= self._mature_after() else "raw"

    def _mature_after(self) -> int:
        return round(MATURE / (1 - self.recipe.ema_decay))

    def _state(self) -> dict[str, Any]:
        return super()._state() | ({"ema": self.ema.module.state_dict()} if self.ema else {})

    def _take_over(self, state: dict[str, Any]) -> None:
        super()._take_over(state)
        if self.ema:
            self.ema.module.load_state_dict(state["ema"])

    def _train_epoch(self) -> None:
        recipe, progress, processes = self.recipe, self.progress, self.processes
        steps = train_batches_of(
            self.train,
            self.transform,
            seed=recipe.seed,
            epoch=progress.epoch,
            global_batch=self.global_batch,
            batch_size=recipe.batch_size,
            rank=processes.rank,
            world_size=processes.size,
            first_step=progress.step,
            workers=self.workers,
            skip_bad_images=self.skip_bad_images,
            bad_images=self.bad_images,
        )
        self.forward.train()
        started = time.monotonic() - progress.seconds
        for step in steps:
            loss_sum = self._train_step(step)
            progress.seconds = time.monotonic() - started
            self._agree(loss_sum)

    def _train_step(self, step: Step) -> float:
        """Do a step on this process's micro-batches; return the sum of their losses."""
        set_lr(self.optimizer, self._lr(self.progress.step))
        loss_sum = torch.zeros((), device=self.device)
        for k, (images, labels) in enumerate(step):
            x, targets = self._augment(images.to(self.device), labels.to(self.device), k)
            with self.processes.accumulating(self.forward, last=k == len(step) - 1):
                with autocast(self.device, self.recipe.precision):
                    logits = self.forward(x)
                loss = F.cross_entropy(logits.float(), targets)
                # Gradients are averaged over the processes, each of which has as many micro-batches.
                self.scaler.scale(loss / len(step)).backward()
            loss_sum += loss.detach()
        self.passed_over = not self._update()
        self.processes.average_statistics(self.model)
        if self.ema:
            self.ema.update(self.model)
        return loss_sum.item()

    def _augment(self, images: Tensor, labels: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Return this process's ``k``-th micro-batch of a step, normalised, mixed and erased, with its targets."""
        number = self.processes.rank + k * self.processes.size  # of the micro-batch among all of the step
        x = normalise(images, self.recipe.mean, self.recipe.std)
        x, targets = self.mix(x, labels, self.updates, number)
        x = self.erase(x, self.updates, number)
        torch.manual_seed(derived_seed(self.recipe.seed, self.updates, number))  # of drop path, on GPUs too
        return x.contiguous(memory_format=torch.channels_last) if self.recipe.channels_last else x, targets

    def _agree(self, loss_sum: float) -> None:
        """Count a step that is done; save, and leave, where any process has reason to."""
        progress = self.progress
        due = time.monotonic() - self.saved_at > self.checkpoint_seconds
        losses, signals, dues, bad = self.processes.gather(loss_sum, self._wish(), due, self._tell_bad_images()).T
        self._count(losses.sum().item() / self.micro_batches / self.processes.size)
        progress.bad_images += int(bad.sum())
        self.display.step(f"epoch {progress.epoch + 1}/{self.recipe.epochs}, loss {self._mean_loss():.3f}")
        self._leave_if_any(signals)
        if dues[0]:  # by the first process's clock
            self._save()

    def _count(self, loss: float) -> None:
        """Count a step by its loss; one without an update too, which the scaler passes over where it is not finite."""
        progress = self.progress
        finite = math.isfinite(loss)
        if finite:
            progress.loss_sum += loss * self.global_batch
            progress.seen += self.global_batch
        elif not self.scaler.is_enabled():
            raise self._diverged(f"the loss became {loss}")
        self._count_update(finite and not self.passed_over, "gradient" if finite else "loss")
        progress.step += 1

    def _mean_loss(self) -> float:
        """Return the mean loss of the epoch so far, of the steps that had one."""
        return self.progress.loss_sum / self.progress.seen if self.progress.seen else math.nan

    def _tell_bad_images(self) -> int:
        """Tell which images this process has skipped in the step, each once; return their number."""
        for path, message in self.bad_images.items():
            if path not in self.told:
                self.display.alert(f"skipped: {message}")
                self.told.add(path)
        count = len(self.bad_images)
        self.bad_images.clear()
        return count

    def _wish(self) -> int:
        """Return the signal that asks this process to stop, or 0."""
        return self.stop.signum or (signal.SIGTERM if self.processes.abandoned else 0)

    def _leave_if_any(self, signals: Tensor) -> None:
        if signals.any():
            self._save_and_leave(int(signals.max()))

    def _close_epoch(self) -> None:
        """Evaluate, record, keep the newest model, save."""
        progress = self.progress
        scores = self._evaluate()
        if not progress.seen:
            raise self._diverged("the loss was not finite in any step")
        if not math.isfinite(scores["val_loss"]):
            raise self._diverged(f"the val loss became {scores['val_loss']}")
        line = {
            "epoch": progress.epoch + 1,
            "lr": self._lr(0),
            "train_loss": self._mean_loss(),
            **scores,
            **({"bad_images": progress.bad_images} if self.skip_bad_images else {}),
            **self._skipped_steps(),
            "seconds": round(progress.seconds, 3),
        }
        progress.epoch += 1
        progress.step, progress.loss_sum, progress.seen, progress.seconds = 0, 0.0, 0, 0.0
        progress.bad_images, progress.skipped_steps = 0, 0
        watched = "val_ema" if self.chosen == "ema" else "val"
        top1 = scores[f"{watched}_top1"]
        best = progress.best_of != self.chosen or top1 > progress.best_top1  # weights are not compared with averages
        progress.best_of = self.chosen
        if best:
            progress.best_epoch, progress.best_top1, progress.best_loss = progress.epoch, top1, scores[f"{watched}_loss"]
        self.result = line
        self.processes.on_first(lambda: self._record(line))
        self._save()
        young = "" if self.chosen == "ema" else " (young)"
        average = f"  average {scores['val_ema_top1']:6.2f}%{young}" if self.ema else ""
        self.display.say(
            f"epoch {progress.epoch:>3}  loss {line['train_loss']:.4f}  val {scores['val_top1']:6.2f}%{average}"
            f"{' *' if best else '  '} {line['seconds']:7.1f} s"
        )

    def _record(self, line: dict[str, Any]) -> None:
        self._export()
        self.log.write(line)

    def _evaluate(self) -> dict[str, float]:
        """Return loss and accuracies on val, of the weights and of their average."""
        models = {"val": self.compiled} | ({"val_ema": self.ema.module} if self.ema else {})
        sums = evaluate_batches(
            models,
            self._val_batches(),
            mean=self.recipe.mean,
            std=self.recipe.std,
            device=self.device,
            precision=self.recipe.precision,
            topk=(1, 5) if len(self.classes) > 5 else (1,),
        )
        mine = [value for counts in sums.values() for value in counts.values()]
        bad, *totals = self.processes.gather(self._tell_bad_images(), *mine).sum(0).tolist()
        if not totals[0]:
            error = InputError(f"{self.val.where}: no image of {len(self.val)} can be decoded; mend or replace them.")
            raise self.processes.agreed(error)
        scores: dict[str, float] = {"val_bad_images": int(bad)} if self.skip_bad_images else {}
        for part, counts in sums.items():
            total, totals = dict(zip(counts, totals, strict=False)), totals[len(counts) :]
            scores |= {f"{part}_{name}": value for name, value in mean_scores(total).items()}
        return scores

    def _val_batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield this process's share of val; leave between two batches where any process is asked to stop."""
        rank, size, batch_size = self.processes.rank, self.processes.size, self.recipe.batch_size
        batches = eval_batches_of(
            self.val,
            EvalTransform(self.image_shape[1], self.recipe.crop_pct, self.interpolation),
            batch_size=batch_size,
            rank=rank,
            world_size=size,
            workers=self.workers,
            skip_bad_images=self.skip_bad_images,
            bad_images=self.bad_images,
        )
        for _ in range(math.ceil(math.ceil(len(self.val) / size) / batch_size)):  # the largest share's number of batches
            self._leave_if_any(self.processes.gather(self._wish())[:, 0])
            if (batch := next(batches, None)) is not None:
                yield batch

    def _export(self) -> None:
        chosen = self.ema.module if self.ema and self.chosen == "ema" else self.model
        config = {
            "input_size": self.image_shape,
            "mean": self.recipe.mean,
            "std": self.recipe.std,
            "crop_pct": self.recipe.crop_pct,
            "crop_mode": "center",  # as val is read here, whatever the name's own weights want
            "interpolation": self.interpolation,
        }
        save_model(chosen, self.folder.path, classes=self.classes, data_config=config)

    def _finish(self) -> None:
        """Record the result: the last epoch's model, and the best epoch as such."""
        progress = self.progress
        line = {"epoch": progress.epoch, "final": True, "watched": "val", "model": self.chosen}
        line |= {name: value for name, value in self.result.items() if name.startswith("val")}
        line |= {"best_val_top1": progress.best_top1, "best_val_epoch": progress.best_epoch}
        line |= {"best_val_of": progress.best_of}
        self.result = line
        progress.finished = True
        self.processes.on_first(lambda: self.log.write(line))
        self._save()


def _own(model: str, key: str, default: Any) -> Any:
    """Return what a model of timm's registry says of its images; ``default`` where it says nothing."""
    return timm.models.get_pretrained_cfg_value(model, key) or default
