"""ImageNet-sized data: the same images in the same order, however many processes and workers read them."""

import io
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import tarfile
import threading
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ditcnn.data.batches import derived_seed
from ditcnn.data.stream import (
    Erase,
    EvalTransform,
    Mix,
    TrainTransform,
    epoch_order,
    eval_batches_of,
    micro_batches_per_rank,
    open_source,
    seeded,
    steps_per_epoch_of,
    train_batches_of,
)
from ditcnn.data.stream.files import FolderSource
from ditcnn.data.stream.source import subset
from ditcnn.system.errors import InputError
from tests.conftest import until

CLASSES = ("n01440764", "n02102040", "n03888257")


def picture(seed: int, size: tuple[int, int] = (40, 30), mode: str = "RGB") -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    return Image.fromarray(noise).convert(mode)


def write_images(folder: Path, *, train: int = 5, val: int = 3, classes=CLASSES, val_name: str = "val") -> Path:
    for part, count in (("train", train), (val_name, val)):
        for label, name in enumerate(classes):
            (folder / part / name).mkdir(parents=True)
            for number in range(count):
                seed = derived_seed(part == "train", label, number)
                picture(seed).save(folder / part / name / f"{name}_{number}.JPEG", format="JPEG")
    return folder


def write_tar(archive: Path, folder: Path, prefix: str = "") -> Path:
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive, "w") as tar:
        tar.add(folder, arcname=prefix or ".")
    return archive


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    return write_images(tmp_path_factory.mktemp("images") / "set")


@pytest.fixture
def own_images(tmp_path) -> Path:
    """Images that a test may damage."""
    return write_images(tmp_path / "set")


def train_steps(source, *, world_size=1, workers=0, first_step=0, epoch=0, seed=7, **options):
    """Return for each step its micro-batches in the order of their numbers, gathered over the ranks."""
    ranks = [
        [
            list(step)
            for step in train_batches_of(
                source,
                TrainTransform(16, seed=seed),
                seed=seed,
                epoch=epoch,
                global_batch=8,
                batch_size=2,
                rank=rank,
                world_size=world_size,
                first_step=first_step,
                workers=workers,
                **options,
            )
        ]
        for rank in range(world_size)
    ]
    return [[own[m] for m in range(len(steps[0])) for own in steps] for steps in zip(*ranks, strict=True)]


def assert_same(a, b):
    assert len(a) == len(b) > 0
    for step, other in zip(a, b, strict=True):
        assert len(step) == len(other)
        for (images, labels), (others, other_labels) in zip(step, other, strict=True):
            assert torch.equal(images, others)
            assert torch.equal(labels, other_labels)


# --- forms of data


def everything(source) -> list[tuple[bytes, str]]:
    return [(np.asarray(source.read(i)[0]).tobytes(), source.classes[source.read(i)[1]]) for i in range(len(source))]


@pytest.mark.parametrize("form", ["one tar", "one tar in a folder", "a tar a part", "a tar a class", "a tar of tars"])
def test_an_archive_is_read_as_the_folder_that_it_was_made_of(images, tmp_path, form):
    data = tmp_path / "packed"
    if form.startswith("one tar"):
        data = write_tar(tmp_path / "set.tar", images, "" if form == "one tar" else "imagenet")
    elif form == "a tar a part":
        for part in ("train", "val"):
            write_tar(data / f"{part}.tar", images / part)
    else:
        for part in ("train", "val"):
            for name in CLASSES:
                write_tar(data / part / f"{name}.tar", images / part / name)
            if form == "a tar of tars":
                write_tar(data / f"{part}.tar", data / part)
                for path in (data / part).iterdir():
                    path.unlink()
                (data / part).rmdir()
    for part in ("train", "val"):
        folder, archive = open_source(images, part), open_source(data, part)
        assert len(folder) == (15 if part == "train" else 9)
        assert archive.classes == folder.classes == CLASSES
        assert everything(archive) == everything(folder)
        assert [Path(archive.path(i)).name for i in range(9)] == [Path(folder.path(i)).name for i in range(9)]
        if not form.startswith("a tar a class") and form != "a tar of tars":
            assert archive.digest == folder.digest


def test_the_digest_tells_other_data(own_images):
    digest = open_source(own_images, "train").digest
    assert open_source(own_images, "train").digest == digest
    path = own_images / "train" / CLASSES[0] / f"{CLASSES[0]}_0.JPEG"
    picture(99, (80, 80)).save(path, format="JPEG")
    changed = open_source(own_images, "train").digest
    assert changed != digest
    path.rename(path.with_name("other.JPEG"))
    assert open_source(own_images, "train").digest not in (digest, changed)


