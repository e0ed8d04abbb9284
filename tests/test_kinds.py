"""What lies at a path, told without decoding it."""

import os

import numpy as np
import pytest
from PIL import Image

from ditcnn.data import kinds
from ditcnn.data.kinds import look_at
from ditcnn.system.errors import InputError
from tests.conftest import write_cifar10, write_cifar100, write_class_folders, write_idx, write_tar


@pytest.mark.parametrize("form", ["folder", ".tar", ".tar.gz"])
def test_class_folders_are_counted_and_some_images_measured(tmp_path, form):
    path = write_class_folders(tmp_path / "set", classes=("ant", "cat", "dog"), part="val")
    Image.new("L", (8, 8)).save(path / "train" / "ant" / "0.png")
    if form != "folder":
        path = write_tar(path, tmp_path / f"set{form}")
    found = look_at(path)
    assert (found.kind, found.compressed) == ("folders" if form == "folder" else "tar", form == ".tar.gz")
    assert (found.images, found.classes, found.exact) == ({"train": 9, "val": 6}, 3, True)
    assert (set(found.sizes), found.modes, found.small, found.grey) == ({(8, 8)}, ("L", "RGB"), True, False)


@pytest.mark.parametrize("packed", [False, True])
def test_class_folders_that_stand_alone_are_plain_and_photographs_not_small(tmp_path, packed):
    for name in ("cat", "dog"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(3):
            Image.new("RGB", (400 + number, 300)).save(tmp_path / "photos" / name / f"{number}.jpg")
    found = look_at(write_tar(tmp_path / "photos", tmp_path / "p.tar", prefix="out") if packed else tmp_path / "photos")
    assert (found.images, found.classes, found.small) == ({"all": 6}, 2, False)
    assert set(found.sizes) == {(300, 400), (300, 401), (300, 402)}


def test_small_images_of_several_sizes_cannot_be_kept_as_they_are(tmp_path):
    path = write_class_folders(tmp_path / "set")
    Image.new("RGB", (8, 9)).save(path / "train" / "cat" / "0.png")
    assert not look_at(path).small


@pytest.mark.parametrize("archive", [False, True])
def test_cifar_and_idx_are_known_by_their_files(tmp_path, archive):
    sets = (write_cifar10(tmp_path / "c10"), write_cifar100(tmp_path / "c100"), write_idx(tmp_path / "idx", zipped=True))
    if archive:
        sets = tuple(write_tar(path, tmp_path / f"{path.name}.tar.gz") for path in sets)
    ten, hundred, idx = map(look_at, sets)
    assert [(f.kind, f.name, f.classes, f.small) for f in (ten, hundred)] == [
        ("cifar", "cifar10", 10, True), ("cifar", "cifar100", 100, True),
    ]  # fmt: skip
    assert (idx.kind, idx.images, idx.classes, idx.sizes, idx.grey) == ("idx", {"train": 60, "test": 12}, 3, ((8, 8),), True)


def test_tars_in_a_folder_and_data_of_other_forms_are_known_by_name(tmp_path):
    path = write_class_folders(tmp_path / "set", part="val")
    for part in ("train", "val"):
        write_tar(
            path / part, tmp_path / "tars" / f"{part}.tar" if (tmp_path / "tars").mkdir(exist_ok=True) is None else path
        )
    assert (look_at(tmp_path / "tars").kind, look_at(tmp_path / "tars").images) == ("folders", {"train": None, "val": None})
    assert look_at("hfds/beans").kind == "hub"
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "set-train-000.tar").touch()
    assert (look_at(f"wds/{tmp_path}/shards").kind, look_at(f"wds/{tmp_path}/shards").images) == ("shards", {"train": None})


def test_of_a_large_folder_class_folders_are_counted_and_images_estimated(tmp_path, monkeypatch):
    path = write_class_folders(tmp_path / "set", classes=tuple("abcde"), train=4, test=1, part="val")
    monkeypatch.setattr(kinds, "MAX_LISTED", 10)
    monkeypatch.setattr(kinds, "FOLDERS_COUNTED", 3)
    found = look_at(path)
    assert (found.images, found.classes, found.exact, found.small) == ({"train": 20, "val": 5}, 5, False, True)


def test_no_image_is_decoded(tmp_path):
    path = write_class_folders(tmp_path / "set")
    noise = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    for image in path.rglob("*.png"):
        Image.fromarray(noise).save(image)
        image.write_bytes(image.read_bytes()[:100])
    assert set(look_at(path).sizes) == {(40, 50)}


def test_what_cannot_be_read_is_told(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").write_text("text")
    os.mkfifo(tmp_path / "fifo")
    for name, message in (
        ("empty", "holds no images of a known form"), ("text", "no whole tar archive"),
        ("fifo", "neither a folder nor a file"),
        ("nowhere", "no such folder or archive"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=message):
            look_at(tmp_path / name)
