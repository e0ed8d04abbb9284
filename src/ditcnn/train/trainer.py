"""The training engine: one step, one loop, for images in memory and from disk, in one process or many."""

import copy
import dataclasses
import math
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from ditcnn.data.batches import derived_seed, normalise
from ditcnn.data.stream import Erase, Mix, Step
from ditcnn.recipes import Recipe
from ditcnn.system.devices import autocast
from ditcnn.system.display import Display
from ditcnn.system.errors import Diverged, InputError, RunFailed
from ditcnn.system.failures import explained, lost_contact
from ditcnn.system.processes import Processes
from ditcnn.system.signals import Stopped, StopRequest
from ditcnn.train.checkpoint import FORMAT, clean, load_newest, refuse_other, save_newest
from ditcnn.train.evaluate import evaluate_batches, mean_scores
from ditcnn.train.folder import RunFolder
from ditcnn.train.metrics import MetricsLog, draw_curves
from ditcnn.train.optim import lr_factor, make_optimizer, set_lr
from ditcnn.train.selection import Progress, Selection
from ditcnn.train.sources import Batch, Cut, Source
from ditcnn.train.weights import read_weights

__all__ = ["Trainer"]

MATURE = 3  # times 1/(1 - decay) updates: then the starting weights count for e^-3 = 5% of the average
MOST_SKIPPED_IN_A_ROW = 20  # steps; the scaler has halved its scale as often, so it is not the scale that is too great
Callback = Callable[[dict[str, Any]], None]
State = dict[str, Tensor]


