"""`ditcnn reproduce`: cells, what an interruption leaves, what is refused, and each experiment at its smoke budget."""

import json
import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure

from ditcnn.cli import main
from ditcnn.data import ImageData, ImageSet
from ditcnn.experiments import EXPERIMENTS, Budget, Experiment, Plan, reproduce
from ditcnn.experiments.sets import find_sets
from ditcnn.system.errors import InputError
from ditcnn.system.signals import Stopped
from tests.conftest import write_idx


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

    def draw(summary: dict[str, Any]) -> dict[str, Figure]:
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
        table=lambda summary: f"values: {summary['values']}",
        draw=draw,
    )
    return replace(experiment, **changes)


def test_a_record_holds_every_number_and_how_it_was_made(tmp_path):
    record = reproduce(toy(), "smoke", tmp_path / "out")
    written = json.loads((tmp_path / "out" / "toy.json").read_text())
    assert written == json.loads(json.dumps(record))
    assert {"seeds", "budget", "versions", "commit", "command", "settings"} <= written.keys()
    assert [row["square"] for row in written["cells"]] == written["summary"]["values"] == [0, 1, 4]
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
    assert stopped["cells"] == whole["cells"]
    assert [launch["cells"] for launch in stopped["launches"]] == [1, 2]
    for name in ("toy.png", "toy.svg"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_more_seeds_keep_the_cells_of_fewer(tmp_path):
    reproduce(toy(), "smoke", tmp_path, seeds=2)
    runs: list[int] = []

    def noting(cell, context):
        runs.append(cell["seed"])
        return {"square": cell["seed"] ** 2}

    assert reproduce(toy(noting), "smoke", tmp_path, seeds=4)["summary"]["values"] == [0, 1, 4, 9]
    assert runs == [2, 3]
    assert reproduce(toy(noting), "smoke", tmp_path, seeds=1)["summary"]["values"] == [0]
    assert runs == [2, 3]


def test_a_line_cut_off_by_a_crash_is_done_again(tmp_path):
    reproduce(toy(), "smoke", tmp_path)
    cells = tmp_path / "cells.jsonl"
    cells.write_bytes(cells.read_bytes()[:-10])
    assert reproduce(toy(), "smoke", tmp_path)["summary"]["values"] == [0, 1, 4]


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
    assert reproduce(on_sets("mnist"), "smoke", tmp_path)["data"].keys() == {"mnist"}
    record = reproduce(on_sets("mnist", "cifar100"), "smoke", tmp_path)
    assert record["data"].keys() == {"mnist", "cifar100"}
    assert [launch["cells"] for launch in record["launches"]] == [3, 3]
    again = reproduce(on_sets("mnist", "cifar100"), "smoke", tmp_path)
    assert again["cells"] == record["cells"]
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
    assert text in capsys.readouterr().out
    if name == "fig6":  # the network's run can be read like any other
        assert len(list(out.glob("cells/*/config.yaml"))) == len(list(out.glob("cells/*/env.json"))) == 1
    pictures = [path.name for path in out.glob("*.png")]
    assert f"{name}.png" in pictures
    assert all((out / picture).with_suffix(".svg").exists() and picture in text for picture in pictures)


def test_the_same_seeds_give_the_same_numbers_and_neurons_see_what_a_linear_rule_cannot(tmp_path):
    records = [reproduce(EXPERIMENTS["fig2"], "smoke", tmp_path / name) for name in "ab"]
    assert records[0]["cells"] == records[1]["cells"]
    assert records[0]["summary"] == records[1]["summary"]
    whole = next(r for r in records[0]["summary"]["results"] if r["fraction"] == 1.0)  # classes of equal means
    assert whole["accuracy"]["qda"]["mean"] > 95
    assert whole["accuracy"]["neuron"]["mean"] > whole["accuracy"]["logistic"]["mean"] + 20
