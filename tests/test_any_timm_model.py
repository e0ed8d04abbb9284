"""``ditcnn eval`` and ``ditcnn predict`` of any model of timm's, on images of ImageNet's form."""

import csv
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from timm.data import create_transform
from timm.models import save_for_hf

from ditcnn.cli import main
from ditcnn.data.class_names import imagenet_classes, match_classes
from ditcnn.system.errors import InputError

TENCH, CHURCH, PARACHUTE = WNIDS = ("n01440764", "n03028079", "n03888257")
SIZE = 32


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    """Photographs' form: class folders of JPEGs of several sizes, one grey."""
    folder = tmp_path_factory.mktemp("images")
    noise = np.random.default_rng(0)
    for label, name in enumerate(WNIDS):
        (folder / "val" / name).mkdir(parents=True)
        for number in range(4):
            pixels = noise.integers(0, 256, (40 + 7 * number, 60 - 5 * label, 3), np.uint8)
            mode = "L" if number == 3 else "RGB"
            Image.fromarray(pixels).convert(mode).save(folder / "val" / name / f"{name}_{number}.JPEG", format="JPEG")
    return folder


def saved(folder: Path, classes: int = 1000, names: tuple[str, ...] = (), model: str = "test_convnext") -> Path:
    """Save a model of random weights as timm does; its outputs differ by image."""
    torch.manual_seed(3)
    net = timm.create_model(model, num_classes=classes)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    config = dict(
        input_size=(3, SIZE, SIZE), crop_pct=0.9, interpolation="bilinear", mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4)
    )
    save_for_hf(
        net, folder, model_config={"label_names": list(names)} if names else {}, data_config=config, safe_serialization=True
    )
    return folder


@pytest.fixture(scope="module")
def imagenet_model(tmp_path_factory) -> Path:
    return saved(tmp_path_factory.mktemp("model"))


def logits_by_timm(folder: Path, paths: list[Path]) -> torch.Tensor:
    """Return what timm's own transform and the model make of images."""
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    transform = create_transform(
        (3, SIZE, SIZE), crop_pct=0.9, interpolation="bilinear", mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4)
    )
    with torch.no_grad():
        return model(torch.stack([transform(Image.open(path).convert("RGB")) for path in paths]))


def evaluated(capsys, *arguments: str) -> dict:
    assert main(["eval", *arguments, "--json", "--workers", "0"]) == 0
    return json.loads(capsys.readouterr().out)


def fails(capsys, *arguments: str) -> str:
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    return err.strip().splitlines()[-1]


@pytest.mark.parametrize("prefix", ["", "local-dir:"])
def test_eval_gives_timms_figures_for_a_part_of_imagenets_classes(capsys, images, imagenet_model, prefix):
    scores = evaluated(capsys, f"{prefix}{imagenet_model}", "--data", str(images), "--batch-size", "5")
    paths = sorted(images.glob("val/*/*"))
    outputs = torch.tensor([imagenet_classes(1000).index(path.parent.name) for path in paths])
    logits = logits_by_timm(imagenet_model, paths)
    assert scores["images"] == 12
    assert scores["loss"] == pytest.approx(F.cross_entropy(logits, outputs).item(), rel=1e-4)
    top = logits.topk(5).indices == outputs[:, None]
    assert scores["top1"] == pytest.approx(100 * top[:, 0].float().mean().item())
    assert scores["top5"] == pytest.approx(100 * top.any(1).float().mean().item())
    assert scores["images_per_second"] > 0


def test_eval_meets_classes_by_name_whatever_their_order(capsys, images, tmp_path):
    losses = []
    for number, names in enumerate((WNIDS, WNIDS[::-1])):
        folder = tmp_path / str(number)
        folder.mkdir()
        saved(folder, 3, names)
        losses.append(evaluated(capsys, str(folder), "--data", str(images))["loss"])
    paths = sorted(images.glob("val/*/*"))
    labels = torch.tensor([WNIDS.index(path.parent.name) for path in paths])
    logits = logits_by_timm(tmp_path / "0", paths)
    assert losses == pytest.approx([F.cross_entropy(logits, at).item() for at in (labels, 2 - labels)], rel=1e-4)


