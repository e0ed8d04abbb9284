"""`ditcnn report`: one page that needs no other file, and says what is so."""

import base64
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
import timm
import torch
import yaml
from PIL import Image
from torch import nn

from ditcnn.cli import main
from ditcnn.report.figures import curves_figure
from ditcnn.report.removal import removal_of
from ditcnn.report.runs import group_runs, read_run
from ditcnn.train import save_model
from tests.conftest import write_idx

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
TOP1 = {("resnet20", 0): 80.0, ("resnet20", 1): 82.0, ("dit_resnet20", 0): 81.0, ("dit_resnet20", 1): 84.0}


def write_run(folder: Path, model: str, seed: int, top1: float, *, with_model: bool = False, **settings) -> Path:
    """Write a run's folder, as training leaves it."""
    folder.mkdir(parents=True)
    config = {"recipe": "digits", "model": model, "model_kwargs": [], "epochs": 2, "seed": seed, "protocol": "holdout"}
    (folder / "config.yaml").write_text(yaml.safe_dump(config | settings))
    lines = [
        {"epoch": n, "lr": 0.1, "train_loss": 1 / n, "train_top1": 50.0, "holdout_loss": 1.0, "holdout_top1": 40.0 + n,
         "seconds": 2.0 + n} for n in (1, 2)
    ]  # fmt: skip
    lines.append({"epoch": 2, "final": True, "selected_on": "holdout", "holdout_top1": 42.0, "test_top1": top1})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "env.json").write_text(json.dumps({"launches": [{"commit": "c0ffee", "processor": "a <fast> one"}]}))
    if with_model:
        torch.manual_seed(seed)
        net = timm.create_model(model, num_classes=3, in_chans=1, img_size=8)
        nn.init.normal_(net.layer2[0].quadratic.weight, std=0.1)
        data = {"input_size": (1, 8, 8), "mean": (0.5,), "std": (0.25,), "crop_pct": 1.0}
        save_model(net, folder, classes=("a", "b", "c"), data_config=data)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> list[str]:
    place = tmp_path_factory.mktemp("runs")
    return [
        str(write_run(place / f"{model}-{seed}", model, seed, top1, with_model=model.startswith("dit")))
        for (model, seed), top1 in TOP1.items()
    ]