@pytest.mark.parametrize("name", ["validation", "test"])
def test_the_validation_part_has_timms_other_names(tmp_path, name):
    assert len(open_source(write_images(tmp_path, val_name=name), "val")) == 9


@pytest.mark.parametrize("form", ["folder", "tar", "tar of a folder"])
def test_class_folders_alone_are_split_by_a_hash_of_their_names_and_it_is_said(images, tmp_path, form):
    data = images / "train"
    if form != "folder":
        data = write_tar(tmp_path / "t.tar", images / "train", "" if form == "tar" else "outer")
    train, val, whole = (open_source(data, part) for part in ("train", "val", "all"))
    names = [{Path(part.path(i)).name for i in range(len(part))} for part in (train, val, whole)]
    assert names[0] | names[1] == names[2]
    assert not names[0] & names[1]
    assert (len(train), len(val)) == (12, 3)  # one of each class
    assert train.classes == val.classes == CLASSES
    assert "3 of its 15 images, chosen by a hash of their names, are val" in train.notes[0]
    assert train.notes == val.notes
    assert names[1] == {Path(p.path(i)).name for p in [open_source(images / "train", "val")] for i in range(3)}
    assert train.digest != val.digest


def test_a_part_of_a_source_reads_the_images_that_it_names(images):
    source = open_source(images, "train")
    part = subset(source, [7, 2], "why")
    assert [everything(part)[k] == everything(source)[i] for k, i in enumerate((7, 2))] == [True, True]
    assert [part.path(0), part.classes, part.notes[-1]] == [source.path(7), source.classes, "why"]
    assert part.digest == subset(source, np.array([7, 2])).digest != subset(source, [2, 7]).digest
    assert len(subset(source, source.labels == 1)) == 5
    for wrong in ([], [15], [-1], [0.5], [[1]], [True]):
        with pytest.raises(InputError):
            subset(source, wrong)


def test_a_set_without_a_validation_part_is_not_validated_on_its_training_images(tmp_path, images):
    (tmp_path / "train").symlink_to(images / "train")
    archive = write_tar(tmp_path / "t.tar", images / "train", "train")
    for data in (tmp_path, archive):
        with pytest.raises(InputError, match="holds no part 'val'"):
            open_source(data, "val")


def test_labels_of_val_are_those_of_train_when_val_lacks_a_class(own_images):
    train = open_source(own_images, "train")
    for path in (own_images / "val" / CLASSES[0]).iterdir():
        path.unlink()
    with pytest.raises(InputError, match=f"class folder .*{CLASSES[0]} holds no images"):
        open_source(own_images, "val", train.classes)
    (own_images / "val" / CLASSES[0]).rmdir()
    val = open_source(own_images, "val", train.classes)
    assert val.classes == train.classes
    assert set(val.labels) == {1, 2}
    assert val.absent == (CLASSES[0],)


@pytest.mark.parametrize("packed", [False, True])
def test_folders_below_a_class_are_of_that_class(own_images, tmp_path, packed):
    first, second, _ = (own_images / "train" / name for name in CLASSES)
    (first / "images").mkdir()  # as Tiny ImageNet has it
    for path in first.glob("*.JPEG"):
        path.rename(first / "images" / path.name)
    (second / "more" / "still").mkdir(parents=True)
    (second / f"{CLASSES[1]}_2.JPEG").rename(second / "more" / "still" / f"{CLASSES[1]}_2.JPEG")
    source = open_source(write_tar(tmp_path / "s.tar", own_images) if packed else own_images, "train")
    assert source.classes == CLASSES
    assert np.bincount(source.labels).tolist() == [5, 5, 5]


@pytest.mark.parametrize("packed", [False, True])
def test_a_folder_of_several_folders_of_images_is_neither_one_class_nor_many(own_images, tmp_path, packed):
    (own_images / "train" / "animals").mkdir()
    for name in CLASSES[:2]:
        (own_images / "train" / name).rename(own_images / "train" / "animals" / name)
    with pytest.raises(InputError, match=f"animals holds no image itself but the folders {CLASSES[0]} and {CLASSES[1]}"):
        open_source(write_tar(tmp_path / "s.tar", own_images) if packed else own_images, "train")


def test_a_class_may_be_called_train(tmp_path):
    images = write_images(tmp_path / "set", classes=("cat", "train"))
    assert open_source(images / "val", "val").classes == ("cat", "train")


def test_a_class_of_val_that_train_lacks_is_an_error(own_images):
    (own_images / "val" / CLASSES[0]).rename(own_images / "val" / "n01440765")
    with pytest.raises(InputError, match=r"'n01440765' that is not among the 3 known ones.*Did you mean n01440764"):
        open_source(own_images, "val", CLASSES)


