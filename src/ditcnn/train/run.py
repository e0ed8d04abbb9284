"""What all runs share: they are exact, can be interrupted anywhere and go on from checkpoints."""

import dataclasses
import math
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ditcnn.recipes import Recipe
from ditcnn.system.display import Display
from ditcnn.system.errors import Diverged, InputError, RunFailed
from ditcnn.system.failures import explained, lost_contact
from ditcnn.system.processes import Processes
from ditcnn.system.signals import Stopped, StopRequest
from ditcnn.train.build import build_model
from ditcnn.train.checkpoint import clean, load_newest, save_newest
from ditcnn.train.folder import RunFolder
from ditcnn.train.metrics import MetricsLog, draw_curves
from ditcnn.train.optim import lr_factor, make_optimizer

__all__ = ["Progress", "Run"]

FORMAT = 1  # of checkpoints
MOST_SKIPPED_IN_A_ROW = 20  # steps; the scaler has halved its scale as often, so it is not the scale that is too great


@dataclass
class Progress:
    """Where a run stands: with weights and optimiser, all that a checkpoint needs, as the rest follows from the seed."""

    epoch: int = 0  # whole epochs done
    step: int = 0  # steps done in the epoch under way
    loss_sum: float = 0.0
    hits: int = 0
    seen: int = 0
    seconds: float = 0.0
    bad_images: int = 0  # skipped in the epoch under way
    skipped_steps: int = 0  # in the epoch under way: their loss was not finite, and the scaler has made no update
    skipped_in_a_row: int = 0
    best_of: str = ""  # which weights the best epoch is one of: raw, or ema
    best_epoch: int = 0
    best_top1: float = -1.0
    best_loss: float = math.inf  # decides between epochs of equal accuracy
    lines: int = 0  # of metrics.jsonl
    finished: bool = False


