"""One model, one preprocessing: what a saved model says of its images is what every reader of it does."""

import csv
import io
import json
import os
import socket
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_model_data_config
from torch import nn

import ditcnn
from ditcnn.cli import main
from ditcnn.data.batches import normalise
from ditcnn.system.errors import InputError
from ditcnn.train import load_model, open_model, save_model
from tests.conftest import write_class_folders

CIFAR = {"input_size": (3, 32, 32), "mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.4), "crop_pct": 1.0}
MODES = [{}, {"crop_mode": "squash"}, {"crop_mode": "border"}, {"crop_pct": 0.8, "interpolation": "bilinear"}]


def small_model(name="resnet20", **kwargs):
    torch.manual_seed(0)
    return timm.create_model(name, **({"num_classes": 3} | kwargs)).eval()


def save(folder: Path, model=None, classes=("a", "b", "c"), **config) -> Path:
    folder.mkdir(exist_ok=True)
    save_model(small_model() if model is None else model, folder, classes=classes, data_config=CIFAR | config)
    return folder


@pytest.fixture
def photograph(tmp_path) -> Path:
    """A photograph wider than high, no two of whose pixels are alike."""
    pixels = np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photograph.png")
    return tmp_path / "photograph.png"


def by_timm(where: str, image: Path) -> torch.Tensor:
    """Return the probabilities that a user of timm gets, who knows nothing of this package but its models' names."""
    model = timm.create_model(where, pretrained=True).eval()
    transform = create_transform(**resolve_model_data_config(model))
    with torch.no_grad():
        return model(transform(Image.open(image).convert("RGB"))[None]).softmax(1)[0]


def in_order(row: dict) -> list[float]:
    return [guess["probability"] for guess in sorted(row["top"], key=lambda guess: guess["class"])]


@pytest.mark.parametrize("config", MODES)
def test_timms_own_way_from_the_saved_config_gives_the_same_pixels(tmp_path, photograph, config):
    folder = save(tmp_path / "model", **config)
    model = timm.create_model(f"local-dir:{folder}", pretrained=True)
    theirs = create_transform(**resolve_model_data_config(model))(Image.open(photograph))
    trained = load_model(folder)
    ours = normalise(trained.preprocessing(Image.open(photograph))[None], trained.mean, trained.std)[0]
    assert torch.equal(ours, theirs)
    loaded = create_transform(**resolve_model_data_config(ditcnn.load(folder)))(Image.open(photograph))
    assert torch.equal(loaded, theirs)


@pytest.mark.parametrize("config", MODES)
def test_predict_and_eval_say_of_a_photograph_what_timms_way_says(tmp_path, photograph, config, capsys):
    folder = save(tmp_path / "model", **config)
    expected = by_timm(f"local-dir:{folder}", photograph)
    assert main(["predict", str(folder), str(photograph), "--format", "json", "--topk", "3"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert in_order(row) == pytest.approx(expected.tolist(), abs=2e-6)
    (tmp_path / "val" / "b").mkdir(parents=True)
    photograph.rename(tmp_path / "val" / "b" / "photograph.png")
    scores = ditcnn.evaluate(folder, tmp_path / "val")
    assert scores["loss"] == pytest.approx(-expected[1].log().item(), rel=1e-5)


def test_a_run_on_small_images_records_how_predict_reads_a_photograph(tmp_path, photograph, capsys):
    data = write_class_folders(tmp_path / "data", train=12)
    assert main(["train", "digits", "--data", str(data), "--model", "resnet20", "--epochs", "1", "--out", "run"]) == 0
    config = json.loads(Path("run/config.json").read_text())
    assert config["pretrained_cfg"]["crop_mode"] == "center"
    assert config["pretrained_cfg"]["crop_pct"] == 1.0
    assert config["exif_orientation"] is True  # as images in memory are read
    capsys.readouterr()
    assert main(["predict", "run", str(photograph), "--format", "json", "--topk", "2"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert in_order(row) == pytest.approx(by_timm("local-dir:run", photograph).tolist(), abs=2e-6)
    small = next((data / "test").rglob("*.png"))  # of the run's own size: no mode changes it
    pixels = torch.from_numpy(np.array(Image.open(small))).permute(2, 0, 1)
    assert torch.equal(load_model(Path("run")).preprocessing(Image.open(small)), pixels)


@pytest.mark.parametrize("upright", [False, True])
def test_the_orientation_of_a_photograph_is_obeyed_by_eval_and_predict_alike(tmp_path, upright):
    folder = save(tmp_path / "model", exif_orientation=upright)
    turned = Image.Exif()
    turned[0x0112] = 6
    pixels = np.random.default_rng(1).integers(0, 256, (32, 32, 3), np.uint8)
    (tmp_path / "val" / "c").mkdir(parents=True)
    Image.fromarray(pixels).save(tmp_path / "val" / "c" / "phone.png", exif=turned)
    seen = np.rot90(pixels, -1).copy() if upright else pixels
    (row,) = ditcnn.predict(folder, torch.from_numpy(seen).permute(2, 0, 1))
    (own,) = ditcnn.predict(folder, tmp_path / "val" / "c" / "phone.png")
    assert own["top"] == row["top"]
    loss = ditcnn.evaluate(folder, tmp_path / "val")["loss"]
    assert loss == pytest.approx(-np.log(in_order(row)[2]), abs=1e-4)


def test_a_named_model_is_told_what_it_is_tested_with():
    trained = open_model("convnext_atto", pretrained=False, in_chans=3, num_classes=5)
    assert resolve_model_data_config(trained.model) == trained.preprocessing.data_config()


class Own(nn.Module):
    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3)
        self.fc = nn.Linear(width, 2)

    def forward(self, x):
        return self.fc(self.conv(x).mean((2, 3)))


def test_a_module_of_ones_own_is_saved_and_loading_asks_for_it(tmp_path, capsys):
    model = Own()
    folder = save(tmp_path / "own", model, classes=("x", "y"))
    config = json.loads((folder / "config.json").read_text())
    assert config["architecture"] is None
    assert config["module"].endswith(".Own")
    with pytest.raises(InputError, match=r"Own: load them from Python, with ditcnn.load\('.*own', model=my_module\)"):
        ditcnn.load(folder)
    assert main(["predict", str(folder), str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    loaded = ditcnn.load(folder, model=Own())
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), model.parameters(), strict=True))
    image = Image.new("RGB", (40, 50), (9, 200, 3))
    assert ditcnn.predict(loaded, image) == ditcnn.predict(model_with_config(model), image)
    with pytest.raises(InputError, match="size mismatch"):
        ditcnn.load(folder, model=Own(4))


def model_with_config(model):
    model.pretrained_cfg = CIFAR | {"label_names": ["x", "y"]}
    return model


def test_a_timm_model_with_a_term_put_in_is_no_model_of_timms_any_more(tmp_path):
    model = ditcnn.add_quadratic(small_model("test_resnet"), ["layer1.*.conv1"])
    folder = save(tmp_path / "model", model)
    assert json.loads((folder / "config.json").read_text())["architecture"] is None
    twin = ditcnn.add_quadratic(small_model("test_resnet"), ["layer1.*.conv1"])
    assert len(list(ditcnn.quadratic_terms(ditcnn.load(folder, model=twin)))) == 1 * len(twin.layer1)


def test_a_model_is_found_by_each_kind_of_name(tmp_path):
    folder = save(tmp_path / "model")
    x = torch.randn(2, 3, 32, 32)
    expected = small_model()(x)
    for where in (folder, str(folder), f"local-dir:{folder}"):
        assert torch.equal(ditcnn.load(where)(x), expected)
    assert ditcnn.load(folder, num_classes=7)(x).shape == (2, 7)
    assert ditcnn.load("dit_resnet20", num_classes=4)(x).shape == (2, 4)
    assert not ditcnn.load(folder).training


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet18.a1_in1k2", "resnet18 has no weights called 'a1_in1k2'. Did you mean resnet18.a1_in1k?"),
        ("resnet20.cifar", "resnet20 has no weights called 'cifar'. It has none."),
        ("resnet21", "no such folder, and no model of timm's registry. Did you mean"),
        ("a/b", "no such folder, and no model of timm's registry."),
        ("local-dir:absent", "absent: no such folder"),
    ],
)
@pytest.mark.parametrize("command", ["eval", "predict", "export", "info", "convert", "train"])
def test_a_name_that_stands_for_nothing_is_told_by_every_command(command, name, message, tmp_path, capsys):
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    (tmp_path / "net.pth").write_bytes(b"")
    more = {
        "eval": ["--data", str(tmp_path)],
        "predict": [str(tmp_path)],
        "export": ["--format", "safetensors", "--out", "x.safetensors"],
        "convert": ["--out", "new", "--model", name],
        "train": ["--epochs", "1", "--out", "new", "--model", name],
    }.get(command, [])
    first = [str(tmp_path / "net.pth")] if command == "convert" else ["digits"] if command == "train" else [name]
    assert main([command, *first, *more]) == 2
    *notes, error = capsys.readouterr().err.splitlines()
    assert command == "train" or not notes  # train tells its schedule first
    assert error.startswith("ditcnn: ")
    if command not in ("convert", "train"):  # which take no folders
        assert message in error


def test_images_of_any_kind_give_the_same(tmp_path, photograph):
    folder = save(tmp_path / "model")
    pixels = np.random.default_rng(2).integers(0, 256, (32, 32, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "own.png")
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)
    trained = load_model(folder)
    normalised = normalise(tensor, trained.mean, trained.std)
    kinds = [tmp_path / "own.png", str(tmp_path / "own.png"), Image.fromarray(pixels), pixels, tensor, normalised]
    rows = [ditcnn.predict(folder, kind)[0]["top"] for kind in kinds]
    assert all(row == rows[0] for row in rows)
    several = ditcnn.predict(trained.model, [photograph, tensor, normalised], topk=1, batch_size=2)
    assert [row["path"] for row in several] == [str(photograph), None, None]
    assert len(ditcnn.predict(folder, tensor[None].repeat(5, 1, 1, 1))) == 5
    for strange in (torch.zeros(3, 9, 9), torch.zeros(32, 32, dtype=torch.uint8), object()):
        with pytest.raises(InputError, match="an image must be"):
            ditcnn.predict(folder, [strange])


def test_a_dataset_and_a_pair_are_evaluated_like_their_files(tmp_path):
    data = write_class_folders(tmp_path / "data", classes=("a", "b", "c"))
    folder = save(tmp_path / "model", small_model(img_size=None), input_size=(3, 8, 8))
    files = sorted((data / "test").rglob("*.png"))
    labels = ["abc".index(file.parent.name) for file in files]

    class Files(torch.utils.data.Dataset):
        def __len__(self):
            return len(files)

        def __getitem__(self, index):
            return Image.open(files[index]), labels[index]

    images = torch.stack([torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1) for file in files])
    scores = [ditcnn.evaluate(folder, given) for given in (data, str(data), Files(), (images, labels))]
    scores.append(ditcnn.evaluate(ditcnn.load(folder), Files(), batch_size=4))
    for own in scores:
        assert own["loss"] == pytest.approx(scores[0]["loss"], rel=1e-5)
        assert (own["images"], own["top1"]) == (6, scores[0]["top1"])
    with pytest.raises(InputError, match="labels must be from 0 to 2"):
        ditcnn.evaluate(folder, (images, [7] * 6))
    with pytest.raises(InputError, match="Own does not say what its images must be like"):
        ditcnn.evaluate(Own(), (images, labels))
    assert ditcnn.evaluate(Own(), (images, [0, 1] * 3), data_config=CIFAR | {"input_size": (3, 8, 8)})["images"] == 6