def test_bad_data_is_told_in_one_line(tmp_path, images):
    (tmp_path / "empty" / "train").mkdir(parents=True)
    with pytest.raises(InputError, match="holds no images"):
        open_source(tmp_path / "empty", "train")
    with pytest.raises(InputError, match="no such folder or archive"):
        open_source(tmp_path / "nowhere", "train")
    with tarfile.open(tmp_path / "empty.tar", "w"):
        pass
    with pytest.raises(InputError, match=r"empty\.tar holds no images"):
        open_source(tmp_path / "empty.tar", "train")
    with tarfile.open(tmp_path / "zipped.tar.gz", "w:gz") as tar:
        tar.add(images, arcname=".")
    with pytest.raises(InputError, match=r"is compressed; .* decompress it first"):
        open_source(tmp_path / "zipped.tar.gz", "train")
    (tmp_path / "stray" / "val").mkdir(parents=True)
    picture(0).save(tmp_path / "stray" / "val" / "a.png")
    with pytest.raises(InputError, match=r"a\.png lies in no class folder"):
        open_source(tmp_path / "stray", "val")


@pytest.mark.parametrize("where", [0.3, 0.6, 0.9])
def test_an_archive_that_is_cut_off_is_an_error(images, tmp_path, where):
    archive = write_tar(tmp_path / "set.tar", images)
    content = archive.read_bytes().rstrip(b"\0")
    archive.write_bytes(content[: int(where * len(content))])
    with pytest.raises(InputError, match=r"set\.tar is no whole tar archive"):
        open_source(archive, "train")


def test_webdataset_shards_are_read_by_their_labels(images, tmp_path):
    folder = tmp_path / "shards"
    folder.mkdir()
    for part in ("train", "val"):
        source = open_source(images, part)
        for shard in range(2):
            with tarfile.open(folder / f"set-{part}-{shard:03}.tar", "w") as tar:
                for i in range(shard, len(source), 2):
                    for kind, content in (("jpg", source.content(i)), ("cls", b"%d" % source.labels[i]), ("json", b"{}")):
                        info = tarfile.TarInfo(f"{i:05}.{kind}")
                        info.size = len(content)
                        tar.addfile(info, io.BytesIO(content))
    for listed in (False, True):
        if listed:
            splits = {p: {"filenames": [f"set-{p}-{s:03}.tar" for s in range(2)]} for p in ("train", "val")}
            (folder / "_info.json").write_text(json.dumps({"splits": splits}))
        for part in ("train", "val"):
            plain, shards = open_source(images, part), open_source(f"wds/{folder}", part)
            assert shards.classes == ("0", "1", "2")
            wanted = sorted((pixels, str(CLASSES.index(name))) for pixels, name in everything(plain))
            assert sorted(everything(shards)) == wanted
    with pytest.raises(InputError, match="labels from 0 to 2, but there are 2 classes"):
        open_source(f"wds/{folder}", "val", ("0", "1"))
    (folder / "_info.json").write_text("{}")
    with pytest.raises(InputError, match="is damaged"):
        open_source(f"wds/{folder}", "val")


def test_a_part_of_shards_is_a_word_of_their_names(images, tmp_path):
    for part in ("train", "test"):
        with tarfile.open(tmp_path / f"retrieval-{part}-0.tar", "w") as tar:
            for number, path in enumerate(sorted((images / "train").rglob("*.JPEG"))[:2]):
                for name, content in ((f"{number}.jpg", path.read_bytes()), (f"{number}.cls", b"0")):
                    info = tarfile.TarInfo(name)
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
    (tmp_path / "._retrieval-train-0.tar").write_bytes(b"of macOS")
    assert [len(open_source(f"wds/{tmp_path}", part)) for part in ("train", "val")] == [2, 2]


def test_archives_that_were_put_together_by_cat_are_told(images, tmp_path):
    archive = write_tar(tmp_path / "set.tar", images)
    archive.write_bytes(archive.read_bytes() * 2)
    with pytest.raises(InputError, match="put together by cat"):
        open_source(archive, "train")


