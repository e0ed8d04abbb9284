"""The page: one HTML file that needs no other."""

import base64
import datetime
import html
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ditcnn import __version__
from ditcnn.analysis.figures import figure_bytes, figure_style
from ditcnn.analysis.intervals import Interval, mean_interval, paired_interval
from ditcnn.convert import quadratic_terms
from ditcnn.report.figures import curves_figure, matrices_figure
from ditcnn.report.removal import removal_of
from ditcnn.report.runs import Group, Run, group_runs, read_run, value_text
from ditcnn.system.environment import short_commit
from ditcnn.system.errors import InputError
from ditcnn.system.files import write_atomically
from ditcnn.train import load_model
from ditcnn.train.saved import holds_own_module

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["MARK", "write_report"]

MARK = "<!doctype html>\n<!-- ditcnn report -->"

_OF_THE_RESULT = (
    "Accuracy on test is of the epoch chosen on held-out images, tested once; of a run of the paper's protocol, which holds "
    "none out, it is of the last epoch, and that of the best one on test stands beside it."
)
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff }
body { max-width: 62rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.6rem } h2 { font-size: 1.2rem; margin-top: 2.2rem; border-bottom: 1px solid #ccc } h3 { font-size: 1rem }
.scroll { overflow-x: auto } table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .25rem .8rem .25rem 0; text-align: right; vertical-align: top; border-bottom: 1px solid #e4e4e4 }
td { white-space: nowrap } th:first-child, td:first-child { text-align: left; white-space: normal }
th { border-bottom: 1px solid #888 }
img { max-width: 100%; height: auto } .note { color: #555 } code { font-size: .9em }
"""


def write_report(paths: Sequence[Path], out: Path, data: Path | None = None) -> None:
    """Write a page about runs: what differs in their settings, curves, tables, the terms' matrices, and their removal.

    Args:
        paths: Folders of runs; those that differ by their seed alone are shown as one.
        out: The HTML file; an earlier report there is replaced.
        data: Images as for ``ditcnn train``, to measure what removal does; without them that part is left out.

    Raises:
        InputError: A folder holds no run, ``out`` is another file, or the data cannot be read or does not fit.
    """
    _refuse_other_file(out)
    groups, differing = group_runs([read_run(path) for path in paths])
    parts = [
        f"<h1>{len(paths)} run{'s' * (len(paths) != 1)} of ditcnn</h1>",
        f'<p class="note">Written by ditcnn {__version__} on {datetime.date.today().isoformat()}.</p>',
        "<h2>What differs</h2>",
        _settings(groups, differing),
        "<h2>Results</h2>",
        _results(groups),
        "<h2>Curves</h2>",
        _curves(groups),
        "<h2>Learned matrices</h2>",
        *_matrices(groups),
        "<h2>What removal does</h2>",
        _removal(groups, data),
        "<h2>Runs</h2>",
        _runs(groups),
    ]
    title = html.escape(", ".join(group.name for group in groups[:3]))
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title>'
    body = "\n".join(parts)
    page = f'{MARK}\n<html lang="en"><head>{head}<style>{_STYLE}</style></head>\n<body>\n{body}\n</body></html>\n'
    write_atomically(out, page.encode())


def _refuse_other_file(out: Path) -> None:
    if not out.parent.is_dir():
        raise InputError(f"--out {out}: there is no folder {out.parent}.")
    if out.exists() and not out.is_file():
        raise InputError(f"--out {out} is a folder, a pipe or a device; name an HTML file.")
    if out.exists() and not out.read_bytes().startswith(MARK.encode()):
        raise InputError(f"--out {out} is there already and is no report of ditcnn; name another file.")


def _settings(groups: Sequence[Group], differing: dict[str, list[Any]]) -> str:
    if not differing:
        return f"<p>{_sentence_of_one(groups[0])}</p>"
    rows = [[key, *map(value_text, values)] for key, values in differing.items()]
    return _table(["setting", *[group.name for group in groups]], rows)


def _sentence_of_one(group: Group) -> str:
    seeds = ", ".join(str(run.seed) for run in group.runs)
    what = "Nothing but the seed" if len(group.runs) > 1 else "There is one run"
    return html.escape(f"{what}: {group.name}, seed{'s' * (len(group.runs) > 1)} {seeds}.")


def _results(groups: Sequence[Group]) -> str:
    quantities = {
        "test top-1 [%]": [group.top1("test") for group in groups],
        "validation top-1 [%]": [group.top1("val") for group in groups],
        "held-out top-1 [%]": [group.finals("holdout_top1") for group in groups],
        "best test epoch [%]": [group.finals("best_test_top1") for group in groups],
    }
    shown = {title: values for title, values in quantities.items() if any(values)}
    head = ["", "n", *shown, "epochs", "s an epoch, median"]
    rows = []
    for number, group in enumerate(groups):
        seconds = [line["seconds"] for run in group.runs for line in run.epochs if "seconds" in line]
        done = " / ".join(dict.fromkeys(f"{len(run.epochs)} of {run.settings.get('epochs', '?')}" for run in group.runs))
        cells = [_interval(mean_interval(own[number])) if own[number] else "-" for own in shown.values()]
        finished, all_runs = len(group.finished), len(group.runs)
        count = str(finished) if finished == all_runs else f"{finished} of {all_runs}"
        rows.append([group.name, count, *cells, done, f"{statistics.median(seconds):.1f}" if seconds else "-"])
    note = f"Means over the n finished runs, a seed each, with 95% intervals. {_broken_off(groups)}"
    parts = [_table(head, rows), f'<p class="note">{note}{_OF_THE_RESULT}</p>']
    pairs = [row for group in groups[1:] if (row := _difference(group, groups[0])) is not None]
    if pairs:
        parts += [f"<h3>Against {html.escape(groups[0].name)}, paired by seed</h3>"]
        parts += [_table(["", "n", "top-1, points"], pairs)]
    return "\n".join(parts)


def _broken_off(groups: Sequence[Group]) -> str:
    count = sum(run.failed is not None for group in groups for run in group.runs)
    return f"Runs that broke off, as their loss was not finite ({count}), are left out. " if count else ""


def _difference(group: Group, first: Group) -> list[str] | None:
    """Return a row of paired differences over the seeds that finished in both, by the same protocol; None: none."""
    own, others = ({(run.seed, run.watched): run.top1 for run in g.finished if run.top1 is not None} for g in (group, first))
    both = sorted(own.keys() & others.keys())
    if not both:
        return None
    interval = paired_interval([own[key] for key in both], [others[key] for key in both])
    return [group.name, str(len(both)), _interval(interval, sign="+")]


def _interval(interval: Interval, sign: str = "") -> str:
    mean = f"{interval.mean:{sign}.2f}"
    if interval.low is None or interval.high is None:
        return f"{mean} (one seed: no interval)"
    return f"{mean} [{interval.low:{sign}.2f}, {interval.high:{sign}.2f}]"


def _curves(groups: Sequence[Group]) -> str:
    if not any(run.epochs for group in groups for run in group.runs):
        return "<p>No run has finished an epoch yet.</p>"
    with figure_style():
        return _image(curves_figure(groups), "training loss and accuracy against epochs")


def _matrices(groups: Sequence[Group]) -> Iterable[str]:
    shown = False
    for group in groups:
        run = _with_model(group)
        terms = [] if run is None else list(quadratic_terms(load_model(run.folder.path).model))
        for name, term in terms:
            shown = True
            with figure_style():
                picture = _image(matrices_figure(term.matrices()), f"matrices of {name} and their spectra")
            assert run is not None
            state = "" if run.result else ", not finished"
            yield f"<h3>{html.escape(group.name)}: <code>{html.escape(name)}</code>, seed {run.seed}{state}</h3>{picture}"
    if shown:
        yield '<p class="note">The matrices of largest norm, colours from minus to plus the largest entry; spectra of all,'
        yield "the others in grey.</p>"
    else:
        yield "<p>No run has a saved model with a quadratic term.</p>"


def _with_model(group: Group) -> Run | None:
    """Return a run with a saved model, a finished one if there is one."""
    saved = [run for run in group.runs if run.folder.weights.exists() and not holds_own_module(run.folder.path)]
    return min(saved, key=lambda run: run.result is None, default=None)


def _removal(groups: Sequence[Group], data: Path | None) -> str:
    if data is None:
        return "<p>Not measured: it needs images. Give them with <code>--data</code>.</p>"
    rows = []
    for group in groups:
        measured = [removal_of(run, data) for run in group.finished if run.folder.weights.exists()]
        found = [own for own in measured if own is not None]
        if found:
            whole = [own.whole for own in found]
            without = _interval(paired_interval(whole, [own.without for own in found]))
            values = [own.less_covariance for own in found if own.less_covariance is not None]
            less = _interval(paired_interval(whole, values)) if values else "-"
            rows.append([group.name, str(len(found)), _interval(mean_interval(whole)), less, without])
    if not rows:
        return "<p>No finished run has a saved model with a quadratic term.</p>"
    head = ["", "n", "test top-1 [%]", "drop less tr(A S), points", "drop at A = 0, points"]
    note = (
        "The saved models of finished runs, taken apart without training on. A = 0 leaves all else, a halving of the "
        "convolution's part included. Less tr(A S) subtracts from the term's map the number tr(A S) of each output channel, "
        "S the covariance of the channels at the term's input over the images trained on."
    )
    return _table(head, rows) + f'<p class="note">{note}</p>'


def _runs(groups: Sequence[Group]) -> str:
    head = ["folder", "of", "seed", "data", "top-1 [%]", "commit", "machine"]
    rows = []
    for group in groups:
        for run in group.runs:
            unfinished = "not finished" if run.failed is None else "broken off"
            result = unfinished if run.top1 is None else f"{run.top1:.2f} on {run.result_on}"
            commits = [short_commit(launch["commit"]) for launch in run.launches if launch.get("commit")]
            commit = ", ".join(dict.fromkeys(commits)) or "-"
            newest = run.launches[-1] if run.launches else {}
            machine = str(newest.get("processor") or newest.get("device") or "-")
            images = value_text(run.settings.get("data"))
            rows.append([str(run.folder.path), group.name, str(run.seed), images, result, commit, machine])
    note = "".join(
        f'<p class="note">{html.escape(group.name)}: its runs name different data. If these are other images, not another '
        "place of the same, its mean and interval mix them.</p>"
        for group in groups
        if len({run.settings.get("data") for run in group.runs}) > 1
    )
    return _table(head, rows) + note


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    top = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
    lines = ["<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows]
    return (
        f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>\n' + "\n".join(lines) + "\n</tbody></table></div>"
    )


def _image(figure: "Figure", description: str) -> str:
    # As an image of its own: ids within drawings that stand in the page itself would clash.
    content = base64.b64encode(figure_bytes(figure, "svg")).decode()
    return f'<img alt="{html.escape(description)}" src="data:image/svg+xml;base64,{content}">'