class Page(HTMLParser):
    """Text, links and images of a page; complains of tags that are not closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.sources: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        assert self.open == []
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attributes):
        self.sources += [value or "" for name, value in attributes if name in ("src", "href", "srcset", "data")]
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.words.append(data)


def report(*arguments: str) -> Page:
    assert main(["report", *arguments]) == 0
    return Page(Path("report.html").read_text())


def test_the_page_needs_no_other_file(folders):
    page = report(*folders)
    assert page.sources
    assert all(source.startswith("data:image/svg+xml;base64,") for source in page.sources)
    text = Path("report.html").read_text()
    assert not re.search(r"<(script|link|iframe|object)\b|@import|url\(", text)
    drawings = [base64.b64decode(source.partition(",")[2]).decode() for source in page.sources]
    assert all(drawing.rstrip().endswith("</svg>") for drawing in drawings)
    assert not any(re.search(r'href="(?!#|data:)', drawing) for drawing in drawings)


def test_runs_that_differ_by_their_seed_alone_are_one_row_with_an_interval(folders):
    page = report(*folders)
    assert "resnet20 2 81.00 [68.29, 93.71]" in page.text
    assert "dit_resnet20 2 82.50 [63.44, 101.56]" in page.text
    assert "dit_resnet20 2 +1.50 [-4.85, +7.85]" in page.text  # 1 and 2 points by seed
    assert "setting resnet20 dit_resnet20 model resnet20 dit_resnet20" in page.text


def test_only_settings_that_differ_are_listed(folders, tmp_path):
    other = write_run(tmp_path / "other", "resnet20", 0, 79.0, epochs=3, data="elsewhere")
    runs = [read_run(Path(path)) for path in (folders[0], other)]
    groups, differing = group_runs(runs)
    assert differing == {"epochs": [2, 3]}
    assert [group.name for group in groups] == ["resnet20, epochs 2", "resnet20, epochs 3"]


def test_a_run_that_is_not_finished_is_shown_as_that(tmp_path):
    folder = write_run(tmp_path / "run", "resnet20", 0, 80.0)
    metrics = folder / "metrics.jsonl"
    metrics.write_text(metrics.read_text().splitlines(keepends=True)[0])
    page = report(str(folder))
    assert "1 of 2" in page.text
    assert "not finished" in page.text
    metrics.write_text("")
    assert "No run has finished an epoch yet." in report(str(folder)).text


def test_a_run_that_broke_off_is_shown_as_that_and_left_out_of_the_mean(folders, tmp_path):
    broken = write_run(tmp_path / "broken", "resnet20", 2, 80.0)
    (broken / "metrics.jsonl").write_text("")
    (broken / "failed.json").write_text('{"failed": "the loss became nan"}')
    page = report(*folders[:2], str(broken))
    assert "resnet20 2 of 3 81.00" in page.text
    assert "not finite (1), are left out" in page.text
    assert "broken off" in page.text
    assert "broke off" not in report(*folders[:2]).text


def test_every_commit_of_a_run_is_named_with_its_mark_of_changes(tmp_path):
    folder = write_run(tmp_path / "run", "resnet20", 0, 80.0)
    launches = [{"commit": commit} for commit in ("a" * 40, "b" * 40 + "+", "a" * 40, None)]
    (folder / "env.json").write_text(json.dumps({"launches": launches}))
    assert f"{'a' * 12}, {'b' * 12}+" in report(str(folder)).text


def test_runs_of_two_protocols_are_no_pair(tmp_path):
    runs = [write_run(tmp_path / protocol, "resnet20", 0, 80.0, protocol=protocol) for protocol in ("holdout", "paper")]
    assert "paired by seed" not in report(*map(str, runs)).text


def write_streamed_run(folder: Path, seed: int, top1: float, *, average: float | None = None) -> Path:
    """Write the folder of a run on a streamed set: it is watched on val, and has no test images."""
    write_run(folder, "convnext_atto", seed, 0.0, recipe="imagenet")
    scores = {"val_loss": 1.0, "val_top1": top1} | ({} if average is None else {"val_ema_top1": average})
    lines = [{"epoch": n, "lr": 0.1, "train_loss": 1 / n, **scores, "seconds": 3.0} for n in (1, 2)]
    model = "raw" if average is None else "ema"
    lines.append({"epoch": 2, "final": True, "watched": "val", "model": model, **scores, "best_val_top1": top1})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_a_streamed_run_is_shown_by_its_validation_accuracy(folders, tmp_path):
    streamed = [str(write_streamed_run(tmp_path / f"val-{seed}", seed, 70.0 + seed)) for seed in (0, 2)]
    page = report(*streamed)
    assert "n validation top-1 [%] epochs" in page.text
    assert "convnext_atto 2 71.00 [58.29, 83.71]" in page.text
    assert "70.00 on val" in page.text
    assert len(page.sources) == 1
    mixed = report(*folders, streamed[0])
    assert "80.00 on test" in mixed.text
    assert "convnext_atto" not in mixed.text.partition("paired by seed")[2].partition("Curves")[0]  # test and val: no pair
    begun = write_streamed_run(tmp_path / "begun", 1, 0.0)
    (begun / "metrics.jsonl").write_text("")
    groups, _ = group_runs([read_run(path) for path in (begun, Path(streamed[1]))])
    assert groups[0].runs[0].epochs == ()  # the first of its group hides no curve of the other
    assert [len(axes.lines) for axes in curves_figure(groups).axes] == [1, 1]
    average = report(str(write_streamed_run(tmp_path / "average", 0, 70.0, average=72.5)))
    assert "72.50 on val" in average.text  # of the model that was saved


def test_n_counts_the_runs_of_the_interval_and_an_unfinished_one_hides_no_curve(folders, tmp_path):
    begun = write_run(tmp_path / "begun", "resnet20", 2, 80.0)
    (begun / "metrics.jsonl").write_text("")
    page = report(*folders[:2], str(begun))
    assert "resnet20 2 of 3 81.00 [68.29, 93.71]" in page.text
    groups, _ = group_runs([read_run(Path(path)) for path in (*folders[:2], begun)])
    (line,) = curves_figure(groups).axes[0].lines
    assert line.get_ydata().tolist() == [1.0, 0.5]
    (begun / "metrics.jsonl").write_text(json.dumps({"epoch": 1, "train_loss": 4.0, "holdout_top1": 10.0}) + "\n")
    groups, _ = group_runs([read_run(Path(path)) for path in (*folders[:2], begun)])
    mean, short = curves_figure(groups).axes[0].lines
    assert mean.get_ydata().tolist() == [1.0, 0.5]  # of the runs of two epochs alone
    assert short.get_ydata().tolist() == [4.0]


def test_matrices_are_shown_where_a_model_has_terms(folders, tmp_path):
    page = report(*folders)
    assert "dit_resnet20: layer2.0.quadratic , seed 0" in page.text
    assert len(page.sources) == 2  # the curves, and the matrices
    plain = report(folders[0])
    assert "No run has a saved model with a quadratic term." in plain.text
    assert "There is one run: resnet20, seed 0." in plain.text


def test_what_comes_from_outside_is_escaped(folders):
    text = Path("report.html")
    report(*folders)
    assert "<fast>" not in text.read_text()
    assert "a &lt;fast&gt; one" in text.read_text()


def test_removal_is_measured_where_images_are_given(folders):
    write_idx(Path("idx"), train=60, test=30)
    page = report(*folders, "--data", "idx")
    found = page.text.partition("What removal does")[2]
    assert "dit_resnet20 2" in found
    assert "Less tr(A S) subtracts" in page.text
    assert "Not measured" in report(*folders).text
    own = [removal_of(read_run(Path(path)), Path("idx")) for path in folders[2:]]
    whole, less, without = (
        sum(getattr(removal, name) for removal in own) / 2 for name in ("whole", "less_covariance", "without")
    )
    assert re.search(rf"2 {whole:.2f} \[\S+ \S+\] {whole - less:.2f} \[\S+ \S+\] {whole - without:.2f} \[", found)


def test_removal_is_of_finished_runs_alone(folders):
    write_idx(Path("idx"), train=60, test=30)
    metrics = Path(folders[3], "metrics.jsonl")
    whole = metrics.read_text()
    metrics.write_text(whole.splitlines(keepends=True)[0])
    try:
        found = report(*folders, "--data", "idx").text.partition("What removal does")[2]
    finally:
        metrics.write_text(whole)
    assert "dit_resnet20 1 " in found


def test_a_setting_younger_than_a_run_is_at_its_default(tmp_path):
    old = write_run(tmp_path / "old", "resnet20", 0, 80.0)
    new = write_run(tmp_path / "new", "resnet20", 1, 81.0, mixup=0.0, milestones=[80.0, 120.0])
    other = write_run(tmp_path / "other", "resnet20", 2, 81.0, mixup=0.8)
    groups, differing = group_runs([read_run(path) for path in (old, new, other)])
    assert [len(group.runs) for group in groups] == [2, 1]
    assert differing == {"mixup": [0.0, 0.8]}


def test_groups_never_share_a_name(tmp_path):
    kwargs = {"model_kwargs": ["a=1"]}
    many = {"lr": 0.2, "gamma": 0.2, "momentum": 0.8, "weight_decay": 0.0}
    settings = [kwargs, kwargs | many, {}]
    runs = [read_run(write_run(tmp_path / str(n), "resnet20", 0, 80.0, **own)) for n, own in enumerate(settings)]
    groups, _ = group_runs(runs)
    assert len({group.name for group in groups}) == 3


def test_runs_of_one_row_that_name_different_data_are_pointed_out(tmp_path):
    runs = [str(write_run(tmp_path / name, "resnet20", n, 80.0, data=name)) for n, name in enumerate(("here", "there"))]
    assert "resnet20: its runs name different data." in report(*runs).text
    assert "different data" not in report(runs[0]).text


def test_a_report_is_replaced_and_no_other_file_is(folders, capsys):
    report(*folders)
    report(folders[0])
    Path("notes.html").write_text("mine")
    assert main(["report", folders[0], "--out", "notes.html"]) == 2
    assert Path("notes.html").read_text() == "mine"
    assert "no report of ditcnn" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "which runs?"),
        (["nowhere"], "nowhere: no such folder"),
        (["."], "holds no run"),
        (["RUN", "RUN"], "named twice"),
        (["RUN", "TWIN"], "the same seed, 0"),
        (["RUN", "--out", "no/report.html"], "there is no folder no"),
        (["DAMAGED"], "holds a damaged run"),
        (["DIT", "--data", "idx"], "trained on 3 classes of images (1, 8, 8)"),
    ],
)
def test_bad_input_is_told_in_one_line(arguments, message, folders, tmp_path, capsys):
    damaged = write_run(tmp_path / "damaged", "resnet20", 0, 80.0)
    (damaged / "metrics.jsonl").write_text("{\n")
    write_idx(Path("idx"), classes=2, train=40, test=10)
    twin = write_run(tmp_path / "twin", "resnet20", 0, 81.0)
    places = {"RUN": folders[0], "TWIN": str(twin), "DAMAGED": str(damaged), "DIT": folders[2]}
    assert main(["report", *(places.get(word, word) for word in arguments)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not Path("report.html").exists()


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_a_browser_shows_the_page(folders, tmp_path):
    report(*folders)
    picture, profile = tmp_path / "page.png", tmp_path / "profile"
    quiet = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--user-data-dir={profile}"]
    page = Path("report.html").resolve().as_uri()
    command = [str(CHROMIUM), *quiet, "--window-size=1100,2600", f"--screenshot={picture}", page]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    seen = Image.open(picture).convert("RGB")
    assert seen.size == (1100, 2600)
    assert len(seen.getcolors(2**24) or []) > 200  # text, curves, and heat maps in red and blue
    vivid = [(count, colour) for count, colour in seen.getcolors(2**24) or [] if max(colour) - min(colour) > 60]
    assert sum(count for count, _ in vivid) > 5_000


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("config.yaml", "seed: <b>1</b>"),
        ("config.yaml", "seed: true"),
        ("config.yaml", "data: [a]"),
        ("config.yaml", "epochs: 2020-01-01"),
        ("config.yaml", "model: {a: 1}"),
        ("config.yaml", "1: 2"),
        ("config.yaml", "a: &a [1]\nb: *a"),
        ("metrics.jsonl", '{"epoch": "1"}\n'),
        ("metrics.jsonl", '{"epoch": 1, "train_loss": "low"}\n'),
        ("metrics.jsonl", '{"epoch": 1, "seconds": null}\n'),
        ("metrics.jsonl", "[]\n"),
        ("metrics.jsonl", "[" * 100_000 + "\n"),
        ("env.json", "[]"),
        ("env.json", '{"launches": [{"commit": 3}]}'),
        ("env.json", "\xff"),
    ],
)
def test_files_of_a_run_with_values_of_odd_kinds_are_one_line(tmp_path, capsys, file, content):
    folder = write_run(tmp_path / "run", "resnet20", 0, 80.0)
    (folder / file).write_text(content, encoding="latin1")
    assert main(["report", str(folder)]) == 2
    error = capsys.readouterr().err
    assert "holds a damaged run" in error
    assert error.count("\n") == 1


def test_a_result_that_lacks_its_accuracy_is_shown_without(tmp_path):
    folder = write_run(tmp_path / "run", "resnet20", 0, 80.0)
    (folder / "metrics.jsonl").write_text('{"epoch": 1, "train_loss": 1.0, "seconds": 1.0}\n{"epoch": 1, "final": true}\n')
    report(str(folder))


def test_a_run_of_a_module_of_ones_own_is_shown_without_its_matrices(tmp_path):
    folder = write_run(tmp_path / "run", "resnet20", 0, 80.0)
    save_model(nn.Linear(2, 3), folder, data_config={"input_size": (1, 8, 8), "mean": (0.5,), "std": (0.25,)})
    assert "No run has a saved model with a quadratic term" in report(str(folder)).text