def add_link(archive: Path, name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> None:
    with tarfile.open(archive, "a") as tar:
        link = tarfile.TarInfo(name)
        link.type, link.linkname = kind, target
        tar.addfile(link)


def test_links_in_an_archive_are_read_where_they_lead_to_a_file_of_it_and_counted_elsewhere(images, tmp_path):
    archive = write_tar(tmp_path / "set.tar", images)
    add_link(archive, f"train/{CLASSES[0]}/9.JPEG", f"train/{CLASSES[1]}/{CLASSES[1]}_1.JPEG", tarfile.LNKTYPE)
    add_link(archive, f"train/{CLASSES[0]}/10.JPEG", f"../../val/{CLASSES[1]}/{CLASSES[1]}_1.JPEG")
    add_link(archive, f"train/{CLASSES[0]}/11.JPEG", "10.JPEG")
    add_link(archive, f"train/{CLASSES[0]}/12.JPEG", "/etc/passwd")
    add_link(archive, f"train/{CLASSES[0]}/13.JPEG", "13.JPEG")
    source = open_source(archive, "train")
    pixels = {Path(source.path(i)).name: np.asarray(source.read(i)[0]).tobytes() for i in range(len(source))}
    assert len(pixels) == 18
    assert pixels["9.JPEG"] == pixels[f"{CLASSES[1]}_1.JPEG"]
    assert pixels["10.JPEG"] == pixels["11.JPEG"] != pixels["9.JPEG"]
    (note,) = source.notes
    assert note.startswith(f"2 links to no file of the archive left out, train/{CLASSES[0]}/12.JPEG -> /etc/passwd first")


def test_sets_of_the_hub_need_their_package(monkeypatch, images):
    monkeypatch.setitem(sys.modules, "datasets", None)
    monkeypatch.delitem(sys.modules, "timm.data.readers.reader_hfds", raising=False)
    with pytest.raises(InputError, match="needs the package datasets"):
        open_source("hfds/imagenet-1k", "train")


def test_a_local_set_of_the_hub_is_read_by_its_class_names(images):
    pytest.importorskip("datasets")
    plain, hub = open_source(images, "val"), open_source(f"hfds/{images}", "val")
    assert hub.classes == CLASSES
    assert sorted(everything(hub)) == sorted(everything(plain))


class HubReader:
    """What timm's reader of ``datasets`` looks like from outside, on two images."""

    def __init__(self, split: str, labels: list, names: tuple[str, ...] = (), column: str = "label") -> None:
        self.split, self.labels, self.class_to_idx = split, labels, {name: i for i, name in enumerate(names)}
        self.column_names = ["image", column]
        self.dataset = self

    def with_format(self, kind: str):
        return {self.column_names[1]: np.array(self.labels)}

    def __getitem__(self, index: int):
        content = io.BytesIO()
        picture(index).save(content, format="PNG")
        content.seek(0)
        return content, self.labels[index]


@pytest.mark.parametrize(
    ("reader", "message"),
    [
        (
            dict(labels=[0, 1], column="fine_label"),
            "hfds/set/train has the columns image, fine_label, and no label: name the columns",
        ),
        (dict(labels=[-1, -1], names=("cat", "dog")), "labels from -1 to -1, but there are 2 classes"),
        (dict(labels=[0, 2], names=("cat", "dog")), "labels from 0 to 2, but there are 2 classes"),
        (dict(labels=[]), "holds no images"),
        (dict(labels=[[0, 1], [1, 0]]), "not one whole number an image"),
    ],
)
def test_a_set_of_the_hub_without_labels_is_told(monkeypatch, reader, message):
    monkeypatch.setattr("ditcnn.data.stream.hub.create_reader", lambda name, split, **_: HubReader(split, **reader))
    with pytest.raises(InputError, match=message):
        open_source("hfds/set", "train")


def test_a_set_of_the_hub_is_read_through_timms_reader(monkeypatch):
    def reader(name, split, **columns):
        if split != "validation":
            raise ValueError(f"Unknown split {split!r}.")
        return HubReader(split, [1, 0], ("cat", "dog"))

    monkeypatch.setattr("ditcnn.data.stream.hub.create_reader", reader)
    source = open_source("hfds/set", "val")
    assert (source.where, source.classes, source.labels.tolist()) == ("hfds/set/validation", ("cat", "dog"), [1, 0])
    assert source.read(1)[0].tobytes() == picture(1).tobytes()
    with pytest.raises(InputError, match=r"hfds/set: Unknown split 'train'"):
        open_source("hfds/set", "train")


def test_columns_of_a_set_of_the_hub_are_taken_by_name_and_labels_may_be_text(monkeypatch):
    asked = {}

    def reader(name, split, **columns):
        asked.update(columns)
        return HubReader(split, ["dog", "cat"], column="animal")

    monkeypatch.setattr("ditcnn.data.stream.hub.create_reader", reader)
    source = open_source("hfds/set", "train", image_column="photo", label_column="animal")
    assert asked == {"input_key": "photo", "target_key": "animal"}
    assert (source.classes, source.labels.tolist()) == (("cat", "dog"), [1, 0])
    with pytest.raises(InputError, match="a class 'cat' that is not among the 2 known ones"):
        open_source("hfds/set", "train", ("dog", "eel"), label_column="animal")


# --- order and batches


def test_order_is_a_permutation_and_a_function_of_seed_and_epoch():
    order = epoch_order(1000, 3, 4)
    assert order.sort().values.equal(torch.arange(1000))
    assert order.equal(epoch_order(1000, 3, 4))
    assert not order.equal(epoch_order(1000, 3, 5))
    assert not order.equal(epoch_order(1000, 4, 4))


@pytest.mark.parametrize(("world_size", "workers"), [(2, 0), (4, 0), (1, 2), (2, 1)])
def test_steps_do_not_depend_on_the_number_of_processes_or_workers(images, world_size, workers):
    source = open_source(images, "train")
    assert_same(train_steps(source), train_steps(source, world_size=world_size, workers=workers))


def test_a_step_is_its_part_of_the_order(images):
    source = open_source(images, "train")
    (step,) = train_steps(source, epoch=3)
    labels = torch.cat([labels for _, labels in step])
    assert labels.tolist() == source.labels[epoch_order(15, 7, 3)[:8]].tolist()  # 15 images: one whole batch of 8
    pixels = TrainTransform(16, seed=7)(source.read(int(epoch_order(15, 7, 3)[2]))[0], 3, int(epoch_order(15, 7, 3)[2]))
    assert torch.equal(step[1][0][0], pixels)


def test_an_epoch_that_begins_at_a_step_has_the_same_steps_from_there_on(tmp_path):
    source = open_source(write_images(tmp_path, train=12), "train")
    whole = train_steps(source)
    assert len(whole) == 4
    assert_same(whole[2:], train_steps(source, first_step=2))
    assert_same(whole[3:], train_steps(source, first_step=3, world_size=2, workers=1))


def test_a_step_that_is_not_read_to_its_end_does_not_shift_the_next(tmp_path):
    source = open_source(write_images(tmp_path, train=12), "train")
    options = dict(seed=7, epoch=0, global_batch=8, batch_size=2)
    firsts = []
    for step in train_batches_of(source, TrainTransform(16, seed=7), **options):
        assert len(step) == 4
        firsts.append([next(iter(step))])
    assert_same(firsts, [step[:1] for step in train_steps(source)])


def test_batches_do_not_touch_the_callers_random_numbers(images):
    source = open_source(images, "train")
    states = [(torch.get_rng_state().tolist(), np.random.get_state()[1].tolist()) for _ in [0]]
    for workers in (0, 1):
        train_steps(source, workers=workers)
    list(eval_batches_of(source, EvalTransform(16), batch_size=4))
    states.append((torch.get_rng_state().tolist(), np.random.get_state()[1].tolist()))
    assert states[0] == states[1]


@pytest.mark.parametrize(
    ("global_batch", "batch_size", "world_size", "message"),
    [(8, 3, 1, "not a multiple of `batch_size` 3"), (8, 4, 3, "times 3 processes"), (0, 1, 1, "must be above 0")],
)
def test_a_global_batch_that_cannot_be_kept_names_the_flags(global_batch, batch_size, world_size, message):
    with pytest.raises(InputError, match=message):
        micro_batches_per_rank(global_batch, batch_size, world_size)


def test_fewer_images_than_a_batch_are_an_error_before_anything_is_read(images):
    assert steps_per_epoch_of(15, 8) == 1
    with pytest.raises(InputError, match="15 training images are fewer than a batch of 16"):
        train_batches_of(open_source(images, "train"), TrainTransform(16), seed=0, epoch=0, global_batch=16, batch_size=4)


@pytest.mark.parametrize("world_size", [1, 2, 3, 12])
@pytest.mark.parametrize("workers", [0, 1])
def test_each_image_is_evaluated_once_at_any_world_size(images, world_size, workers):
    if workers and world_size > 3:
        pytest.skip("twelve times the same worker")
    source, transform = open_source(images, "val"), EvalTransform(16)
    rows = [
        (pixels.numpy().tobytes(), int(label))
        for rank in range(world_size)
        for batch in eval_batches_of(source, transform, batch_size=2, rank=rank, world_size=world_size, workers=workers)
        for pixels, label in zip(*batch, strict=True)
    ]
    wanted = [(transform(source.read(i)[0]).numpy().tobytes(), source.read(i)[1]) for i in range(len(source))]
    assert len(set(wanted)) == 9
    assert sorted(rows) == sorted(wanted)


# --- transforms


def test_draws_are_a_function_of_seed_epoch_and_index():
    image, transform = picture(0), TrainTransform(16, seed=1)
    first = transform(image, 2, 3)
    assert first.dtype == torch.uint8
    assert first.shape == (3, 16, 16)
    transform(image, 0, 0)
    np.random.rand()
    assert torch.equal(first, transform(image, 2, 3))
    others = [transform(image, 2, 4), transform(image, 3, 3), TrainTransform(16, seed=2)(image, 2, 3)]
    assert not any(torch.equal(first, other) for other in others)


def test_training_without_augmentation_is_a_crop_and_a_flip():
    image = picture(0, (32, 32))
    plain = TrainTransform(32, scale=(1, 1), ratio=(1, 1), hflip=0, auto_augment=None, color_jitter=None)
    assert torch.equal(plain(image, 0, 0), torch.from_numpy(np.array(image)).permute(2, 0, 1))
    flipped = TrainTransform(32, scale=(1, 1), ratio=(1, 1), hflip=1, auto_augment=None, color_jitter=None)
    assert torch.equal(flipped(image, 0, 0), plain(image, 0, 0).flip(-1))


def test_evaluation_takes_the_middle_at_the_crops_share():
    image = picture(0, (40, 20))
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    # The shorter side is 16/0.8 = 20 already, so nothing is resized.
    assert torch.equal(EvalTransform(16, crop_pct=0.8)(image), pixels[:, 2:18, 12:28])
    assert EvalTransform((8, 24), crop_mode="squash", crop_pct=1.0)(image).shape == (3, 8, 24)


@pytest.mark.parametrize("options", [{"auto_augment": "rnd-m9"}, {"auto_augment": "rand-q9"}, {"interpolation": "cubic"}])
def test_values_that_timm_does_not_take_are_told_at_once(options):
    with pytest.raises(InputError, match="timm makes no transform of"):
        TrainTransform(16, **options)


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (50, 1), (2, 3)])
def test_images_of_a_pixel_or_two_are_images(tmp_path, size):
    picture(0, size).save(tmp_path / "a.png")
    image = Image.open(tmp_path / "a.png").convert("RGB")
    for epoch in range(5):
        assert TrainTransform(16)(image, epoch, 0).shape == (3, 16, 16)
    assert EvalTransform(16)(image).shape == (3, 16, 16)