class Run(ABC):
    """A run of a recipe in a folder; subclasses say what an epoch is.

    Args:
        recipe: What to compute.
        folder: The run's folder; it exists and holds the settings.
        display: Where to report.
        checkpoint_minutes: Time between checkpoints within an epoch; there is one after each epoch.
        processes: Those that train together. Only the first one touches the folder.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    steps: int  # in an epoch
    log: MetricsLog  # of the first process

    def __init__(
        self, recipe: Recipe, folder: RunFolder, display: Display, checkpoint_minutes: float, processes: Processes
    ) -> None:
        recipe.check()
        self.recipe, self.folder, self.display, self.processes = recipe, folder, display, processes
        self.checkpoint_seconds = 60 * checkpoint_minutes
        self.progress = Progress()
        self.result: dict[str, Any] = {}
        self.restored_from: Path | None = None
        self.stop = StopRequest(launched=processes.launcher is not None)
        self.saved_at = time.monotonic()

    @property
    @abstractmethod
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""

    @property
    @abstractmethod
    def digest(self) -> str:
        """A text that tells the data from other data."""

    @abstractmethod
    def _train_epoch(self) -> None:
        """Train from the step where the run stands to the end of the epoch."""

    @abstractmethod
    def _close_epoch(self) -> None:
        """Evaluate, record, keep the model if it is chosen, save."""

    @abstractmethod
    def _finish(self) -> None:
        """Record the result and save."""

    def begun(self) -> bool:
        """Say whether the folder has a checkpoint."""
        return self.processes.on_first(lambda: self.folder.last.exists() or self.folder.previous.exists())

    def _set_up(self, image_shape: tuple[int, int, int], device: torch.device) -> None:
        """Make the model, its optimiser and the scaler of its gradients."""
        recipe = self.recipe
        torch.backends.cudnn.deterministic = True
        torch.manual_seed(recipe.seed)
        self.model = build_model(
            recipe.model,
            image_shape,
            len(self.classes),
            pretrained=None if self.begun() else recipe.pretrained,  # a checkpoint has the weights
            **recipe.model_arguments(),
        )
        layout = torch.channels_last if recipe.channels_last else torch.contiguous_format
        self.model.to(device).to(memory_format=layout)
        self.optimizer = make_optimizer(self.model, recipe)
        self.scaler = torch.amp.GradScaler(device.type, enabled=recipe.precision == "fp16")

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

    def _count_update(self, done: bool, infinite: str = "gradient") -> None:
        """Count a step by whether its update was done; where it was not, ``infinite`` names what was not finite.

        Raises:
            Diverged: There was none too many times in a row.
        """
        progress = self.progress
        if done:
            progress.skipped_in_a_row = 0
            return
        progress.skipped_steps += 1
        progress.skipped_in_a_row += 1
        if progress.skipped_in_a_row == MOST_SKIPPED_IN_A_ROW:
            raise self._diverged(f"the {infinite} was not finite {MOST_SKIPPED_IN_A_ROW} times in a row")

    def _skipped_steps(self) -> dict[str, int]:
        """Return what an epoch's line of the metrics says of steps without an update, which fp16 alone has."""
        return {"skipped_steps": self.progress.skipped_steps} if self.scaler.is_enabled() else {}

    def restore(self) -> None:
        """Take over the folder's newest checkpoint, if there is one; change nothing on disk.

        Raises:
            InputError: The checkpoint is damaged, or of other settings or data.
        """
        # The first process reads it for all: the others may be on machines that do not see the folder.
        found = self.processes.on_first(lambda: load_newest(self.folder, self.display.warn))
        if found is None:
            return
        state, path = found
        try:
            if state.get("format") != FORMAT:
                raise InputError(f"{path} is not a checkpoint of this version of ditcnn; name another --out.")
            self._check_origin(state, path)
        except InputError as error:
            raise self.processes.agreed(error) from None
        self._take_over(state)
        self.restored_from = path

    def _take_over(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.progress = Progress(**state["progress"])
        self.result = state["result"]

    def _check_origin(self, state: dict[str, Any], path: Path) -> None:
        for field in dataclasses.fields(Recipe):
            then, now = state["recipe"].get(field.name, field.default), getattr(self.recipe, field.name)
            if then != now:
                raise InputError(f"{path} was made with {field.name} {then}, the settings say {now}.")
        if tuple(state["classes"]) != self.classes:
            raise InputError(
                f"{path} was trained on {len(state['classes'])} classes ({', '.join(state['classes'][:3])}, "
                f"...), the data has {len(self.classes)} ({', '.join(self.classes[:3])}, ...)."
            )
        if state["data"] != self.digest:
            raise InputError(f"{path} was trained on other images than --data holds; a resumed run keeps its data.")

    def run(self) -> dict[str, Any]:
        """Train from where the run stands to the end; return the last line of the metrics.

        Raises:
            Stopped: SIGTERM or SIGINT came; a checkpoint is saved.
            Diverged: Losses, gradients or weights are not finite; ``failed.json`` in the folder says which.
            RunFailed: The model does not compile, there is too little memory, or another process is gone.
            OSError: The disk is full or read-only; the newest checkpoint stands.
            ToldElsewhere: One of these in the first process.
        """
        if self.progress.finished:
            return self.result
        self.processes.on_first(self._open_records)
        self.saved_at = time.monotonic()
        done = self.progress.epoch * self.steps + self.progress.step
        try:
            with self.stop, self.display.bar(self.recipe.epochs * self.steps, done):
                while self.progress.epoch < self.recipe.epochs:
                    self._train_epoch()
                    self._close_epoch()
                self._finish()
        except Diverged as error:
            self._note_failure(str(error))
            raise
        except RuntimeError as error:
            failure = self._alone(error) if lost_contact(error) else explained(error)
            if failure is error:
                raise
            raise failure from None
        finally:
            if self.processes.first:
                self.log.close()
                self._draw()
        return self.result

    def _open_records(self) -> None:
        clean(self.folder, self.restored_from)
        self.folder.failed.unlink(missing_ok=True)
        self.log = MetricsLog(self.folder.metrics, keep=self.progress.lines)
        if self.log.count < self.progress.lines:
            self.display.warn(f"{self.folder.metrics} has lost {self.progress.lines - self.log.count} lines.")

    def _draw(self) -> None:
        try:
            draw_curves(self.folder.metrics, self.folder.curves)
        except OSError as error:  # a picture less is no reason to lose the run's own message
            self.display.warn(f"{self.folder.curves} is not drawn: {error}")

    def _note_failure(self, reason: str) -> None:
        try:
            self.folder.note_failure(reason)
        except OSError as error:  # nor is a full disk
            self.display.warn(f"{self.folder.failed} is not written: {error}")

    def _lr(self, step: int) -> float:
        """Return the base learning rate at a step of the epoch under way."""
        return self.recipe.lr * lr_factor(self.recipe, self.progress.epoch + step / self.steps)

    def _leave_if_asked(self) -> None:
        if self.stop.signum is not None:
            self._save_and_leave(self.stop.signum)

    def _save_and_leave(self, signum: int) -> None:
        self._save()
        raise self.processes.agreed(Stopped(signum))

    def _diverged(self, what: str) -> Exception:
        progress = self.progress
        good = self.folder.last if self.folder.last.exists() else "none yet"
        return self.processes.agreed(
            Diverged(
                f"{what} in epoch {progress.epoch + 1}, step {progress.step + 1}, at learning rate "
                f"{self._lr(progress.step):g}; the last good checkpoint: {good}. "
                "Try a lower --lr, a warm-up or --precision fp32."
            )
        )

    def _alone(self, error: RuntimeError) -> RunFailed:
        progress, processes = self.progress, self.processes
        return RunFailed(
            f"process {processes.rank} of {processes.size} lost contact with another one in epoch {progress.epoch + 1}, "
            f"step {progress.step + 1} ({str(error).strip().splitlines()[0]}). Go on from the last checkpoint with --resume."
        )

    def _save(self) -> None:
        if not all(p.isfinite().all() for p in self.model.parameters()):
            raise self._diverged("a weight became infinite or NaN")
        self.processes.on_first(self._write_checkpoint)
        self.saved_at = time.monotonic()

    def _write_checkpoint(self) -> None:
        self.progress.lines = self.log.count
        save_newest(self.folder, self._state())

    def _state(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "recipe": dataclasses.asdict(self.recipe),
            "classes": list(self.classes),
            "data": self.digest,
            "progress": dataclasses.asdict(self.progress),
            "result": self.result,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
        }
