"""The registered comparison: Dit-ResNet-20 against plain networks of equal cost. docs/protocol.md is its protocol."""

import dataclasses
from collections.abc import Mapping, Sequence

from ditcnn.analysis.intervals import Interval
from ditcnn.experiments.arms import title_of
from ditcnn.experiments.engine.drawing import Figures
from ditcnn.experiments.engine.experiment import Budget, Row, Summary
from ditcnn.experiments.engine.tables import Block, Verdict
from ditcnn.experiments.trained import columns
from ditcnn.experiments.trained.compared import Training, arms_table, notes, summarise_arms, trained_experiment
from ditcnn.experiments.trained.pairs import compare_pairs, draw_pairs, pairs_table, top1_of

__all__ = ["ARMS", "COMPARISON", "verdict"]

ARMS = {"a": "plain", "b": "dit", "c": "plain-parameters", "d": "plain-macs", "e": "dit-published"}
CLAIM = (("b", "c"), ("b", "d"))  # both intervals above zero, or the claim does not stand
SECONDARY = (("b", "a"), ("e", "a"), ("b", "e"))  # with Holm's correction
REGISTERED, FEWEST = "short", 5  # schedule and seeds, docs/protocol.md
_LETTERS = {arm: letter for letter, arm in ARMS.items()}
COLUMNS = (
    dataclasses.replace(
        columns.TITLE, head="arm", measure=lambda group: f"{_LETTERS[group.rows[0]['net']]}: {title_of(group.rows[0])}"
    ),
    columns.PARAMETERS, columns.MACS, *columns.ACCURACY, columns.HELD_OUT, columns.EPOCH_SECONDS, columns.TIME_RATIO,
    columns.BROKEN_OFF,
)  # fmt: skip


def _top1(rows: Sequence[Row]) -> dict[str, list[float]]:
    return {letter: top1_of(rows, arm) for letter, arm in ARMS.items()}


def _summarise(rows: Sequence[Row]) -> Summary:
    top1 = _top1(rows)
    pairs = compare_pairs(top1, CLAIM, SECONDARY)
    registered = rows[0]["schedule"] == REGISTERED and all(len(values) == FEWEST for values in top1.values())
    about = {"verdict": verdict({name: pair["interval"] for name, pair in pairs.items()}), "registered": registered}
    return summarise_arms(rows, COLUMNS) | {"pairs": pairs} | about


def verdict(intervals: Mapping[str, Interval]) -> list[str]:
    """Return what docs/protocol.md has to say of the differences: of each rival, of the claim, and of its failures."""
    if min(interval.n for interval in intervals.values()) < FEWEST:
        return ["Fewer than five seeds: no verdict."]
    claim = {f"{first} - {second}": intervals[f"{first} - {second}"] for first, second in CLAIM}
    sentences = []
    for name, interval in claim.items():
        if _above(interval):
            outcome = "lies above zero: better at this schedule."
        elif _below(interval):
            outcome = "lies below zero: at equal cost, width is the better use of it."
        else:
            outcome = (
                f"includes zero: not shown at this schedule, differences above {interval.high:.2f} points are excluded."
            )
        sentences.append(f"{name} {outcome}")
    supported = all(map(_above, claim.values()))
    sentences.append("The claim is supported." if supported else "The claim, which needs both above zero, is not supported.")
    if not _above(intervals["b - a"]):
        sentences.append("b - a does not lie above zero: the term is not shown to help even beside a cheaper plain network.")
    if _below(intervals["b - e"]):
        sentences.append("b - e lies below zero: the published swap helps.")
    return sentences


def _above(interval: Interval) -> bool:
    return interval.low is not None and interval.low > 0


def _below(interval: Interval) -> bool:
    return interval.high is not None and interval.high < 0


def _table(summary: Summary) -> list[Block]:
    registered = "" if summary["registered"] else " This is not the registered comparison, which is quick with five seeds."
    return [
        arms_table(summary, COLUMNS),
        pairs_table(summary["pairs"]),
        notes(summary, "Differences are paired by seed, with 95% intervals."),
        Verdict(" ".join(summary["verdict"]) + registered),
    ]


def _draw(summary: Summary, rows: Sequence[Row]) -> Figures:
    means = {_LETTERS[arm["arm"]]: arm["top1"] for arm in summary["arms"]}
    return draw_pairs(_top1(rows), means, summary["pairs"], "five arms, a point a seed")


_NETS = tuple(ARMS.values())
COMPARISON = trained_experiment(
    name="comparison",
    shows="whether the term helps at equal cost: Dit-ResNet-20 against widened plain networks",
    budgets={
        "smoke": Budget(Training("smoke", _NETS), 2, "one epoch on made images: says nothing about accuracy.", "20 s"),
        "quick": Budget(
            Training("short", _NETS), 5, "shortened to 4 epochs of CIFAR-10, as registered in docs/protocol.md.", "5.0 h"
        ),
        "full": Budget(Training("paper", _NETS), 5, "160 epochs of CIFAR-10, selected on test, as the paper."),
    },
    summarise=_summarise,
    table=_table,
    draw=_draw,
)