@pytest.mark.parametrize("mode", ["L", "1", "LA", "P", "RGBA", "CMYK", "RGB"])
def test_images_of_all_modes_become_rgb(tmp_path, mode):
    folder = tmp_path / "val" / "a"
    folder.mkdir(parents=True)
    kind = "jpg" if mode == "CMYK" else "png"
    shade = Image.new("L" if mode in ("1", "LA") else "RGB", (20, 20), "#c8c8c8").convert(mode)
    shade.save(folder / f"x.{kind}", quality=100)
    image, _ = open_source(tmp_path, "val").read(0)
    assert image.mode == "RGB"
    mean = np.asarray(image).mean()
    assert abs(mean - 200) < (3 if mode != "1" else 30)


def test_images_of_sixteen_bits_are_refused_as_their_conversion_would_clip(tmp_path):
    (tmp_path / "val" / "a").mkdir(parents=True)
    Image.fromarray(np.full((4, 4), 30000, np.uint16)).save(tmp_path / "val" / "a" / "x.png")
    with pytest.raises(InputError, match=r"x\.png has more than 8 bits a channel"):
        open_source(tmp_path, "val").read(0)


def test_an_exif_rotation_is_left_alone_as_timm_leaves_it(tmp_path):
    (tmp_path / "val" / "a").mkdir(parents=True)
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(0, (40, 20)).save(tmp_path / "val" / "a" / "x.jpg", exif=exif)
    assert open_source(tmp_path, "val").read(0)[0].size == (40, 20)


