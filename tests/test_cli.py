"""The command line: what it prints, and one line for each thing that can be wrong."""

import csv
import errno
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors import SafetensorError

import ditcnn
from ditcnn.cli import main
from tests.conftest import write_class_folders, write_idx


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A run on grey images of three classes, from dark to bright."""
    place = tmp_path_factory.mktemp("trained")
    write_idx(place / "idx", train=240, test=30)
    arguments = ["--data", str(place / "idx"), "--out", str(place / "run"), "--epochs", "4", "--batch-size", "16"]
    assert main(["train", "digits", "--model", "resnet20", "--lr", "0.02", *arguments]) == 0
    return place


def fails(capsys, *arguments: str) -> str:
    """Run a command that must end with status 2 and one line, writing nothing; return the line."""
    before = set(Path().rglob("*"))
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Traceback" not in captured.err
    *_notes, line = captured.err.strip().splitlines()
    assert line.startswith("ditcnn: ")
    assert set(Path().rglob("*")) == before
    return line


def test_help_and_version(capsys):
    assert main([]) == 0
    usage = capsys.readouterr().out
    assert all(command in usage for command in ("train", "eval", "predict"))
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"ditcnn {ditcnn.__version__}\n"
    with pytest.raises(SystemExit) as stop:
        main(["train", "--help"])
    assert not stop.value.code
    usage = capsys.readouterr().out
    assert all(word in usage for word in ("--epochs", "--resume", "cifar10-warmup", "--term-lr-scale"))


def test_python_m_is_the_same_program():
    done = subprocess.run([sys.executable, "-m", "ditcnn", "trian"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "ditcnn: there is no command 'trian'. Did you mean train? See ditcnn --help.\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--epoch", "4"], r"unknown flag --epoch. Did you mean --epochs?"),
        (["--epochs", "many"], "--epochs"),
        (["--epochs"], "Missing value for argument '--epochs'"),
        (["--precision", "fp33"], "invalid choice 'fp33' for argument '--precision'"),
        (["--epochs", "0"], "--epochs must be above 0"),
        (["--checkpoint-minutes", "-1"], "--checkpoint-minutes must not be negative; got -1"),
        (["cifra10"], "there is no recipe 'cifra10'. Did you mean cifar10?"),
        (["digits", "stray"], "unknown argument stray"),
        (["--model", "dit_resnet21"], "there is no model 'dit_resnet21'. Did you mean dit_resnet"),
        (["--model-kwargs", "quadratic_norm=layer"], "norm must be one of spatial, instance"),
        (["--model-kwargs", "norm=batch"], "unexpected keyword argument 'norm'"),
        (["--opt", "sgdd"], "there is no optimiser 'sgdd'. Did you mean sgd"),
        (["--model", "**"], "there is no model '**'"),
        (["--mean", "0.5"], "--mean and --std must have one value a channel"),
        (["--mean", "0.5", "0.5", "--std", "1", "1"], "--mean has 2 values, the images 1 channels"),
        (["--data", "nowhere"], "nowhere: no such folder or archive"),
        (["--config", "nowhere.yaml"], "nowhere.yaml: no such file"),
        (["--device", "mps"], "--device mps: this machine"),
        (["--model-kwargs", "num_classes=20"], "--model-kwargs takes no num_classes: the data decide it"),
        (["cifar10-warmup", "--milestones", "5"], "--milestones has no effect here: it needs --schedule multistep"),
        (["--opt", "adamw", "--momentum", "0.5"], "--momentum has no effect here: it needs an --opt with momentum"),
        (["--workers", "2"], "--workers has no effect on images in memory; leave it out"),
    ],
)
def test_bad_flags_of_train(capsys, arguments, message):
    assert message in fails(capsys, "train", *arguments)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epoch: 3", "has an unknown key 'epoch'. Did you mean epochs?"),
        ("epochs: three", "--epochs"),
        ("lr: 6e-3x", "--lr"),
        ("just text", "must hold settings"),
        ("a: [", "is not YAML"),
        ("recipe: nope", "there is no recipe 'nope'"),
    ],
)
def test_bad_configs(capsys, text, message):
    Path("config.yaml").write_text(text)
    assert message in fails(capsys, "train", "--config", "config.yaml")


def test_numbers_that_yaml_reads_as_text_are_numbers(capsys, tmp_path):
    Path("config.yaml").write_text("recipe: digits\nlr: 6e-3\nepochs: 1\nmodel: resnet20\n")
    assert main(["train", "--config", "config.yaml", "--out", str(tmp_path / "run")]) == 0
    assert "lr: 0.006\n" in (tmp_path / "run" / "config.yaml").read_text()


def test_an_unknown_model_is_told_before_anything_is_downloaded(capsys, monkeypatch):
    monkeypatch.setattr("ditcnn.data.download_cifar", lambda *arguments: pytest.fail("downloads"))
    assert "there is no model" in fails(capsys, "train", "cifar10", "--model", "dit_resnet21")
    assert "there is no optimiser" in fails(capsys, "train", "cifar10", "--opt", "sgdd")


def test_epochs_in_a_config_leave_room_for_a_longer_warmup_on_the_command_line(capsys, tmp_path):
    Path("config.yaml").write_text("epochs: 300\nmodel: dit_resnet21\n")
    # It gets as far as the model's name.
    assert "there is no model" in fails(capsys, "train", "--config", "config.yaml", "--warmup-epochs", "200")


def test_a_config_of_another_recipe_is_refused(capsys):
    Path("config.yaml").write_text("recipe: digits\n")
    assert "a run has one recipe; named are cifar10 and digits" in fails(
        capsys, "train", "cifar10", "--config", "config.yaml"
    )


def test_a_folder_that_holds_a_run_is_not_overwritten(capsys, trained):
    before = {path: path.read_bytes() for path in (trained / "run").iterdir()}
    message = fails(capsys, "train", "digits", "--out", str(trained / "run"))
    assert "holds a run. Continue it with --resume" in message
    assert {path: path.read_bytes() for path in (trained / "run").iterdir()} == before
    Path("file").write_text("")
    assert "file is a file" in fails(capsys, "train", "digits", "--out", "file")
    Path("foreign").mkdir()
    Path("foreign/config.json").write_text("{}")
    assert "no config.yaml" in fails(capsys, "train", "digits", "--out", "foreign", "--resume")


def test_an_unreadable_image_is_named_by_train(capsys, tmp_path):
    folder = write_class_folders(tmp_path / "images", train=20)
    (folder / "train" / "cat" / "3.png").write_text("text")
    assert "train/cat/3.png is not a readable image" in fails(capsys, "train", "digits", "--data", str(folder))


def test_a_full_disk_is_one_line(capsys, monkeypatch, trained):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("ditcnn.system.files.os.fsync", full)
    assert main(["train", "digits", "--data", str(trained / "idx"), "--out", "full"]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("ditcnn: full/config.yaml: No space left on device.")
    assert [path.name for path in Path("full").iterdir()] == [".lock"]


def test_a_disk_that_fills_up_in_a_run_is_one_line_and_the_run_goes_on_later(capsys, monkeypatch, trained):
    def full(*arguments, **kwargs):
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    arguments = ["train", "digits", "--data", str(trained / "idx"), "--epochs", "2", "--model", "resnet20", "--out", "run"]
    with monkeypatch.context() as patch:
        patch.setattr("ditcnn.train.saved.save_for_hf", full)
        assert main(arguments) == 2
    assert "No space left on device" in capsys.readouterr().err.splitlines()[-1]
    assert main([*arguments, "--resume"]) == 0


def test_eval_repeats_the_runs_own_test(capsys, trained):
    line = json.loads((trained / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert main(["eval", str(trained / "run"), "--data", str(trained / "idx"), "--json"]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert scores["top1"] == pytest.approx(line["test_top1"])
    assert scores["loss"] == pytest.approx(line["test_loss"], rel=1e-4)
    assert scores["images"] == 30
    assert main(["eval", str(trained / "run")]) == 0  # on the data that its settings name
    assert f"top-1 {line['test_top1']:.2f}%" in capsys.readouterr().out


def test_eval_of_other_data_is_refused(capsys, trained, tmp_path):
    run = str(trained / "run")
    assert "knows 3 classes" in fails(capsys, "eval", run, "--data", str(write_idx(tmp_path / "a", classes=4)))
    assert "(1, 9, 9)" in fails(capsys, "eval", run, "--data", str(write_idx(tmp_path / "b", size=9)))


def test_runs_that_are_not_there_or_damaged_are_refused(capsys, trained, tmp_path):
    assert "nowhere: no such folder" in fails(capsys, "eval", "nowhere")
    assert "holds no trained model" in fails(capsys, "eval", str(tmp_path))
    assert "RUN" in fails(capsys, "eval")
    run = shutil.copytree(trained / "run", tmp_path / "run")
    (run / "model.safetensors").write_bytes((run / "model.safetensors").read_bytes()[:1000])
    assert "damaged model" in fails(capsys, "eval", str(run))
    for content in ("{", "[]", '{"pretrained_cfg": 3}'):
        (run / "config.json").write_text(content)
        assert "damaged model" in fails(capsys, "predict", str(run), str(tmp_path))


@pytest.mark.parametrize("content", ["a: [", "- 1", "recipe: [a]", "recipe: nope"])
def test_eval_needs_whole_settings_only_without_data(capsys, trained, tmp_path, content):
    run = shutil.copytree(trained / "run", tmp_path / "run")
    (run / "config.yaml").write_text(content)
    fails(capsys, "eval", str(run))
    assert main(["eval", str(run), "--data", str(trained / "idx")]) == 0


@pytest.fixture
def pictures(tmp_path) -> Path:
    """A dark grey image, and a bright one in colour and of another size, in a folder below."""
    folder = tmp_path / "pictures"
    (folder / "below").mkdir(parents=True)
    noise = np.random.default_rng(1)
    Image.fromarray(noise.integers(0, 60, (8, 8), np.uint8)).save(folder / "dark.png")
    bright = np.repeat(noise.integers(160, 220, (16, 16, 1), np.uint8), 3, axis=2)
    Image.fromarray(bright).save(folder / "below" / "bright.jpg", quality=100)
    (folder / "notes.txt").write_text("no image")
    return folder


def test_predict_as_json_names_the_classes(capsys, trained, pictures):
    assert main(["predict", str(trained / "run"), str(pictures), "--format", "json", "--topk", "2"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [Path(row["path"]).name for row in rows] == ["bright.jpg", "dark.png"]
    assert [row["top"][0]["class"] for row in rows] == ["2", "0"]
    assert all(len(row["top"]) == 2 for row in rows)
    assert rows[0]["top"][0]["probability"] > rows[0]["top"][1]["probability"]


def test_predict_as_csv_and_table(capsys, trained, pictures):
    run, dark = str(trained / "run"), str(pictures / "dark.png")
    assert main(["predict", run, dark, "--format", "csv", "--topk", "9"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["rank"] for row in rows] == ["1", "2", "3"]
    assert sum(float(row["probability"]) for row in rows) == pytest.approx(1, abs=1e-4)
    assert main(["predict", run, dark]) == 0
    header, line = capsys.readouterr().out.splitlines()
    assert header.split() == ["image", "class", "probability"]
    assert len(dark) > 40  # long paths are not cut
    assert line.split()[:2] == [dark, "0"]


def test_bad_inputs_of_predict(capsys, trained, tmp_path):
    run = str(trained / "run")
    assert "nowhere.png: no such file" in fails(capsys, "predict", run, "nowhere.png")
    (tmp_path / "empty").mkdir()
    assert "holds no images" in fails(capsys, "predict", run, str(tmp_path / "empty"))
    (tmp_path / "bad.png").write_text("text")
    assert "bad.png is not a readable image" in fails(capsys, "predict", run, str(tmp_path / "bad.png"))
    assert "at least one image" in fails(capsys, "predict", run)
    assert "--topk" in fails(capsys, "predict", run, "x.png", "--topk", "0")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["eval", "run", "--batch-size", str(10**30)], "--batch-size must be at most"),
        (["reproduce", "fig1", "--budget", "smoke", "--seeds", str(10**30)], "--seeds must be at most 10,000"),
        (["train", "digits", "--out", "caf\udce9"], "caf\\xe9 is not UTF-8"),
    ],
)
def test_values_without_measure_and_names_without_encoding_are_one_line(arguments, told, capsys):
    assert main(arguments) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1
    assert told in errors[0]