@pytest.mark.parametrize("form", ["folder", ".tar", ".tar.gz"])
def test_a_converted_small_model_takes_the_data_that_training_takes(tmp_path, form):
    from tests.conftest import write_tar

    data = write_class_folders(tmp_path / "data", classes=("a", "b", "c"))
    folder = save(tmp_path / "model", classes=(), input_size=(3, 8, 8))
    place = data if form == "folder" else write_tar(data, tmp_path / f"data{form}")
    assert ditcnn.evaluate(folder, place)["images"] == 6


ODD_CONFIGS = [
    {"label_names": [0, 1, 2]},
    {"label_names": {"0": "x", "2": 5}},
    {"label_names": [None, [1], {"a": 2}]},
]
BAD_CONFIGS = [
    {"label_names": ["a"]},
    {"label_names": 3},
    {"num_classes": "3"},
    {"num_classes": 10**30},
    {"num_classes": -1},
    {"architecture": "hf-hub:some/thing"},
    {"architecture": 3},
    {"architecture": "with_quadratic", "model_args": {"base": "hf-hub:some/thing", "where": ["*"]}},
    {"model_args": {"no_such": 1}},
    {"pretrained_cfg": None},
    {"pretrained_cfg": {"input_size": [3, 10**30, 8], "mean": [0, 0, 0], "std": [1, 1, 1]}},
    {"pretrained_cfg": {"input_size": [3, 8], "mean": [0, 0, 0], "std": [1, 1, 1]}},
    {"pretrained_cfg": {"input_size": [3, 32, 32], "mean": [float("nan")] * 3, "std": [1, 1, 1]}},
    {"pretrained_cfg": {"input_size": [3, 32, 32], "mean": "abc", "std": [1, 1, 1]}},
    {"pretrained_cfg": {"input_size": [3, 32, 32], "mean": [0, 0, 0], "std": [0, 1, 1]}},
    {"pretrained_cfg": {"input_size": [3, 32, 32], "mean": [0, 0, 0], "std": [1, 1, 1], "crop_mode": "x"}},
]