# --- mixing and erasing


def normal(count: int = 8, size: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    return torch.randn(count, 3, size, size, generator=draw), torch.randint(5, (count,), generator=draw)


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.8, 1.0), (0.8, 0.0), (0.0, 1.0), (0.0, 0.0)])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_targets_sum_to_one(mixup, cutmix, smoothing):
    images, labels = normal()
    for step in range(5):
        _, targets = Mix(5, mixup, cutmix, smoothing=smoothing)(images.clone(), labels, step, 0)
        torch.testing.assert_close(targets.sum(1), torch.ones(8))
        assert bool((targets >= 0).all())


def test_targets_without_mixing_are_smoothed_labels():
    images, labels = normal()
    mixed, targets = Mix(5, 0.0, 0.0, smoothing=0.1)(images.clone(), labels, 0, 0)
    assert torch.equal(mixed, images)
    torch.testing.assert_close(targets, 0.9 * torch.eye(5)[labels] + 0.02)


def test_mixup_weighs_images_as_it_weighs_targets():
    images, labels = normal()
    mixed, targets = Mix(5, mixup=0.8, cutmix=0.0, smoothing=0.0)(images.clone(), labels, 3, 0)
    row = int((labels != labels.flip(0)).nonzero()[0])
    weight = targets[row, labels[row]]
    assert 0 < weight < 1
    torch.testing.assert_close(mixed, weight * images + (1 - weight) * images.flip(0))


