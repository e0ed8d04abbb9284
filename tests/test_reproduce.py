"""`ditcnn reproduce`: cells, what an interruption leaves, what is refused, and each experiment at its smoke budget."""

import json
import os
import re
import signal
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure

from ditcnn.cli import main
from ditcnn.data import ImageData, ImageSet
from ditcnn.experiments import EXPERIMENTS, Budget, Experiment, Plan, reproduce
from ditcnn.experiments.engine.experiment import cell_key
from ditcnn.experiments.engine.sets import find_sets
from ditcnn.experiments.engine.tables import Table, Verdict, brief_text, markdown
from ditcnn.system.errors import InputError
from ditcnn.system.signals import Stopped
from tests.conftest import write_idx

RESULTS = Path(__file__).parents[1] / "results"


@dataclass(frozen=True)
class ToySettings:
    factor: int


def toy_images(name: str) -> ImageData:
    part = ImageSet(torch.zeros(4, 1, 2, 2, dtype=torch.uint8), torch.tensor([0, 1, 0, 1]))
    return ImageData(part, part, ("0", "1"))


def toy(run: Any = None, **changes: Any) -> Experiment[ToySettings]:
    """An experiment that squares its seed."""

    def cells(plan: Plan[ToySettings]) -> list[dict[str, Any]]:
        return [{"factor": plan.settings.factor, "seed": seed} for seed in range(plan.seeds)]

    def draw(summary: dict[str, Any], rows: Sequence[dict[str, Any]]) -> dict[str, Figure]:
        figure = Figure()
        figure.subplots().plot(summary["values"])
        return {"": figure, "more": Figure()}

    def summarise(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        return {"values": [row["square"] for row in rows]}

    experiment = Experiment(
        name="toy",
        shows="squares",
        budgets={
            "smoke": Budget(ToySettings(1), 3, "three."),
            "quick": Budget(ToySettings(2), 3, "three, twice as large."),
        },
        cells=cells,
        run=run or (lambda cell, context: {"square": cell["factor"] * cell["seed"] ** 2}),
        summarise=summarise,
        table=lambda summary: [
            f"values: {summary['values']}",
            Table(["value"], [[v] for v in summary["values"]], brief=(0,)),
        ],
        draw=draw,
    )
    return replace(experiment, **changes)


def lines_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "cells.jsonl").read_text().splitlines()]


def cells_of(out: Path) -> list[dict[str, Any]]:
    return [line["cell"] | line["numbers"] for line in lines_of(out) if "cell" in line]


def test_a_record_holds_settings_and_summary_and_the_cells_stand_in_their_file_alone(tmp_path):
    done = reproduce(toy(), "smoke", tmp_path / "out")
    written = json.loads((tmp_path / "out" / "toy.json").read_text())
    assert written == json.loads(json.dumps(done.record))
    assert {"seeds", "budget", "versions", "commit", "command", "settings"} <= written.keys()
    assert "cells" not in written
    assert done.rows == cells_of(tmp_path / "out")
    assert [row["square"] for row in done.rows] == written["summary"]["values"] == [0, 1, 4]
    assert "values: [0, 1, 4]" in (tmp_path / "out" / "toy.md").read_text()
    assert (tmp_path / "out" / "toy.png").read_bytes()[:4] == b"\x89PNG"
    assert {"toy.svg", "toy-more.png", "toy-more.svg"} <= {path.name for path in (tmp_path / "out").iterdir()}