def with_entries(folder: Path, entries: dict) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | entries))


@pytest.mark.parametrize("entries", ODD_CONFIGS)
def test_class_names_of_any_kind_are_printed(tmp_path, photograph, entries, capsys):
    folder = save(tmp_path / "model")
    with_entries(folder, entries)
    for form in ("csv", "json", "table"):
        assert main(["predict", str(folder), str(photograph), "--topk", "3", "--format", form]) == 0
    assert ditcnn.predict(folder, photograph)[0]["top"][0]["class"]


@pytest.mark.parametrize("entries", BAD_CONFIGS)
def test_a_config_of_odd_values_is_one_line_and_calls_no_hub(tmp_path, photograph, entries, capsys, monkeypatch):
    folder = save(tmp_path / "model")
    with_entries(folder, entries)
    monkeypatch.setattr(socket, "create_connection", lambda *arguments, **kwargs: pytest.fail("calls"))
    assert main(["predict", str(folder), str(photograph)]) == 2
    error = capsys.readouterr().err
    assert "holds a damaged model" in error
    assert error.count("\n") == 1
    assert main(["info", str(folder)]) in (0, 2)
    assert "Traceback" not in capsys.readouterr().err


def test_files_that_are_no_files_are_told_at_once(tmp_path, photograph, capsys):
    for name in ("config.json", "model.safetensors"):
        folder = save(tmp_path / f"with-{name}")
        (folder / name).unlink()
        os.mkfifo(folder / name)
        assert main(["predict", str(folder), str(photograph)]) == 2
        assert capsys.readouterr().err.count("\n") == 1
    folder = save(tmp_path / "model")
    os.mkfifo(tmp_path / "pipe.jpg")
    for place in (tmp_path / "pipe.jpg", Path("/dev/zero")):
        assert main(["predict", str(folder), str(place)]) == 2
        assert "is a pipe or a device" in capsys.readouterr().err