def test_eval_of_shards_with_imagenets_labels_is_that_of_the_class_folders(capsys, images, imagenet_model, tmp_path):
    with tarfile.open(tmp_path / "val-0.tar", "w") as tar:
        for number, path in enumerate(sorted(images.glob("val/*/*"))):
            label = imagenet_classes(1000).index(path.parent.name)
            for kind, content in (("jpg", path.read_bytes()), ("cls", str(label).encode())):
                info = tarfile.TarInfo(f"{number}.{kind}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    scores = evaluated(capsys, str(imagenet_model), "--data", f"wds/{tmp_path}")  # two slashes: the path is absolute
    assert scores["data"] == f"wds/{tmp_path}"
    folders = evaluated(capsys, str(imagenet_model), "--data", str(images))
    assert scores["loss"] == pytest.approx(folders["loss"], rel=1e-5)


def test_eval_of_workers_and_of_a_tar_is_the_same(capsys, images, imagenet_model, tmp_path):
    with tarfile.open(tmp_path / "images.tar", "w") as tar:
        tar.add(images, arcname="imagenette")
    timing = ("images_per_second", "data")
    first, second = (
        {k: v for k, v in scores.items() if k not in timing}
        for scores in (
            evaluated(capsys, str(imagenet_model), "--data", str(images)),
            evaluated(capsys, str(imagenet_model), "--data", str(tmp_path / "images.tar")),
        )
    )
    assert first == second
    assert main(["eval", str(imagenet_model), "--data", str(images), "--workers", "1"]) == 0
    line = capsys.readouterr().out
    assert (
        f"top-1 {first['top1']:.2f}%, top-5 {first['top5']:.2f}%, loss {first['loss']:.4f} on 12 images of 3 classes" in line
    )


def test_eval_of_a_name_uses_the_size_that_timm_tests_it_at(capsys, images):
    scores = evaluated(capsys, "test_convnext.r160_in1k", "--no-pretrained", "--data", str(images))
    assert scores["image_size"] == [160, 160]
    assert evaluated(capsys, "test_convnext", "--no-pretrained", "--data", str(images), "--image-size", "64")["images"] == 12


def test_a_name_without_weights_is_said_to_have_fresh_ones(capsys, images):
    assert main(["eval", "dit_convnext_atto", "--data", str(images), "--image-size", "32", "--workers", "0", "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["images"] == 12
    assert "dit_convnext_atto has no trained weights" in err


def test_weights_that_cannot_be_fetched_are_one_line(capsys, images, monkeypatch):
    def offline(*arguments, **kwargs):
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr("timm.create_model", offline)
    message = fails(capsys, "eval", "test_convnext.r160_in1k", "--data", str(images))
    assert "the model cannot be had: " in message
    assert "--no-pretrained" in message


def test_what_does_not_fit_is_told_in_one_line(capsys, images, imagenet_model, tmp_path):
    model = str(imagenet_model)
    assert "no model of timm's registry" in fails(capsys, "eval", "convnext_tin", "--data", str(images))
    assert "name images with --data" in fails(capsys, "eval", model)
    assert "name images to test test_convnext on with --data" in fails(capsys, "eval", "test_convnext")
    assert "holds no images" in fails(capsys, "eval", model, "--data", str(Path.cwd()))
    assert "nowhere: no such folder or archive" in fails(capsys, "eval", model, "--data", "nowhere")
    odd = tmp_path / "odd"
    (odd / "val" / "unicorn").mkdir(parents=True)
    Image.new("RGB", (40, 40)).save(odd / "val" / "unicorn" / "a.png")
    message = fails(capsys, "eval", model, "--data", str(odd))
    assert "the model knows 1000 classes (n01440764" in message
    assert "'unicorn' among them" in message
    assert "--image-size" in fails(capsys, "eval", model, "--data", str(images), "--image-size", "0")
    assert "--crop-pct" in fails(capsys, "eval", model, "--data", str(images), "--crop-pct", "2")


def test_a_damaged_image_ends_eval_or_is_counted(capsys, images, imagenet_model, tmp_path):
    for path in images.glob("val/*/*"):
        copy = tmp_path / "set" / path.relative_to(images)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    copy.write_bytes(copy.read_bytes()[:300])
    arguments = [str(imagenet_model), "--data", str(tmp_path / "set")]
    assert f"{copy} is not a readable image" in fails(capsys, "eval", *arguments, "--workers", "0")
    scores = evaluated(capsys, *arguments, "--skip-bad-images")
    assert (scores["images"], scores["bad_images"]) == (11, 1)


def test_predict_names_imagenets_classes(capsys, images, imagenet_model):
    paths = sorted(images.glob("val/*/*"))
    assert main(["predict", str(imagenet_model), *map(str, paths), "--topk", "2", "--format", "json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    probabilities, outputs = logits_by_timm(imagenet_model, paths).softmax(1).topk(2)
    wnids = imagenet_classes(1000)
    assert [row["path"] for row in rows] == [str(path) for path in paths]
    assert [[guess["wnid"] for guess in row["top"]] for row in rows] == [[wnids[i] for i in row] for row in outputs.tolist()]
    assert rows[0]["top"][0]["probability"] == pytest.approx(probabilities[0, 0].item(), abs=1e-4)
    guesses = [guess for row in rows for guess in row["top"]]
    assert all(guess["class"] != guess["wnid"] for guess in guesses)


def test_predict_of_a_run_on_some_of_imagenets_classes_says_their_names(capsys, images, tmp_path):
    folder = saved(tmp_path, 3, WNIDS)
    assert main(["predict", str(folder), str(images / "val" / TENCH), "--topk", "3", "--format", "csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert len(rows) == 12
    assert {row["class"] for row in rows} == {"tench, Tinca tinca", "church, church building", "parachute, chute"}


def test_predict_reads_a_tar_as_it_reads_its_files(capsys, images, imagenet_model, tmp_path):
    with tarfile.open(tmp_path / "some.tar", "w") as tar:
        for path in sorted((images / "val" / CHURCH).iterdir()):
            tar.add(path, arcname=path.name)
    answers = []
    for given in (images / "val" / CHURCH, tmp_path / "some.tar"):
        assert main(["predict", str(imagenet_model), str(given), "--format", "json"]) == 0
        answers.append(json.loads(capsys.readouterr().out))
    assert [row["top"] for row in answers[0]] == [row["top"] for row in answers[1]]
    assert answers[1][0]["path"] == f"{tmp_path / 'some.tar'}:{CHURCH}_0.JPEG"


def test_predict_turns_a_photograph_as_its_camera_says_where_the_model_records_so(capsys, imagenet_model, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 64, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    Image.fromarray(pixels).save(tmp_path / "tagged.png", exif=exif)
    Image.fromarray(pixels).rotate(-90, expand=True).save(tmp_path / "turned.png")
    config = imagenet_model / "config.json"
    for upright in (False, True):  # published ImageNet figures are of images as they are stored
        config.write_text(json.dumps(json.loads(config.read_text()) | {"exif_orientation": upright}))
        assert (
            main(
                [
                    "predict",
                    str(imagenet_model),
                    str(tmp_path / "tagged.png"),
                    str(tmp_path / "turned.png"),
                    "--format",
                    "json",
                ]
            )
            == 0
        )
        tagged, turned = json.loads(capsys.readouterr().out)
        assert (tagged["top"] == turned["top"]) is upright


def test_predict_of_a_damaged_image_names_it(capsys, imagenet_model, tmp_path):
    (tmp_path / "bad.jpg").write_bytes(b"\xff\xd8\xff")
    assert "bad.jpg is not a readable image" in fails(capsys, "predict", str(imagenet_model), str(tmp_path))
    assert "no model of timm's registry" in fails(capsys, "predict", "nowhere", str(tmp_path))


def test_imagenets_classes_are_met_by_their_words_where_these_name_one():
    model = imagenet_classes(1000)
    tench, maillot, suit = (
        match_classes([word], model, 1000) for word in ("tench, Tinca tinca", "maillot", "maillot, tank suit")
    )
    assert [tench, maillot, suit] == [[0], [638], [639]]
    assert match_classes(["great_white_shark", "Goldfish"], model, 1000) == [2, 1]
    for data in (["crane"], ["goldfish", "Carassius auratus"], ["1000"]):  # a bird and a machine; one class twice; too many
        with pytest.raises(InputError, match="must be called as the model's classes"):
            match_classes(data, model, 1000)


def test_classes_are_met_by_name_or_all_by_order():
    assert match_classes(["b", "a"], ["a", "b", "c"], 3) == [1, 0]
    assert match_classes(["x", "y"], [], 2) == [0, 1]
    for data, model, count in ((["x"], ["a"], 1), (["x"], [], 2)):
        with pytest.raises(InputError, match="must be called as the model's classes"):
            match_classes(data, model, count)