def test_mixing_is_a_function_of_seed_step_and_micro_batch_and_leaves_other_draws_alone():
    images, labels = normal()
    before = np.random.get_state()[1].tolist()
    mix, erase = Mix(5, seed=1), Erase(1.0, seed=1)

    def done(mix, erase, *place):
        mixed, targets = mix(images.clone(), labels, *place)
        return torch.cat([erase(mixed, *place).flatten(), targets.flatten()])

    first = done(mix, erase, 4, 2)
    assert torch.equal(first, done(mix, erase, 4, 2))
    others = [done(mix, erase, 4, 3), done(mix, erase, 5, 2), done(Mix(5, seed=2), Erase(1.0, seed=2), 4, 2)]
    assert not any(torch.equal(first, other) for other in others)
    assert np.random.get_state()[1].tolist() == before


def test_of_an_odd_number_the_last_image_is_not_mixed():
    images, labels = normal(7)
    mixed, targets = Mix(5)(images.clone(), labels, 0, 0)
    pairs, of_pairs = Mix(5)(images[:6].clone(), labels[:6], 0, 0)
    assert torch.equal(mixed, torch.cat([pairs, images[6:]]))
    assert torch.equal(targets, torch.cat([of_pairs, Mix(5, 0, 0)(images, labels, 0, 0)[1][6:]]))
    assert torch.equal(Mix(5)(images[:1].clone(), labels[:1], 0, 0)[0], images[:1])


def test_erasing_spares_the_first_half_where_it_is_told_to():
    images, _ = normal()
    erased = Erase(1.0)(images.clone(), 0, 0)
    changed = (erased != images).flatten(1).any(1)
    assert bool(changed.all())
    assert not bool((erased != images).flatten(1).all(1).any())  # a rectangle, not the image
    halved = Erase(1.0, skip_first_half=True)(images.clone(), 0, 0)
    assert (halved != images).flatten(1).any(1).tolist() == [False] * 4 + [True] * 4
    assert torch.equal(Erase(0.0)(images.clone(), 0, 0), images)


def test_seeding_ends_with_its_block():
    before = torch.get_rng_state()
    with seeded(1, 2):
        first = torch.rand(3), np.random.rand()
    with seeded(1, 2):
        assert torch.equal(first[0], torch.rand(3))
        assert first[1] == np.random.rand()
    assert torch.equal(before, torch.get_rng_state())


# --- what is damaged, and who dies


