"""Which model of a run counts, and what is said of it: a class for each protocol."""

import math
from dataclasses import dataclass
from typing import Any, Protocol

from ditcnn.system.errors import InputError
from ditcnn.train.sources import Source

__all__ = ["HeldOut", "Last", "Paper", "Progress", "Selection", "selection_of"]


@dataclass
class Progress:
    """Where a run stands: with weights and optimiser, all that a checkpoint needs, as the rest follows from the seed."""

    epoch: int = 0  # whole epochs done
    step: int = 0  # steps done in the epoch under way
    loss_sum: float = 0.0
    correct: int = 0
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

    def close_epoch(self) -> None:
        """Begin the next epoch."""
        self.epoch += 1
        self.step, self.loss_sum, self.correct, self.seen, self.seconds = 0, 0.0, 0, 0, 0.0
        self.bad_images, self.skipped_steps = 0, 0

    def note_if_best(self, scores: dict[str, float], of: str, ties: bool) -> bool:
        """Take an epoch's scores for the best where they are; say so. Weights are not compared with averages."""
        better = scores["top1"] > self.best_top1
        if ties:
            better = (scores["top1"], -scores["loss"]) > (self.best_top1, -self.best_loss)
        if better := better or self.best_of != of:
            self.best_of, self.best_epoch = of, self.epoch
            self.best_top1, self.best_loss = scores["top1"], scores["loss"]
        return better


class Selection(Protocol):
    """What is watched after each epoch, which epoch's model is kept, and the result's line."""

    name: str
    watched: Source
    test: Source | None

    def keep(self, progress: Progress, scores: dict[str, float], of: str, last: bool) -> tuple[bool, bool]:
        """Say of an epoch whether it is the best, and whether its model is to be saved."""
        ...

    def result(self, progress: Progress, line: dict[str, Any], of: str, test: dict[str, float]) -> dict[str, Any]:
        """Return the result's line from the last epoch's, which weights (raw or ema) count, and their scores on test."""
        ...


@dataclass
class HeldOut:
    """The best epoch on images that are not trained on counts; test is touched once."""

    name: str
    watched: Source
    test: Source | None

    def keep(self, progress: Progress, scores: dict[str, float], of: str, last: bool) -> tuple[bool, bool]:
        """Keep the best."""
        best = progress.note_if_best(scores, of, ties=True)
        return best, best

    def result(self, progress: Progress, line: dict[str, Any], of: str, test: dict[str, float]) -> dict[str, Any]:
        """Return the chosen epoch, its accuracy, and that on test."""
        chosen = {"selected_on": self.name, "selected_epoch": progress.best_epoch, f"{self.name}_top1": progress.best_top1}
        return chosen | _on_test(test)


@dataclass
class Paper:
    """As the paper: test is watched, and the best epoch on it reported; the model of the last one is saved."""

    name: str
    watched: Source
    test: Source | None

    def keep(self, progress: Progress, scores: dict[str, float], of: str, last: bool) -> tuple[bool, bool]:
        """Keep the last."""
        return progress.note_if_best(scores, of, ties=True), last

    def result(self, progress: Progress, line: dict[str, Any], of: str, test: dict[str, float]) -> dict[str, Any]:
        """Return the last epoch's accuracy on test, and the best one's as such."""
        return {
            "selected_on": "test",
            "selected_epoch": progress.epoch,
            "test_top1": test["top1"],
            "best_test_top1": progress.best_top1,
            "best_test_epoch": progress.best_epoch,
        } | _on_test({name: value for name, value in test.items() if name.startswith("views")})


@dataclass
class Last:
    """The last epoch counts; val is watched, not selected on."""

    name: str
    watched: Source
    test: Source | None

    def keep(self, progress: Progress, scores: dict[str, float], of: str, last: bool) -> tuple[bool, bool]:
        """Keep the newest: what a stopped run has."""
        return progress.note_if_best(scores, of, ties=False), True

    def result(self, progress: Progress, line: dict[str, Any], of: str, test: dict[str, float]) -> dict[str, Any]:
        """Return the last epoch's scores, and the best one's as such."""
        own: dict[str, Any] = {"watched": self.name, "model": of}
        own |= {name: value for name, value in line.items() if name.startswith(self.name)}
        own |= {f"best_{self.name}_top1": progress.best_top1, f"best_{self.name}_epoch": progress.best_epoch}
        return own | {f"best_{self.name}_of": progress.best_of} | _on_test(test)


def _on_test(scores: dict[str, float]) -> dict[str, float]:
    return {f"test_{name}": scores[name] for name in ("top1", "loss", "views_top1", "views_loss") if name in scores}


def selection_of(protocol: str, held_out: Source | None, val: Source | None, test: Source | None) -> Selection:
    """Return the selection of a protocol.

    Args:
        protocol: ``holdout``, ``paper`` or ``last``.
        held_out: A part of train that is not trained on, where there is one.
        val: Validation images of the user's.
        test: Test images.

    Raises:
        InputError: The protocol lacks the images that it needs.
    """
    if protocol == "paper":
        if (watched := test or val) is None:
            raise InputError("`protocol` paper needs test images.")
        if test is not None and val is not None:
            raise InputError("`protocol` paper watches test; leave out val, or choose another protocol.")
        return Paper("test", watched, watched)
    kind = HeldOut if protocol == "holdout" else Last
    if val is not None:
        return kind("val", val, test)
    if held_out is not None:
        return kind("holdout", held_out, test)
    if protocol == "holdout" or test is None:
        raise InputError(f"`protocol` {protocol} needs images to watch.")
    return Last("val", test, None)