def test_what_the_network_cannot_give_is_told_at_once(photograph, capsys, monkeypatch):
    from ditcnn.system import network

    network.ask.cache_clear()
    monkeypatch.setattr(socket, "create_connection", lambda *arguments, **kwargs: (_ for _ in ()).throw(OSError))
    for name in ("hf-hub:timm/no-such-model-of-ours", "test_resnet.r160_in1k"):
        assert main(["predict", name, str(photograph)]) == 2
        error = capsys.readouterr().err
        assert "the model cannot be had" in error
        assert error.count("\n") == 1
    network.ask.cache_clear()


def rows_of(text: str) -> list[dict]:
    return list(csv.DictReader(io.StringIO(text)))


@pytest.fixture
def pictures(tmp_path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(4):
        Image.new("RGB", (40, 40), (60 * number, 9, 9)).save(folder / f"{number}.png")
    (folder / "2.png").write_bytes(b"")
    return folder


def test_rows_before_a_bad_image_are_printed_and_the_way_past_it_is_told(tmp_path, pictures, capsys):
    folder = save(tmp_path / "model")
    for form in ("csv", "table", "json"):
        assert main(["predict", str(folder), str(pictures), "--format", form]) == 2
        captured = capsys.readouterr()
        assert "2.png is not a readable image" in captured.err
        assert "--skip-bad-images" in captured.err
        assert "1.png" in captured.out
        assert "3.png" not in captured.out
    assert len(json.loads(captured.out)) == 2


def test_bad_images_can_be_left_out_and_are_counted(tmp_path, pictures, capsys):
    folder = save(tmp_path / "model")
    assert main(["predict", str(folder), str(pictures), "--format", "csv", "--skip-bad-images"]) == 0
    captured = capsys.readouterr()
    assert [Path(row["path"]).name for row in rows_of(captured.out)] == ["0.png", "1.png", "3.png"]
    assert "left out: " in captured.err
    assert captured.err.splitlines()[-1] == "ditcnn: 3 images classified, 1 left out."
    assert main(["predict", str(folder), str(pictures / "2.png"), "--skip-bad-images"]) == 2
    assert len(ditcnn.predict(folder, pictures, skip_bad_images=True)) == 3
    with pytest.raises(InputError, match=r"2\.png"):
        ditcnn.predict(folder, pictures)


def test_a_reader_that_has_seen_enough_ends_predict_quietly(tmp_path):
    import subprocess
    import sys

    folder = save(tmp_path / "model")
    (tmp_path / "many").mkdir()
    for number in range(80):
        Image.new("RGB", (8, 8)).save(tmp_path / "many" / f"{number}.png")
    line = '"$0" -m ditcnn predict "$1" "$2" --format csv | head -1; exit ${PIPESTATUS[0]}'
    command = ["bash", "-c", line, sys.executable, str(folder), str(tmp_path / "many")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 141)
    assert (done.stdout, done.stderr) == ("path,rank,class,probability\n", "")


def test_names_from_outside_forge_no_line_and_reach_no_terminal(tmp_path, capsys):
    folder = save(tmp_path / "model", classes=("a\x1b[31m", "b\nc", ":smile:[bold]x"))
    name = "x\x1b]0;t\x07:x:\n[red]y.png"
    (tmp_path / "odd").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "odd" / name)
    Path(os.fsdecode(os.fsencode(tmp_path / "odd") + b"/\xff.png")).write_bytes(b"")
    for form in ("table", "csv", "json"):
        assert main(["predict", str(folder), str(tmp_path / "odd"), "--topk", "3", "--format", form]) == 2
        captured = capsys.readouterr()
        assert "\x1b" not in captured.out + captured.err
        assert captured.err.count("\n") == 1
        assert "\\xff.png is not a readable image" in captured.err
        if form != "json":
            assert ":x:\\n[red]y.png" in captured.out
            assert ":smile:[bold]x" in captured.out
            assert len(captured.out.splitlines()) == 4