def damage(folder: Path, *, kind: str = "truncated", number: int = 2) -> Path:
    path = folder / CLASSES[1] / f"{CLASSES[1]}_{number}.JPEG"
    content = path.read_bytes()
    path.write_bytes({"truncated": content[: len(content) // 2], "empty": b"", "text": b"<html>"}[kind])
    return path


@pytest.mark.parametrize("kind", ["truncated", "empty", "text"])
@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_image_stops_the_run_with_its_path(own_images, kind, workers):
    path = damage(own_images / "train", kind=kind)
    epoch = next(e for e in range(50) if 7 in epoch_order(15, 7, e)[:8])
    source = open_source(own_images, "train")
    assert source.path(7) == str(path)
    with pytest.raises(InputError) as error:
        train_steps(source, epoch=epoch, workers=workers)
    message = str(error.value)
    assert message.startswith(f"{path} is not a readable image: ")
    assert "`skip_bad_images`" in message
    assert "\n" not in message


def test_damaged_images_are_replaced_by_the_next_good_one_on_each_process(own_images):
    paths = [damage(own_images / "train", number=number) for number in (2, 3)]
    source = open_source(own_images, "train")
    order = next(order for order in (epoch_order(15, 7, e) for e in range(50)) if {7, 8} <= set(order[:8].tolist()))
    epoch = next(e for e in range(50) if epoch_order(15, 7, e).equal(order))
    bad: dict[str, str] = {}
    steps = train_steps(source, epoch=epoch, skip_bad_images=True, bad_images=bad)
    assert set(bad) == set(map(str, paths))
    transform = TrainTransform(16, seed=7)
    wanted = [transform(source.read({7: 9, 8: 9}.get(i, i))[0], epoch, i) for i in order[:8].tolist()]
    assert torch.equal(torch.cat([images for images, _ in steps[0]]), torch.stack(wanted))
    again: dict[str, str] = {}
    assert_same(steps, train_steps(source, epoch=epoch, world_size=2, workers=1, skip_bad_images=True, bad_images=again))
    assert again == bad


def test_a_damaged_image_counts_in_its_own_turn_alone(own_images):
    for number in (2, 3):
        damage(own_images / "train", number=number)
    source = open_source(own_images, "train")
    order = next(o for o in (epoch_order(15, 7, e).tolist() for e in range(500)) if 7 in o[:8] and 8 not in o[:8])
    epoch = next(e for e in range(500) if epoch_order(15, 7, e).tolist() == order)
    bad: dict[str, str] = {}
    train_steps(source, epoch=epoch, skip_bad_images=True, bad_images=bad)
    assert list(bad) == [source.path(7)]  # 8 was tried in its place, but is not of this step


def test_damaged_images_are_left_out_of_an_evaluation_and_counted(own_images):
    path = damage(own_images / "val")
    source = open_source(own_images, "val")
    with pytest.raises(InputError, match="is not a readable image"):
        list(eval_batches_of(source, EvalTransform(16), batch_size=4))
    bad: dict[str, str] = {}
    options = dict(batch_size=1, skip_bad_images=True, bad_images=bad)
    assert sum(len(labels) for _, labels in eval_batches_of(source, EvalTransform(16), **options)) == 8
    assert list(bad) == [str(path)]


def test_data_that_is_bad_throughout_is_not_skipped(own_images):
    for path in own_images.glob("train/*/*"):
        path.write_bytes(b"")
    with pytest.raises(InputError, match=r"So were the 14 before it"):
        train_steps(open_source(own_images, "train"), skip_bad_images=True)


def test_an_image_that_cannot_be_fetched_is_never_skipped(own_images):
    source = open_source(own_images, "train")
    for path in (own_images / "train" / CLASSES[0]).iterdir():
        path.unlink()
    epoch = next(e for e in range(50) if min(epoch_order(15, 7, e)[:8].tolist()) < 5)
    with pytest.raises(InputError, match=r"cannot be read: .*No such file"):
        train_steps(source, epoch=epoch, skip_bad_images=True)


_PROGRAM = """
import signal, sys, time
from ditcnn.data.stream import *

if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: print("told", flush=True))
    source = open_source(sys.argv[1], "train")
    batches = train_batches_of(source, TrainTransform(16), seed=0, epoch=0, global_batch=2, batch_size=2, workers=2)
    list(next(batches))
    print("ready", flush=True)
    time.sleep(6)  # workers look every 5 s whether who started them is still there
    print(len([list(next(batches)) for _ in range(5)]), flush=True)
"""


@pytest.fixture
def program(images, tmp_path):
    """A script that has begun an epoch with two workers, in a process group of its own; none of it is left behind."""
    (tmp_path / "script.py").write_text(_PROGRAM)
    words, pipe = [sys.executable, str(tmp_path / "script.py"), str(images)], subprocess.PIPE
    with subprocess.Popen(words, stdout=pipe, stderr=pipe, text=True, start_new_session=True) as program:
        try:
            assert program.stdout is not None
            assert program.stdout.readline() == "ready\n"
            yield program
        finally:
            with suppress(ProcessLookupError):
                os.killpg(program.pid, signal.SIGKILL)


def test_workers_outlive_a_signal_to_the_process_group_but_not_a_program_that_leaves_an_epoch(program):
    os.killpg(program.pid, signal.SIGTERM)
    out, err = program.communicate(timeout=300)  # workers that ignored the program's end, too, would keep it for ever
    assert out.split() == ["told", "5"]  # more steps than were read ahead, and one is left
    assert (program.returncode, err) == (0, "")


def test_nothing_is_left_of_a_program_that_is_killed(program):
    program.kill()
    program.wait()
    until(lambda: not living(program.pid), seconds=60)


def living(group: int) -> list[str]:
    """Return the processes of a group that have not ended; those that nobody has waited for have."""
    stats = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended meanwhile
            stats.append(path.read_text())
    fields = [stat.rpartition(")")[2].split() for stat in stats]
    return [stat for stat, (state, _, own, *_) in zip(stats, fields, strict=True) if own == str(group) and state != "Z"]


def test_a_fork_of_a_program_that_has_read_with_workers_reads_with_its_own(images):
    source = open_source(images, "train")
    steps = train_steps(source, workers=1)
    fork = multiprocessing.get_context("fork").Process(target=lambda: assert_same(train_steps(source, workers=1), steps))
    fork.start()
    fork.join(60)
    assert fork.exitcode == 0


_LOCK = threading.Lock()


class _OneAtATime(FolderSource):
    def content(self, index: int) -> bytes:
        assert _LOCK.acquire(timeout=20)
        _LOCK.release()
        return super().content(index)


def test_a_worker_does_not_wait_for_a_lock_that_the_main_process_held_when_it_began(images):
    with _LOCK:  # as a thread of torch.distributed may hold one of the interpreter's; a fork would have it locked for ever
        train_steps(_OneAtATime(images / "train"), workers=1)