class Trainer:
    """One run of a recipe: exact, interruptible anywhere, the same whoever called it.

    Each step has a global batch, cut into micro-batches (`Cut`). The order of images is a function of (seed, epoch), the
    augmentation of an image of (seed, epoch, index), all else that is random in it of (seed, step, micro-batch). So a
    run that was stopped anywhere and goes on has the same bits as one that never stopped, on a CPU with as many threads;
    and a run in several processes has the steps of one process, to rounding.

    Args:
        recipe: What to compute, normalisation included.
        model: The network, its weights as they are at the start.
        train: The images to train on.
        selection: What is watched, and which model counts.
        folder: The run's folder; it exists and holds the settings.
        device: Where this process computes.
        display: Where to report.
        digest: A text that tells the images from others.
        export: Writes a model with the chosen weights into the folder, for `ditcnn.load`.
        processes: Those that train together. Only the first one touches the folder.
        checkpoint_minutes: Time between checkpoints within an epoch; there is one after each epoch.
        callbacks: Are called with each line of the metrics, and with each step's epoch, step, loss and rate.

    Raises:
        InputError: The batches cannot be cut so.
    """

    def __init__(
        self,
        recipe: Recipe,
        model: nn.Module,
        train: Source,
        selection: Selection,
        folder: RunFolder,
        device: torch.device,
        display: Display,
        *,
        digest: str,
        export: Callable[[nn.Module], None],
        processes: Processes | None = None,
        checkpoint_minutes: float = 5.0,
        callbacks: Sequence[Callback] = (),
    ) -> None:
        self.recipe, self.train, self.selection, self.folder = recipe, train, selection, folder
        self.device, self.display, self.digest, self.export, self.callbacks = device, display, digest, export, callbacks
        self.processes = processes or Processes()
        self.checkpoint_seconds, self.saved_at = 60 * checkpoint_minutes, time.monotonic()
        self.cut = Cut.of(recipe, self.processes.rank, self.processes.size)
        self.steps = train.steps(self.cut)  # in an epoch
        self.progress, self.result = Progress(), dict[str, Any]()
        self.chosen_weights: State | None = None  # of the best epoch, where another one than the newest may count
        self.lines: list[dict[str, Any]] = []  # of the metrics
        self.restored_from: Path | None = None
        self.stop = StopRequest(self.processes.launcher is not None, display.say)
        self.told: set[str] = set()  # images that are skipped
        self.passed_over = False  # the newest step's update, by the scaler
        self.failure: Exception | None = None  # to read images, of which the other processes do not know yet

        torch.backends.cudnn.deterministic = True
        self.model = model.to(device)
        if recipe.channels_last:
            model.to(memory_format=torch.channels_last)
        self.optimizer = make_optimizer(model, recipe)
        self.scaler = torch.amp.GradScaler(device.type, enabled=recipe.precision == "fp16")
        self.mix = Mix(len(train.classes), recipe.mixup, recipe.cutmix, smoothing=recipe.label_smoothing, seed=recipe.seed)
        self.soft = bool(recipe.mixup or recipe.cutmix or recipe.label_smoothing)  # targets are shares of classes
        self.erase = Erase(recipe.reprob, skip_first_half=recipe.resplit, seed=recipe.seed)
        self.ema = ModelEmaV3(model, decay=recipe.ema_decay) if recipe.ema_decay else None
        if self.ema and recipe.epochs * self.steps < self._mature_after():
            display.warn(
                f"{recipe.epochs * self.steps} updates are too few for a moving average of decay {recipe.ema_decay}, which "
                f"needs {self._mature_after()} to forget its start: its accuracy will mean little, and the weights "
                "themselves will be the model. Lower `ema_decay`."
            )

    # The run

    def restore(self) -> None:
        """Take over the folder's newest checkpoint, if there is one.

        Raises:
            InputError: The checkpoint is damaged, or of other settings or data.
        """
        # The first process reads it for all: the others may be on machines that do not see the folder.
        found = self.processes.on_first(lambda: load_newest(self.folder, self.display.warn))
        if found is not None:
            state, self.restored_from = found
            try:
                refuse_other(state, self.restored_from, self.recipe, self.train.classes, self.digest)
            except InputError as error:
                raise self.processes.agreed(error) from None
            self._take_over(state)
        elif self.processes.size > 1:  # a module that was made in Python has weights of its own in each process
            self.model.load_state_dict(self.processes.on_first(lambda: _copy(self.model)))
            if self.ema:
                self.ema.set(self.model)

    def run(self) -> dict[str, Any]:
        """Train from where the run stands to the end; return the last line of the metrics.

        Raises:
            Stopped: A signal asked for it; a checkpoint is saved.
            Diverged: Losses, gradients or weights are not finite; ``failed.json`` in the folder says which.
            RunFailed: The model does not compile, there is too little memory, or another process is gone.
            OSError: The disk is full or read-only; the newest checkpoint stands.
            ToldElsewhere: One of these in the first process.
        """
        self.processes.on_first(self._open_records)
        self.saved_at = time.monotonic()
        try:
            with (
                self.processes.normalising_together(self.model, self.cut.shared),
                self.stop,
                self.display.bar(self.recipe.epochs * self.steps, self.updates),
            ):
                self._prepare()
                while self.progress.epoch < self.recipe.epochs:
                    self._train_epoch()
                    self._close_epoch()
                if not self.progress.finished:
                    self._finish()
        except Diverged as error:
            why = str(error)
            self._unless_full(self.folder.failed, lambda: self.folder.note_failure(why))
            raise
        except RuntimeError as error:
            failure = self._alone(error) if lost_contact(error) else explained(error)
            if failure is error:
                raise
            raise failure from None
        finally:
            if self.processes.first:
                self.log.close()
                if self.folder.last.exists():  # so that a picture says that there was a checkpoint
                    self._unless_full(self.folder.curves, lambda: draw_curves(self.folder.metrics, self.folder.curves))
        return self.result

    def _prepare(self) -> None:
        """Compile, and share gradients.

        The backward pass without effect is for DDP to lay out its buckets of gradients for good. Left to itself it does so
        after the first step: then the first step of a resumed run would add the gradients of three or more processes in
        another order than a run that was not stopped.
        """
        self.compiled: nn.Module = torch.compile(self.model) if self.recipe.compile else self.model  # type: ignore[assignment]
        self.forward = self.compiled
        if self.processes.size > 1:
            self._backward(self.model)
            unused = any(p.grad is None for p in self.model.parameters() if p.requires_grad)
            self.forward = self.processes.wrap(self.compiled, unused)
            self.optimizer.zero_grad()
            self._backward(self.forward)
            self.optimizer.zero_grad()

    def _backward(self, network: nn.Module) -> None:
        """Do a backward pass on black images; leave buffers as they were."""
        buffers = [buffer.clone() for buffer in self.model.buffers()]
        network.train()
        with autocast(self.device, self.recipe.precision):
            logits = network(torch.zeros(max(2, self.cut.batch_size), *self.train.image_shape, device=self.device))
        logits.float().sum().backward()
        for buffer, before in zip(self.model.buffers(), buffers, strict=True):
            buffer.copy_(before)

    def _train_epoch(self) -> None:
        progress = self.progress
        steps = self.train.train_steps(self.cut, progress.epoch, progress.step)
        self.forward.train()
        started = time.monotonic() - progress.seconds
        for step in steps:
            loss, correct, images = self._train_step(step)
            progress.seconds = time.monotonic() - started
            self._agree(loss, correct, images)

    def _train_step(self, step: Step) -> tuple[float, int, int]:
        """Do a step on this process's micro-batches; return their share of its mean loss, the correct ones, and how many."""
        set_lr(self.optimizer, self._lr())
        total, processes = self._images_of_step(), self.processes
        loss_sum, correct, images = torch.zeros((), device=self.device), torch.zeros((), device=self.device), 0
        batches = iter(step)
        with processes.running_statistics(self.model, self.cut.shared):
            for k in range(len(step)):
                pixels, labels = self._read(batches) or self._black()
                x, targets = self._augment(pixels.to(self.device), labels.to(self.device), k)
                with processes.accumulating(self.forward, last=k == len(step) - 1):
                    with autocast(self.device, self.recipe.precision):
                        logits = self.forward(x).float()
                    loss = F.cross_entropy(logits, targets) * (len(labels) / total)
                    self.scaler.scale(loss * processes.size if processes.size > 1 else loss).backward()  # DDP takes the mean
                loss_sum += loss.detach()
                if not self.soft:
                    correct += (logits.argmax(1) == targets).sum()
                images += len(labels)
        self.passed_over = not self._update()
        if self.ema:
            self.ema.update(self.model)
        return loss_sum.item(), int(correct.item()), images

    def _read(self, batches: Iterator[Batch]) -> Batch | None:
        """Return the next batch; None after the last one, and from one on that cannot be read.

        That is kept as this process's ``failure``, of which the others learn when they next agree.
        """
        if self.failure is not None:
            return None
        try:
            return next(batches, None)
        except (InputError, RunFailed, OSError) as error:
            if self.processes.size == 1:
                raise
            self.failure = error
            return None

    def _black(self) -> Batch:
        """Return what a process that cannot read takes its part in the step with, for which the others wait."""
        assert self.failure is not None
        size = self.cut.batch_size
        return torch.zeros(size, *self.train.image_shape, dtype=torch.uint8), torch.zeros(size, dtype=torch.int64)

    def _images_of_step(self) -> int:
        """Return the images of the step under way, of all processes; of the last one in memory what is left."""
        left = len(self.train) - self.progress.step * self.cut.global_batch
        return min(self.cut.global_batch, left)

    def _augment(self, images: Tensor, labels: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Return this process's ``k``-th micro-batch of a step, normalised, mixed and erased, with its targets."""
        number = self.processes.rank + k * self.processes.size  # of the micro-batch among all of the step
        x, targets = normalise(images, self.recipe.mean, self.recipe.std), labels
        if self.soft:
            x, targets = self.mix(x, labels, self.updates, number)
        x = self.erase(x, self.updates, number)
        place = self.train.place(self.cut, self.progress.epoch, self.progress.step, number)
        torch.manual_seed(derived_seed(self.recipe.seed, *place))  # of drop path, on GPUs too
        return x.contiguous(memory_format=torch.channels_last) if self.recipe.channels_last else x, targets

    def _update(self) -> bool:
        """Do a step of the optimiser on the gradients that the backward passes have left.

        Return whether it was done: the scaler of fp16 passes over gradients that are not finite, and lowers its scale.
        """
        scale = self.scaler.get_scale() if self.scaler.is_enabled() else 0.0
        if self.recipe.clip_grad:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip_grad)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        return not self.scaler.is_enabled() or self.scaler.get_scale() >= scale

    def _agree(self, loss: float, correct: int, images: int) -> None:
        """Count a step that is done; save, and leave, where any process has reason to."""
        progress = self.progress
        due = time.monotonic() - self.saved_at > self.checkpoint_seconds
        losses, hits, counts, signals, dues, bad, failed = self.processes.gather(
            loss, correct, images, self._wish(), due, self._tell_bad_images(), self.failure is not None
        ).T
        self.processes.end_if_any(failed, self.failure)
        progress.bad_images += int(bad.sum())
        self._count(losses.sum().item(), int(hits.sum()), int(counts.sum()))
        self._leave_if_any(signals)
        if dues[0]:  # by the first process's clock
            self._save()

    def _count(self, loss: float, correct: int, images: int) -> None:
        """Count a step by its loss; one without an update too, which the scaler passes over where it is not finite."""
        progress = self.progress
        finite = math.isfinite(loss)
        if finite:
            progress.loss_sum += loss * images
            progress.correct += correct
            progress.seen += images
        elif not self.scaler.is_enabled():
            raise self._diverged(f"the loss became {loss}")
        self._count_update(finite and not self.passed_over, "gradient" if finite else "loss")
        if self.callbacks and self.processes.first:
            self._call_back({"epoch": progress.epoch + 1, "step": progress.step + 1, "loss": loss, "lr": self._lr()})
        progress.step += 1
        self.display.step(
            f"epoch {progress.epoch + 1}/{self.recipe.epochs}, loss {self._mean_loss():.3f}",
            images_per_s=progress.seen / progress.seconds if progress.seconds else 0.0,
        )

    def _count_update(self, done: bool, infinite: str) -> None:
        progress = self.progress
        if done:
            progress.skipped_in_a_row = 0
            return
        progress.skipped_steps += 1
        progress.skipped_in_a_row += 1
        if progress.skipped_in_a_row == MOST_SKIPPED_IN_A_ROW:
            raise self._diverged(f"the {infinite} was not finite {MOST_SKIPPED_IN_A_ROW} times in a row")

    def _close_epoch(self) -> None:
        """Evaluate, record, keep the model if it counts, save."""
        progress, name = self.progress, self.selection.name
        scores = self._evaluate(self.selection.watched, self._models())
        if not progress.seen:
            raise self._diverged("the loss was not finite in any step")
        if not math.isfinite(scores[f"{name}_loss"]):
            raise self._diverged(f"the {name} loss became {scores[f'{name}_loss']}")
        line: dict[str, Any] = {"epoch": progress.epoch + 1, "lr": self._lr(self.steps - 1), "train_loss": self._mean_loss()}
        if not self.soft:
            line["train_top1"] = 100 * progress.correct / progress.seen
        line |= scores
        if self._skips_images():
            line["bad_images"] = progress.bad_images
        if self.scaler.is_enabled():
            line["skipped_steps"] = progress.skipped_steps
        line["seconds"] = round(progress.seconds, 3)
        progress.close_epoch()
        watched = f"{name}_ema" if self.chosen == "ema" else name
        of_chosen = {quantity: scores[f"{watched}_{quantity}"] for quantity in ("top1", "loss")}
        best, keep = self.selection.keep(progress, of_chosen, self.chosen, progress.epoch == self.recipe.epochs)
        self.result = line
        if keep:
            self._keep_chosen()
        self._record(line)
        self._save()
        self.display.say(_epoch_text(line, name, best, self.chosen == "raw"))

    def _finish(self) -> None:
        """Evaluate the model that counts on test, once, and record the result. The checkpoint keeps the last epoch's."""
        line: dict[str, Any] = {"epoch": self.progress.epoch, "final": True}
        selection = self.selection
        test = {} if selection.test is None else self._of_chosen(selection.test)
        line |= selection.result(self.progress, self.result, self.chosen, test)
        if self.recipe.views > 1:
            line["views"] = self.recipe.views
            if selection.test is not selection.watched:
                of = f"{selection.name}_ema" if self.chosen == "ema" else selection.name
                of = of if f"{of}_top1" in line else selection.name
                watched = self._of_chosen(selection.watched)
                line |= {f"{of}_{name}": watched[name] for name in ("views_top1", "views_loss")}
        self.result = line
        self._record(self.result)
        self.progress.finished = True
        self._save()

    def _of_chosen(self, source: Source) -> dict[str, float]:
        """Return the scores of the model that counts, of views too."""
        scores = self._evaluate(source, {"": self._chosen_model()}, self.recipe.views)
        return {name.removeprefix("_"): value for name, value in scores.items()}

    # Which weights count

    @property
    def updates(self) -> int:
        """Steps done in the whole run."""
        return self.progress.epoch * self.steps + self.progress.step

    @property
    def chosen(self) -> str:
        """Which weights count: ``ema``, the moving average once it has forgotten its start, else ``raw``."""
        return "ema" if self.ema and self.updates >= self._mature_after() else "raw"

    def _mature_after(self) -> int:
        return round(MATURE / (1 - self.recipe.ema_decay))

    def _models(self) -> dict[str, nn.Module]:
        name = self.selection.name
        return {name: self.compiled} | ({f"{name}_ema": self.ema.module} if self.ema else {})

    def _newest(self) -> nn.Module:
        return self.ema.module if self.ema and self.chosen == "ema" else self.model

    def _keep_chosen(self) -> None:
        """Keep the newest weights as those that count, in the folder and in the checkpoint."""
        self.chosen_weights = _copy(self._newest())
        self.processes.on_first(lambda: self.export(self._newest()))

    def _chosen_model(self) -> nn.Module:
        """Return a network with the weights that count: those kept, or where none were the newest."""
        model = copy.deepcopy(self.model)
        model.load_state_dict(self.weights)
        return model

    @property
    def weights(self) -> State:
        """The weights that count."""
        return self._newest().state_dict() if self.chosen_weights is None else self.chosen_weights

    # Records

    def _open_records(self) -> None:
        clean(self.folder, self.restored_from)
        self.folder.failed.unlink(missing_ok=True)
        self.log = MetricsLog(self.folder.metrics, self.lines, self.display.warn)
        if self.chosen_weights is not None:
            if not self._holds(self.chosen_weights):
                self.display.warn(f"{self.folder.weights} is not the model that the checkpoint holds; written anew from it.")
            self.export(self._chosen_model())  # in any case, as config.json has no digest

    def _holds(self, weights: State) -> bool:
        """Say whether the folder has these weights."""
        try:
            found = read_weights(self.folder.weights)
        except (OSError, ValueError):
            return False
        return found.keys() == weights.keys() and all(
            value.dtype == weights[name].dtype and torch.equal(value, weights[name]) for name, value in found.items()
        )

    def _record(self, line: dict[str, Any]) -> None:
        self.lines.append(line)
        self.processes.on_first(lambda: self.log.write(line))
        if self.processes.first:
            self._call_back(line)

    def _call_back(self, line: dict[str, Any]) -> None:
        for callback in self.callbacks:
            callback(line)

    def _unless_full(self, path: Path, write: Callable[[], None]) -> None:
        """Write a file that is no reason to lose the run's own message, where the disk is full."""
        try:
            write()
        except OSError as error:
            self.display.warn(f"{path} is not written: {error}")

    def _save(self) -> None:
        if not (_finite(self.model) and (self.ema is None or _finite(self.ema.module))):
            raise self._diverged("a weight became infinite or NaN")
        self.processes.on_first(lambda: save_newest(self.folder, self._state()))
        self.saved_at = time.monotonic()

    def _state(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "recipe": dataclasses.asdict(self.recipe),
            "classes": list(self.train.classes),
            "data": self.digest,
            "progress": dataclasses.asdict(self.progress),
            "result": self.result,
            "lines": self.lines,
            "model": self.model.state_dict(),
            "chosen": self.chosen_weights,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            **({"ema": self.ema.module.state_dict()} if self.ema else {}),
        }

    def _take_over(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.progress = Progress(**state["progress"])
        self.result, self.lines, self.chosen_weights = state["result"], state["lines"], state["chosen"]
        if self.ema:
            self.ema.module.load_state_dict(state["ema"])

    # Watched images

    def _evaluate(self, source: Source, models: dict[str, nn.Module], views: int = 1) -> dict[str, float]:
        """Return loss and accuracies on images, shared by the processes, of each model by its name."""
        sums = evaluate_batches(
            models,
            self._eval_batches(source),
            mean=self.recipe.mean,
            std=self.recipe.std,
            device=self.device,
            precision=self.recipe.precision,
            topk=source.topk if len(source.classes) > 5 else (1,),
            views=views,
        )
        mine = [value for counts in sums.values() for value in counts.values()]
        bad, *totals = self.processes.gather(self._tell_bad_images(source), *mine).sum(0).tolist()
        if not totals[0]:
            error = InputError(f"{source.where}: no image of {len(source)} can be decoded; mend or replace them.")
            raise self.processes.agreed(error)
        scores: dict[str, float] = {f"{self.selection.name}_bad_images": int(bad)} if self._skips_images() else {}
        for name, counts in sums.items():
            total, totals = dict(zip(counts, totals, strict=False)), totals[len(counts) :]
            scores |= {f"{name}_{quantity}": value for quantity, value in mean_scores(total).items()}
        return scores

    def _eval_batches(self, source: Source) -> Iterator[Batch]:
        """Yield this process's share; leave between two batches where any process has reason to."""
        batches = source.eval_batches(self.cut.batch_size, self.processes.rank, self.processes.size)
        left: Tensor | bool = True
        while left:
            batch = self._read(batches)
            signals, failed, more = self.processes.gather(self._wish(), self.failure is not None, batch is not None).T
            self.processes.end_if_any(failed, self.failure)
            self._leave_if_any(signals)
            left = more.any()
            if batch is not None:
                yield batch

    def _skips_images(self) -> bool:
        return bool(getattr(self.train, "skip_bad_images", False))

    def _tell_bad_images(self, source: Source | None = None) -> int:
        """Tell which images this process has skipped, each once; return their number."""
        bad: dict[str, str] = getattr(source or self.train, "bad_images", {})
        for path in bad.keys() - self.told:
            self.display.alert(f"skipped: {bad[path]}")
            self.told.add(path)
        count = len(bad)
        bad.clear()
        return count

    # Ends

    def _wish(self) -> int:
        """Return the signal that asks this process to stop, or 0."""
        return self.stop.signum or (signal.SIGTERM if self.processes.abandoned else 0)

    def _leave_if_any(self, signals: Tensor) -> None:
        if signals.any():
            self._save()
            raise self.processes.agreed(Stopped(int(signals.max())))

    def _lr(self, step: int | None = None) -> float:
        """Return the base learning rate at a step of the epoch under way; default: the one to be done next."""
        at = self.progress.step if step is None else step
        return self.recipe.lr * lr_factor(self.recipe, self.progress.epoch + at / self.steps)

    def _mean_loss(self) -> float:
        """Return the mean loss of the epoch so far, of the steps that had one."""
        return self.progress.loss_sum / self.progress.seen if self.progress.seen else math.nan

    def _diverged(self, what: str) -> Exception:
        progress = self.progress
        good = self.folder.last if self.folder.last.exists() else "none yet"
        return self.processes.agreed(
            Diverged(
                f"{what} in epoch {progress.epoch + 1}, step {progress.step + 1}, at learning rate {self._lr():g}; the last "
                f"good checkpoint: {good}. Try a lower `lr`, a warm-up or `precision` fp32."
            )
        )

    def _alone(self, error: RuntimeError) -> RunFailed:
        progress, processes = self.progress, self.processes
        return RunFailed(
            f"process {processes.rank} of {processes.size} lost contact with another one in epoch {progress.epoch + 1}, "
            f"step {progress.step + 1} ({str(error).strip().splitlines()[0]}). Go on from the last checkpoint with `resume`."
        )


def _copy(model: nn.Module) -> State:
    return {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}


def _finite(model: nn.Module) -> bool:
    """Say whether all weights and statistics are finite, with one look at the device."""
    values = [value for value in model.state_dict().values() if value.is_floating_point()]
    return not values or bool(torch.stack([value.isfinite().all() for value in values]).all())


def _epoch_text(line: dict[str, Any], name: str, best: bool, young: bool) -> str:
    train = f"  train {line['train_top1']:6.2f}%" if "train_top1" in line else ""
    average = f"  average {line[f'{name}_ema_top1']:6.2f}%{' (young)' * young}" if f"{name}_ema_top1" in line else ""
    return (
        f"epoch {line['epoch']:>3}  loss {line['train_loss']:.4f}{train}  {name} {line[f'{name}_top1']:6.2f}%{average}"
        f"{' *' if best else '  '} {line['seconds']:7.1f} s"
    )