def test_a_stopped_experiment_goes_on_with_the_cells_that_are_not_done(tmp_path):
    runs: list[int] = []

    def stopping(cell, context):
        runs.append(cell["seed"])
        if cell["seed"] == 1 and runs.count(1) == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return {"square": cell["seed"] ** 2}

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Stopped) as stop:
        reproduce(toy(stopping), "smoke", tmp_path / "out")
    assert stop.value.signum == signal.SIGTERM
    assert "1 of 3 cells kept" in stop.value.advice
    assert signal.getsignal(signal.SIGTERM) == before
    stopped = reproduce(toy(stopping), "smoke", tmp_path / "out")
    assert runs == [0, 1, 1, 2]
    whole = reproduce(toy(), "smoke", tmp_path / "whole")
    assert stopped.rows == whole.rows == cells_of(tmp_path / "out")
    assert [launch["cells"] for launch in stopped.record["launches"]] == [1, 2]
    for name in ("toy.png", "toy.svg"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_more_seeds_keep_the_cells_of_fewer(tmp_path):
    reproduce(toy(), "smoke", tmp_path, seeds=2)
    runs: list[int] = []

    def noting(cell, context):
        runs.append(cell["seed"])
        return {"square": cell["seed"] ** 2}

    assert reproduce(toy(noting), "smoke", tmp_path, seeds=4).record["summary"]["values"] == [0, 1, 4, 9]
    assert runs == [2, 3]
    assert reproduce(toy(noting), "smoke", tmp_path, seeds=1).record["summary"]["values"] == [0]
    assert runs == [2, 3]


def test_a_line_cut_off_by_a_crash_is_done_again(tmp_path):
    reproduce(toy(), "smoke", tmp_path)
    cells = tmp_path / "cells.jsonl"
    cells.write_bytes(cells.read_bytes()[:-10])
    assert reproduce(toy(), "smoke", tmp_path).record["summary"]["values"] == [0, 1, 4]


def test_cells_of_another_budget_revision_or_data_are_refused(tmp_path):
    reproduce(toy(), "smoke", tmp_path)
    with pytest.raises(InputError, match=r"cells of budget smoke, not of budget quick\. Name another folder with --out"):
        reproduce(toy(), "quick", tmp_path)
    with pytest.raises(InputError, match="cells of revision 1, not of revision 2"):
        reproduce(toy(revision=2), "smoke", tmp_path)


def on_sets(*names: str, fill: int = 0) -> Experiment[ToySettings]:
    """The toy with cells that name these sets, of images filled with a value; cifar100 may be there as well."""

    def make(name: str) -> ImageData:
        images = toy_images(name)
        return ImageData(ImageSet(images.train.images + fill, images.train.labels), images.test, images.classes)

    def cells(plan: Plan[ToySettings]) -> list[dict[str, Any]]:
        return [{"factor": 1, "seed": seed, "data": name} for name in names for seed in range(plan.seeds)]

    return toy(cells=cells, needs=("mnist",), may_use=("cifar100",), make_data=make)


def test_cells_of_other_images_are_refused(tmp_path):
    reproduce(on_sets("mnist"), "smoke", tmp_path)
    with pytest.raises(InputError, match="other images"):
        reproduce(on_sets("mnist", fill=1), "smoke", tmp_path)


def test_a_set_that_comes_later_is_taken_in_and_one_that_no_cell_names_is_not_read(tmp_path):
    assert reproduce(on_sets("mnist"), "smoke", tmp_path).record["data"].keys() == {"mnist"}
    both = reproduce(on_sets("mnist", "cifar100"), "smoke", tmp_path)
    assert both.record["data"].keys() == {"mnist", "cifar100"}
    assert [launch["cells"] for launch in both.record["launches"]] == [3, 3]
    assert reproduce(on_sets("mnist", "cifar100"), "smoke", tmp_path).rows == both.rows
    with pytest.raises(InputError, match="other images"):
        reproduce(on_sets("cifar100", fill=1), "smoke", tmp_path)


def test_a_damaged_file_of_cells_is_refused(tmp_path):
    reproduce(toy(), "smoke", tmp_path)
    cells = tmp_path / "cells.jsonl"
    cells.write_bytes(cells.read_bytes().replace(b'"numbers"', b'"nmbers"', 1))
    with pytest.raises(InputError, match=r"cells\.jsonl is damaged"):
        reproduce(toy(), "smoke", tmp_path)


def test_an_infinite_number_is_never_recorded(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        reproduce(toy(lambda cell, context: {"square": float("nan")}), "smoke", tmp_path)


def test_data_sets_are_found_by_name_as_folder_or_archive(tmp_path):
    write_idx(tmp_path / "data" / "MNIST" / "raw", train=20, test=10)
    write_idx(tmp_path / "data" / "arabic_digits", train=30, test=10)
    sets = find_sets(tmp_path / "data", ("mnist", "arabic_digits"), ("cifar10",), "fig")
    assert {name: len(sets[name].train) for name in sets.names} == {"mnist": 20, "arabic_digits": 30}
    assert find_sets(tmp_path / "data" / "arabic_digits", ("mnist",), (), "fig").names == ("mnist",)


@pytest.mark.parametrize(
    ("path", "needs", "message"),
    [
        (None, ("mnist", "arabic_digits"), r"fig needs --data DIR with MNIST \(IDX files\) as mnist/ or mnist\.tar"),
        ("nowhere", ("mnist",), "no such folder or archive"),
        ("data", ("mnist", "arabic_digits"), r"fig needs MADBase.* as arabic_digits/ .* it is not there"),
        ("data", (), "makes its own data; leave out --data"),
    ],
)
def test_missing_data_is_named(tmp_path, path, needs, message):
    (tmp_path / "data" / "mnist").mkdir(parents=True)
    with pytest.raises(InputError, match=message):
        find_sets(None if path is None else tmp_path / path, needs, (), "fig")


def test_the_list_names_every_experiment_and_its_budgets(capsys):
    assert main(["reproduce", "--list"]) == 0
    listed = capsys.readouterr().out
    for experiment in EXPERIMENTS.values():
        assert f"{experiment.name}  {experiment.shows}" in listed
        assert all(budget.about in listed for budget in experiment.budgets.values())
        assert set(experiment.budgets) == {"smoke", "quick", "full"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fig11"], "there is no experiment 'fig11'."),
        ([], "--list prints their names"),
        (["--list", "fig1"], "leave out the name"),
        (["fig1", "--seeds", "0", "--budget", "smoke"], "--seeds must be above 0; got 0"),
        (["fig1", "--data", ".", "--budget", "smoke"], "runs on data that it makes"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["reproduce", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["fig1", "fig6"])
def test_smoke_gives_a_record_figures_and_a_table_of_finite_numbers(name, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["reproduce", name, "--budget", "smoke", "--seeds", "1", "--out", str(out)]) == 0
    record = json.loads((out / f"{name}.json").read_text())
    assert record["budget"] == "smoke"
    assert record["seeds"] == 1
    text = (out / f"{name}.md").read_text()
    printed = capsys.readouterr().out.splitlines()
    assert printed[-1] == f"The whole table: {out / name}.md"
    assert max(map(len, printed[:-1])) <= 80
    if name == "fig6":  # the network's run can be read like any other
        runs = tmp_path / "runs"
        assert len(list(runs.glob("*/config.yaml"))) == len(list(runs.glob("*/env.json"))) == 1
    pictures = [path.name for path in out.glob("*.png")]
    assert f"{name}.png" in pictures
    assert all((out / picture).with_suffix(".svg").exists() and picture in text for picture in pictures)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_committed_record_is_what_its_cells_give_and_its_findings_fit_a_terminal(name):
    experiment, folder = EXPERIMENTS[name], RESULTS / name
    record, page = (json.loads((folder / f"{name}.json").read_text()), (folder / f"{name}.md").read_text())
    done = {cell_key(line["cell"]): line["cell"] | line["numbers"] for line in lines_of(folder) if "cell" in line}
    settings = experiment.budgets[record["budget"]].settings
    rows = [done[cell_key(cell)] for cell in experiment.cells(Plan(settings, record["seeds"], tuple(record["data"])))]
    summary = experiment.summarise(rows)
    assert summary.keys() == record["summary"].keys()
    assert "cells" not in record
    blocks = experiment.table(summary)
    assert markdown(blocks) in page
    lines = brief_text(blocks).splitlines()
    assert 3 <= len(lines) <= 21
    assert max(map(len, lines)) <= 80


def test_off_a_terminal_a_line_comes_at_most_every_30_seconds_and_none_for_a_cell(tmp_path, monkeypatch, capsys):
    reproduce(toy(), "smoke", tmp_path / "short")
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("ditcnn.system.display.SECONDS_A_LINE", 0.0)
    reproduce(toy(), "smoke", tmp_path / "long")
    told = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in told] == ["toy 2/3", "toy 3/3"]  # of the first one nothing is done yet
    assert re.fullmatch(r"toy 2/3: factor=1 seed=1, \d+ s left", told[0])


def test_findings_are_the_brief_columns_of_as_many_rows_as_fit():
    table = Table(["network", "parameters", "top-1"], [[f"net {i}" * 20, 10, 1.5] for i in range(5)], brief=(0, 2))
    text = brief_text(["prose", table, Verdict("It helps. " * 20)], width=40, rows=3)
    assert "parameters" not in text
    assert "prose" not in text
    assert "and 2 rows more" in text
    assert max(map(len, text.splitlines())) <= 40
    assert text.count("It helps.") > 15


def test_the_same_seeds_give_the_same_numbers_and_neurons_see_what_a_linear_rule_cannot(tmp_path):
    first, second = (reproduce(EXPERIMENTS["fig2"], "smoke", tmp_path / name) for name in "ab")
    assert first.rows == second.rows
    assert first.record["summary"] == second.record["summary"]
    whole = next(r for r in first.record["summary"]["results"] if r["fraction"] == 1.0)  # classes of equal means
    assert whole["accuracy"]["qda"]["mean"] > 95
    assert whole["accuracy"]["neuron"]["mean"] > whole["accuracy"]["logistic"]["mean"] + 20


def test_a_changed_digit_of_a_cell_is_noticed_and_a_file_without_digests_goes_on(tmp_path):
    out = tmp_path / "out"
    reproduce(toy(), "smoke", out, seeds=2)
    cells = out / "cells.jsonl"
    before = cells.read_text()
    cells.write_text(before.replace('"square": 1', '"square": 9'))
    with pytest.raises(InputError, match="digest of a line does not match"):
        reproduce(toy(), "smoke", out, seeds=2)
    older = [{key: value for key, value in json.loads(line).items() if key != "sha256"} for line in before.splitlines()]
    cells.write_text("".join(json.dumps(line) + "\n" for line in older))
    assert [row["square"] for row in reproduce(toy(), "smoke", out, seeds=3).rows] == [0, 1, 4]
    assert [row["square"] for row in reproduce(toy(), "smoke", out, seeds=3).rows] == [0, 1, 4]


@pytest.mark.parametrize("numbers", ["[]", '{"square": {}}', "3", '{"square": NaN}', '{"other": 1}'])
def test_numbers_of_another_kind_in_a_file_of_before_are_one_line(tmp_path, numbers):
    out = tmp_path / "out"
    reproduce(toy(), "smoke", out, seeds=1)
    origin, launch, cell = lines_of(out)
    text = json.dumps({"cell": cell["cell"], "numbers": "X", "seconds": 1}).replace('"X"', numbers)
    plain = [json.dumps({key: line[key] for key in line if key != "sha256"}) for line in (origin, launch)]
    (out / "cells.jsonl").write_text("\n".join([*plain, text, ""]))
    with pytest.raises(InputError, match=r"cells\.jsonl"):
        reproduce(toy(), "smoke", out, seeds=1)


@pytest.mark.parametrize("content", ["", "[]", '{"experiment": 3}', "{"])
def test_a_damaged_origin_of_a_stored_run_is_one_line(tmp_path, content):
    from ditcnn.experiments.engine.runs import RunStore
    from ditcnn.experiments.engine.training import Run

    (tmp_path / "origin.json").write_text(content)
    with pytest.raises(InputError, match=r"origin\.json is damaged"):
        RunStore(tmp_path, "toy").record(Run(tmp_path, {}, [], [], None))
