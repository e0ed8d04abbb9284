"""Loaders against hand-made files of every format, and what they say of bad ones."""

import functools
import gzip
import http.server
import io
import os
import pickle
import tarfile
import threading
import time
import unicodedata
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision.datasets.utils
from PIL import Image
from torchvision.datasets import CIFAR10

from ditcnn.data import ImageData, ImageSet, channel_statistics, open_data
from ditcnn.data.decoding import BadImage, decode_image, decode_rgb
from ditcnn.data.names import hold_out_by_name
from ditcnn.data.pickles import read_pickle
from ditcnn.data.split import hold_out
from ditcnn.data.stream import open_source
from ditcnn.system.errors import InputError
from tests.conftest import shade, write_cifar10, write_cifar100, write_class_folders, write_idx, write_tar


def same(a: ImageData, b: ImageData) -> bool:
    tensors = [
        (getattr(x, k), getattr(y, k)) for x, y in ((a.train, b.train), (a.test, b.test)) for k in ("images", "labels")
    ]
    return a.classes == b.classes and all(torch.equal(x, y) for x, y in tensors)


def test_digits_are_the_1797_of_scikit_learn():
    data = open_data(None, "digits")
    assert (len(data.train), len(data.test), data.image_shape) == (1437, 360, (1, 8, 8))
    assert data.classes == tuple("0123456789")
    assert data.train.images.max() == 255
    assert torch.bincount(data.test.labels).min() >= 34  # stratified
    assert same(data, open_data(None, "digits"))


def test_class_folders_are_labelled_in_alphabetical_order(tmp_path):
    data = open_data(write_class_folders(tmp_path / "images", classes=("dog", "ant", "cat")), "cifar10")
    assert data.classes == ("ant", "cat", "dog")
    assert data.train.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    # "dog" was written first, with label 0's shades.
    assert data.train.images[6:, 0, 0, 0].tolist() == [shade(0, n) for n in range(3)]
    assert data.train.images.dtype == torch.uint8
    assert data.image_shape == (3, 8, 8)


def test_grey_images_stay_grey_and_mixed_ones_become_rgb(tmp_path):
    grey = write_class_folders(tmp_path / "grey", mode="L")
    assert open_data(grey, "cifar10").image_shape == (1, 8, 8)
    Image.new("RGB", (8, 8), (1, 2, 3)).save(grey / "test" / "cat" / "1.png")
    mixed = open_data(grey, "cifar10")
    assert mixed.image_shape == (3, 8, 8)
    assert mixed.test.images[1, :, 0, 0].tolist() == [1, 2, 3]
    assert mixed.train.images[0, :, 0, 0].tolist() == [shade(0, 0)] * 3


def test_val_serves_where_there_is_no_test(tmp_path):
    assert len(open_data(write_class_folders(tmp_path / "a", part="val"), "cifar10").test) == 4


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
@pytest.mark.parametrize("prefix", ["", "outer"])
def test_a_tar_of_class_folders_reads_like_the_folders(tmp_path, suffix, prefix):
    folder = write_class_folders(tmp_path / "images")
    archive = write_tar(folder, tmp_path / f"images{suffix}", prefix=prefix)
    assert same(open_data(archive, "cifar10"), open_data(folder, "cifar10"))


@pytest.mark.parametrize("prefix", ["", "outer"])
def test_classes_may_be_called_as_the_parts_are(tmp_path, prefix):
    """As one of CIFAR-100's is: a train."""
    plain = write_class_folders(tmp_path / "plain", classes=("cat", "dog", "eel", "fox"))
    named = write_class_folders(tmp_path / prefix / "named", classes=("cat", "test", "train", "val"))
    folder, archive = (
        open_data(path, "cifar10") for path in (named, write_tar(named, tmp_path / "named.tar", prefix=prefix))
    )
    assert folder.classes == archive.classes == ("cat", "test", "train", "val")
    assert torch.equal(folder.train.images, open_data(plain, "cifar10").train.images)
    assert same(folder, archive)


def test_exif_rotation_is_applied(tmp_path):
    folder = write_class_folders(tmp_path / "images", classes=("a",), train=1, test=1)
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    picture = Image.new("RGB", (8, 8))
    picture.putpixel((0, 0), (255, 255, 255))
    picture.save(folder / "test" / "a" / "0.png", exif=exif)
    assert open_data(folder, "cifar10").test.images[0, 0, 7, 7] == 255


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("archive", [False, True])
def test_idx_files(tmp_path, zipped, archive):
    path = write_idx(tmp_path / "MNIST" / "raw", zipped=zipped)
    data = open_data(write_tar(path, tmp_path / "mnist.tar") if archive else tmp_path, "digits")
    assert (len(data.train), len(data.test), data.image_shape) == (60, 12, (1, 8, 8))
    assert data.classes == ("0", "1", "2")
    assert data.train.labels[:4].tolist() == [0, 1, 2, 0]
    assert 160 <= data.train.images[2].min() <= data.train.images[2].max() < 220


@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_cifar10_pickles(tmp_path, protocol):
    root = write_cifar10(tmp_path / "root", protocol=protocol)
    data = open_data(root, "cifar10")
    assert (len(data.train), len(data.test), data.image_shape) == (20, 4, (3, 32, 32))
    assert data.classes[3] == "class3"
    assert data.train.images[4, :, 0, 0].tolist() == [1, 100, 200]  # first image of the second batch
    assert data.train.labels[:12].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]
    assert same(data, open_data(root / "cifar-10-batches-py", "cifar10"))
    assert same(data, open_data(write_tar(root, tmp_path / "c.tar.gz"), "cifar10"))


def test_cifar100_pickles_and_the_choice_between_both(tmp_path):
    root = write_cifar100(write_cifar10(tmp_path / "root"))
    assert open_data(root, "cifar100").classes[99] == "fine99"
    assert len(open_data(root, "cifar10").classes) == 10
    assert len(open_data(root / "cifar-100-python", "cifar10").classes) == 100


class Touch:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_pickle_that_wants_code_is_refused_unrun(tmp_path):
    root = write_cifar10(tmp_path / "root")
    batch = root / "cifar-10-batches-py" / "data_batch_2"
    batch.write_bytes(pickle.dumps({"data": Touch(tmp_path / "owned"), "labels": []}))
    with pytest.raises(InputError, match=r"data_batch_2 is refused: it wants '\w+.mkdir'"):
        open_data(root, "cifar10")
    assert not (tmp_path / "owned").exists()


def of_labels(labels):
    return pickle.dumps({"data": np.zeros((len(labels), 3072), np.uint8), "labels": labels}, 2)


@pytest.mark.parametrize(
    "content",
    [b"", b"nonsense", pickle.dumps([1, 2]), pickle.dumps({"data": 1, "labels": [1]}), of_labels([True]), of_labels(["a"])],
)
def test_a_damaged_cifar_batch_is_named(tmp_path, content):
    root = write_cifar10(tmp_path / "root")
    (root / "cifar-10-batches-py" / "test_batch").write_bytes(content)
    with pytest.raises(InputError, match="test_batch"):
        open_data(root, "cifar10")


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A folder and the address at which it is served."""
    folder = tmp_path / "served"
    folder.mkdir()
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield folder, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_without_a_path_cifar10_is_downloaded_with_its_checksum(tmp_path, monkeypatch, served):
    folder, address = served
    archive = write_tar(write_cifar10(tmp_path / "root"), folder / "cifar-10-python.tar.gz")
    monkeypatch.setattr(CIFAR10, "url", f"{address}/{archive.name}")
    with pytest.raises(InputError, match=r"could not download .*--data PATH"):
        open_data(None, "cifar10")  # the checksum of the real archive
    monkeypatch.setattr(CIFAR10, "tgz_md5", torchvision.datasets.utils.calculate_md5(archive))
    assert len(open_data(None, "cifar10").train) == 20
    # Cut off while it was unpacked, it is unpacked again.
    (Path("data") / "cifar-10-batches-py" / "data_batch_3").write_bytes(b"cut")
    assert len(open_data(None, "cifar10").train) == 20
    archive.unlink()
    assert len(open_data(None, "cifar10").train) == 20  # it need not be downloaded again


def test_images_are_decoded_once(tmp_path, monkeypatch):
    folder = write_class_folders(tmp_path / "images")
    first = open_data(folder, "cifar10")
    monkeypatch.setattr("ditcnn.data.read_class_folders", lambda files: pytest.fail("decoded again"))
    assert same(open_data(folder, "cifar10"), first)


def test_a_changed_image_is_decoded_again(tmp_path):
    folder = write_class_folders(tmp_path / "images")
    open_data(folder, "cifar10")
    Image.new("RGB", (8, 8), (9, 9, 9)).save(folder / "train" / "cat" / "0.png")
    os.utime(folder / "train" / "cat" / "0.png", (1, 1))
    assert open_data(folder, "cifar10").train.images[0, 0, 0, 0] == 9


def test_a_damaged_cache_is_read_anew(tmp_path, cache_folder):
    folder = write_class_folders(tmp_path / "images")
    first = open_data(folder, "cifar10")
    (cache,) = cache_folder.iterdir()
    cache.write_bytes(cache.read_bytes()[:100])
    assert same(open_data(folder, "cifar10"), first)


def test_a_cache_that_cannot_be_written_is_no_obstacle(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DITCNN_CACHE", str(tmp_path / "file" / "below"))
    with pytest.warns(UserWarning, match="not kept"):
        assert len(open_data(write_class_folders(tmp_path / "images"), "cifar10").train) == 6


def test_no_such_path(tmp_path):
    with pytest.raises(InputError, match="no such folder or archive"):
        open_data(tmp_path / "nowhere", "cifar10")


def test_a_folder_without_images_lists_the_forms(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no images of a known form"):
        open_data(tmp_path / "empty", "cifar10")


@pytest.mark.parametrize("archive", [False, True])
def test_an_empty_class_folder_is_named(tmp_path, archive):
    folder = write_class_folders(tmp_path / "images")
    for image in (folder / "test" / "dog").iterdir():
        image.unlink()
    with pytest.raises(InputError, match="test/dog holds no images"):
        open_data(write_tar(folder, tmp_path / "a.tar") if archive else folder, "cifar10")


def test_a_class_in_one_part_only_is_named(tmp_path):
    folder = write_class_folders(tmp_path / "images")
    (folder / "train" / "emu").mkdir()
    Image.new("RGB", (8, 8)).save(folder / "train" / "emu" / "0.png")
    with pytest.raises(InputError, match="class 'emu' has no folder test/emu"):
        open_data(folder, "cifar10")


def test_a_missing_test_part_is_told(tmp_path):
    with pytest.raises(InputError, match=r"no folder test \(or val\)"):
        open_data(write_class_folders(tmp_path / "images", part="elsewhere"), "cifar10")


@pytest.mark.parametrize("content", [b"", b"not an image", "truncated"])
def test_an_unreadable_image_is_named(tmp_path, content):
    folder = write_class_folders(tmp_path / "images")
    path = folder / "train" / "cat" / "1.png"
    if content == "truncated":
        noise = io.BytesIO()
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (8, 8, 3), np.uint8)).save(noise, "png")
        content = noise.getvalue()[:-60]
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"train/cat/1\.png is not a readable image"):
        open_data(folder, "cifar10")


def test_images_of_two_sizes_are_told(tmp_path):
    folder = write_class_folders(tmp_path / "images")
    Image.new("RGB", (9, 8)).save(folder / "train" / "dog" / "1.png")
    with pytest.raises(InputError, match=r"8x8 and 9x8.*train/dog/1\.png"):
        open_data(folder, "cifar10")


def test_a_damaged_archive_is_named(tmp_path):
    archive = write_tar(write_class_folders(tmp_path / "images"), tmp_path / "images.tar.gz")
    archive.write_bytes(archive.read_bytes()[:200])
    with pytest.raises(InputError, match=r"images\.tar\.gz is no whole tar archive"):
        open_data(archive, "cifar10")
    archive.write_text("text")
    with pytest.raises(InputError, match=r"no whole tar archive"):
        open_data(archive, "cifar10")


def test_each_flipped_bit_of_an_archive_is_noticed_unless_it_is_padding(tmp_path):
    folder = write_class_folders(tmp_path / "images", classes=("a", "b"), train=2, test=1)
    archive = write_tar(folder, tmp_path / "images.tar.gz")
    content = archive.read_bytes()
    original = open_data(archive, "cifar10")
    told = []
    for place in range(20, len(content), 37):
        archive.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
        os.utime(archive, (place, place))
        try:
            found = open_data(archive, "cifar10")
        except InputError as error:
            told.append(str(error))
        else:  # the bits after the end of the compressed stream mean nothing
            assert place == len(content) - 9
            assert same(found, original)
    assert all("images.tar.gz" in message and "\n" not in message for message in told)
    archive.write_bytes(content)
    assert same(open_data(archive, "cifar10"), original)


def test_a_damaged_header_in_the_middle_of_an_archive_is_not_its_end(tmp_path):
    archive = write_tar(write_class_folders(tmp_path / "images"), tmp_path / "images.tar")
    content = bytearray(archive.read_bytes())
    with tarfile.open(archive) as tar:
        last = tar.getmembers()[-1]
    content[last.offset + 3] ^= 1
    archive.write_bytes(content)
    with pytest.raises(InputError, match=r"images\.tar is no whole tar archive: it is damaged at byte 29,184"):
        open_data(archive, "cifar10")


def test_several_sets_below_one_path_are_not_mixed(tmp_path):
    write_class_folders(tmp_path / "both" / "a")
    write_class_folders(tmp_path / "both" / "b", classes=("emu",))
    with pytest.raises(InputError, match="several sets of class folders: a/, b/"):
        open_data(tmp_path / "both", "cifar10")
    write_idx(tmp_path / "idx" / "MNIST" / "raw")
    write_idx(tmp_path / "idx" / "FashionMNIST" / "raw")
    with pytest.raises(InputError, match="several sets of IDX files: FashionMNIST/raw/, MNIST/raw/"):
        open_data(tmp_path / "idx", "digits")


def test_images_of_more_than_8_bits_are_refused_and_other_grey_ones_stay_grey(tmp_path):
    folder = write_class_folders(tmp_path / "images", mode="L")
    Image.new("LA", (8, 8)).save(folder / "train" / "cat" / "0.png")
    Image.new("1", (8, 8)).save(folder / "train" / "cat" / "1.png")
    assert open_data(folder, "cifar10").image_shape == (1, 8, 8)
    Image.fromarray(np.full((8, 8), 1000, np.uint16)).save(folder / "train" / "cat" / "2.png")
    with pytest.raises(InputError, match=r"train/cat/2\.png has more than 8 bits"):
        open_data(folder, "cifar10")


def test_links_in_an_archive_are_passed_over(tmp_path):
    archive = write_tar(write_class_folders(tmp_path / "images"), tmp_path / "images.tar")
    with tarfile.open(archive, "a") as tar:
        link = tarfile.TarInfo("train/cat/evil.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    assert len(open_data(archive, "cifar10").train) == 6


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("train-images-idx3-ubyte", b"\0\0\x08\x01" + bytes(20), "not an IDX file"),
        ("train-images-idx3-ubyte", b"\0\0\x08\x03" + np.array([2, 2, 2], ">i4").tobytes() + b"1234567", "header says"),
        ("train-images-idx3-ubyte", b"\0\0\x08\x03" + np.array([-1, -8, 8], ">i4").tobytes() + bytes(64), "header says"),
        ("t10k-labels-idx1-ubyte", b"\x1f\x8bnonsense", "gzip"),
        ("t10k-labels-idx1-ubyte", b"\0\0\x08\x01" + np.array([3], ">i4").tobytes() + b"\0\1\2", "12 images but 3 labels"),
    ],
)
def test_a_damaged_idx_file_is_told(tmp_path, name, content, message):
    folder = write_idx(tmp_path / "idx")
    (folder / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        open_data(folder, "digits")


def test_a_missing_idx_file_is_named(tmp_path):
    folder = write_idx(tmp_path / "idx")
    (folder / "t10k-images-idx3-ubyte").unlink()
    with pytest.raises(InputError, match="lacks t10k-images-idx3-ubyte"):
        open_data(folder, "digits")


def test_channel_statistics_are_mean_and_deviation():
    images = torch.randint(0, 256, (7, 3, 5, 4), dtype=torch.uint8)
    mean, std = channel_statistics(ImageSet(images, torch.zeros(7, dtype=torch.long)))
    values = images.double().div(255).transpose(0, 1).flatten(1)
    torch.testing.assert_close(torch.tensor(mean).double(), values.mean(1), atol=1e-4, rtol=0)
    torch.testing.assert_close(torch.tensor(std).double(), values.std(1, correction=0), atol=1e-4, rtol=0)


def test_hold_out_is_a_stratified_tenth_at_most_5000_and_always_the_same():
    labels = torch.arange(2000) % 4
    data = ImageSet(torch.arange(2000).view(-1, 1, 1, 1), labels)
    train, held = hold_out(data)
    assert (len(train), len(held)) == (1800, 200)
    assert held.labels.bincount().tolist() == [50] * 4
    assert sorted((*train.images.flatten().tolist(), *held.images.flatten().tolist())) == list(range(2000))
    assert torch.equal(hold_out(data)[1].images, held.images)
    many = ImageSet(torch.zeros(60000, 1, 1, 1), torch.arange(60000) % 4)
    assert len(hold_out(many)[1]) == 5000


def test_too_few_images_to_hold_out_are_told():
    with pytest.raises(InputError, match="`protocol` paper"):
        hold_out(ImageSet(torch.zeros(30, 1, 2, 2), torch.arange(30) % 10))


# --- data as people have it


def everything(data: ImageData) -> set[tuple[bytes, str]]:
    pairs = [pair for part in (data.train, data.test) for pair in zip(part.images, part.labels.tolist(), strict=True)]
    return {(image.numpy().tobytes(), data.classes[label]) for image, label in pairs}


@pytest.mark.parametrize("form", ["folder", "tar", "tar of a folder"])
def test_class_folders_alone_are_split_by_a_hash_of_their_names_and_it_is_said(tmp_path, form):
    folder = write_class_folders(tmp_path / "set", train=20, test=1) / "train"
    path = folder if form == "folder" else write_tar(folder, tmp_path / "p.tar", prefix="" if form == "tar" else "outer")
    data, again = open_data(path, "cifar10"), open_data(path, "cifar10")
    held = hold_out_by_name([f"{c}/{i}.png" for c in ("cat", "dog") for i in range(20)])
    assert (data.classes, len(data.train), len(data.test)) == (("cat", "dog"), int((~held).sum()), int(held.sum()))
    assert f"{held.sum()} of 40 images, chosen by a hash of their names, are the test part" in data.notes[0]
    assert again.notes == data.notes  # from the cache too
    assert sorted(data.test.images[:, 0, 0, 0].tolist()) == [shade(i // 20, i % 20) for i in np.flatnonzero(held)]


def test_holding_out_by_name_is_a_function_of_the_name():
    names = [f"{c}/{i}.png" for c in ("a", "b", "café") for i in range(300)]
    held = dict(zip(names, hold_out_by_name(names), strict=True))
    assert 60 <= sum(held.values()) <= 120
    some = names[::-7]
    assert hold_out_by_name(some).tolist() == [held[name] for name in some]
    decomposed = hold_out_by_name([unicodedata.normalize("NFD", name) for name in names])
    assert decomposed.tolist() == list(held.values())
    for count in (2, 3, 5):  # each class has one on both sides, however few it has
        few = hold_out_by_name([f"{c}/{i}" for c in range(20) for i in range(count)]).reshape(20, count)
        assert few.any(1).all()
        assert not few.all(1).any()


def test_folders_below_a_class_are_of_that_class(tmp_path):
    plain, nested = (write_class_folders(tmp_path / name) for name in ("plain", "nested"))
    (nested / "train" / "cat" / "more").mkdir()
    (nested / "train" / "cat" / "1.png").rename(nested / "train" / "cat" / "more" / "1.png")
    (nested / "train" / "dog").rename(nested / "train" / "images")
    (nested / "train" / "dog").mkdir()
    (nested / "train" / "images").rename(nested / "train" / "dog" / "images")
    assert everything(open_data(nested, "cifar10")) == everything(open_data(plain, "cifar10"))


def test_a_folder_of_several_folders_of_images_is_an_error(tmp_path):
    folder = write_class_folders(tmp_path / "set")
    for name in ("x", "y"):
        (folder / "train" / "cat" / name).mkdir()
    for number, name in enumerate("xyx"):
        (folder / "train" / "cat" / f"{number}.png").rename(folder / "train" / "cat" / name / f"{number}.png")
    with pytest.raises(InputError, match="cat holds no image itself but the folders x and y: is it one class or 2"):
        open_data(folder, "cifar10")


@pytest.mark.parametrize("archive", [False, True])
def test_names_are_compared_in_one_unicode_form(tmp_path, archive):
    folder = write_class_folders(tmp_path / "set", classes=("cafe\u0301", "dog"))  # decomposed, as macOS writes it
    (folder / "train" / "cafe\u0301").rename(folder / "train" / "caf\xe9")
    path = write_tar(folder, tmp_path / "s.tar") if archive else folder
    assert open_data(path, "cifar10").classes == ("caf\xe9", "dog")
    train = open_source(path, "train")
    val = open_source(path, "val", train.classes)
    assert (train.classes, val.classes, val.absent) == (("caf\xe9", "dog"), ("caf\xe9", "dog"), ())
    assert open_source(path, "val", ("cafe\u0301", "dog")).labels.tolist() == val.labels.tolist()  # of an older run


@pytest.mark.parametrize("archive", [False, True])
@pytest.mark.parametrize("junk", ["__MACOSX", "train/cat/@eaDir", "train/.ipynb", "lost+found", "train/#recycle"])
def test_what_systems_leave_is_ignored_at_any_level(tmp_path, junk, archive):
    plain, littered = (write_class_folders(tmp_path / name) for name in ("plain", "littered"))
    for inside in ("train/cat/0.png", "0.png", "1.png/thumb.png"):
        (littered / junk / inside).parent.mkdir(parents=True, exist_ok=True)
        (littered / junk / inside).write_bytes(b"not an image")
    (littered / "train" / "cat" / "Thumbs.db").write_bytes(b"x")
    (littered / "train" / "cat" / "._0.png").write_bytes(b"x")
    path = write_tar(littered, tmp_path / "l.tar") if archive else littered
    assert same(open_data(path, "cifar10"), open_data(plain, "cifar10"))
    assert len(open_source(path, "train")) == 6


def test_jfif_is_jpeg(tmp_path):
    folder = write_class_folders(tmp_path / "set")
    Image.new("RGB", (8, 8), (200, 0, 0)).save(folder / "train" / "cat" / "9.jfif", format="JPEG")
    assert len(open_data(folder, "cifar10").train) == 7
    assert len(open_source(folder, "train")) == 7


@pytest.mark.parametrize("archive", [False, True])
def test_pictures_of_formats_that_are_not_read_are_counted(tmp_path, archive):
    folder = write_class_folders(tmp_path / "set")
    for name in ("1.heic", "2.HEIC", "3.gif", "notes.txt"):
        (folder / "train" / "cat" / name).write_bytes(b"x")
    path = write_tar(folder, tmp_path / "s.tar") if archive else folder
    for notes in (open_data(path, "cifar10").notes, open_source(path, "train").notes):
        assert [note.partition(" are")[0] for note in notes] == ["3 pictures (.gif, .heic)"]


def test_links_that_go_round_end_and_those_to_nothing_are_counted(tmp_path):
    folder = write_class_folders(tmp_path / "set")
    for name, target in (
        ("train/cat/up", ".."), ("train/cat/self", "self"), ("round", "."), ("train/dog/9.png", "nowhere.png"), ("a", "b"),
        ("b", "a"), ("train/dog/8.png", "0.png"),
    ):  # fmt: skip
        (folder / name).symlink_to(target)
    data, source = open_data(folder, "cifar10"), open_source(folder, "train")
    assert len(data.train) == len(source) == 7
    assert "4 symbolic links to nothing left out" in data.notes[0]
    assert "2 symbolic links to nothing left out" in source.notes[0]


def test_a_class_folder_may_be_a_link(tmp_path):
    folder = write_class_folders(tmp_path / "set")
    (folder / "train" / "cat").rename(tmp_path / "elsewhere")
    (folder / "train" / "cat").symlink_to(tmp_path / "elsewhere")
    assert len(open_data(folder, "cifar10").train) == len(open_source(folder, "train")) == 6


@pytest.mark.parametrize("archive", [False, True])
def test_what_is_no_regular_file_is_no_image(tmp_path, archive):
    folder = write_class_folders(tmp_path / "set")
    os.mkfifo(folder / "train" / "cat" / "fifo.png")
    (folder / "train" / "cat" / "zero.png").symlink_to("/dev/zero")
    assert len(open_data(write_tar(folder, tmp_path / "s.tar") if archive else folder, "cifar10").train) == 6


@pytest.mark.parametrize("layout", ["emnist", "own folders", "plain"])
def test_idx_files_are_found_under_the_names_that_people_have(tmp_path, layout):
    wanted = open_data(write_idx(tmp_path / "plain"), "digits")
    folder = write_idx(tmp_path / "named", zipped=layout == "emnist")
    for path in list(folder.iterdir()):
        if layout == "emnist":
            name = path.name.replace("t10k", "test")
            path.rename(folder / f"emnist-balanced-{name}")
        elif layout == "own folders":  # as Kaggle's archive of MNIST
            path.rename(tmp_path / "file")
            path.mkdir()
            (tmp_path / "file").rename(path / path.name)
    data = open_data(folder, "digits")
    upright = [part.images.transpose(2, 3) if layout == "emnist" else part.images for part in (data.train, data.test)]
    assert torch.equal(upright[0], wanted.train.images)
    assert torch.equal(upright[1], wanted.test.images)
    assert [note for note in data.notes if "rows and columns exchanged" in note] == list(data.notes)
    assert bool(data.notes) == (layout == "emnist")


def test_several_sets_of_emnist_are_not_mixed(tmp_path):
    for name in ("balanced", "letters"):
        for path in list(write_idx(tmp_path / name).iterdir()):
            path.rename(tmp_path / f"emnist-{name}-{path.name}")
        (tmp_path / name).rmdir()
    with pytest.raises(InputError, match="several sets of IDX files: emnist-balanced, emnist-letters"):
        open_data(tmp_path, "digits")


# --- sizes


def test_photographs_are_kept_in_memory_only_at_a_size_that_is_named(tmp_path):
    for part in ("train", "test"):
        for number, name in enumerate(("cat", "dog")):
            (tmp_path / part / name).mkdir(parents=True)
            Image.new("RGB", (100, 70 + number), (0, 99 * number, 0)).save(tmp_path / part / name / "0.png")
    with pytest.raises(InputError, match=r"has 100x70 pixels; .* at most 64 a side. Name a size .*img_size"):
        open_data(tmp_path, "cifar10")
    data = open_data(tmp_path, "cifar10", img_size=16)
    assert data.image_shape == (3, 16, 16)
    assert data.train.images[:, 1].flatten(1).float().mean(1).tolist() == [0, 99]
    assert open_data(tmp_path, "cifar10", img_size=20).image_shape == (3, 20, 20)  # not what is cached at 16
    for wrong in (0, -1, 10**9):
        with pytest.raises(InputError, match="img_size must be from 1 to"):
            open_data(tmp_path, "cifar10", img_size=wrong)


def test_a_size_means_the_same_for_all_kinds(tmp_path):
    for path, name, shape in (
        (write_idx(tmp_path / "idx"), "digits", (1, 4, 4)), (write_cifar10(tmp_path / "c"), "cifar10", (3, 4, 4)),
        (None, "digits", (1, 4, 4)),
    ):  # fmt: skip
        small, whole = open_data(path, name, img_size=4), open_data(path, name)
        assert small.image_shape == shape
        channel = Image.fromarray(whole.test.images[1, 0].numpy()).resize((4, 4), Image.Resampling.BICUBIC)
        assert np.array_equal(small.test.images[1, 0].numpy(), np.asarray(channel))
        assert torch.equal(small.train.labels, whole.train.labels)


def test_images_that_do_not_fit_into_memory_are_told_before_they_are_decoded(tmp_path, monkeypatch):
    folder = write_class_folders(tmp_path / "set")
    monkeypatch.setattr("ditcnn.data.class_folders.os.sysconf", lambda name: 1024 if name == "SC_PAGE_SIZE" else 1)
    with pytest.raises(InputError, match=r"10 images of 192 bytes take .* GiB of memory, and this machine has"):
        open_data(folder, "cifar10")


class Zeros(io.RawIOBase):
    def read(self, size=-1):
        return bytes(size)


@pytest.mark.parametrize(
    "name", ["train/a/0.png", "train/a/notes.txt", "train-images-idx3-ubyte", "cifar-10-batches-py/data_batch_1"]
)
def test_an_archive_is_read_against_its_headers_and_a_limit(tmp_path, monkeypatch, name):
    monkeypatch.setattr("ditcnn.data.archives.MAX_IMAGE_BYTES", 2**20)
    monkeypatch.setattr("ditcnn.data.archives.MAX_UNPACKED", 2**22)
    folder = write_class_folders(tmp_path / "set")
    with tarfile.open(tmp_path / "bomb.tar.gz", "w:gz", compresslevel=1) as archive:
        archive.add(folder, arcname="")
        member = tarfile.TarInfo(name)
        member.size = 2**24
        archive.addfile(member, Zeros())
    assert (tmp_path / "bomb.tar.gz").stat().st_size < 2**20
    with pytest.raises(InputError, match=r"at most 1,048,576 are read|unpacks to more than"):
        open_data(tmp_path / "bomb.tar.gz", "cifar10")


def header(name: str = "x", kind: bytes = b"0", size: bytes = b"00000000000\0") -> bytes:
    block = bytearray(tarfile.TarInfo(name).tobuf(tarfile.GNU_FORMAT))
    block[156:157], block[124:136], block[148:156] = kind, size, b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


@pytest.mark.parametrize(
    "content",
    [
        header(kind=b"L", size=b"77777777777\0"),  # a name of eight gigabytes
        header(kind=b"x", size=b"77777777777\0"),
        header(size=b"\xff" * 11 + b"\0") * 3,  # a negative size: the next header stands before this one
        header(kind=b"x", size=b"\xff" * 12) * 3,
        header(kind=b"x") * 3000,
        header("a/0.png", size=b"77777777777\0"),
    ],
)
def test_headers_that_ask_for_what_no_archive_has_are_told_at_once(tmp_path, content):
    (tmp_path / "a.tar").write_bytes(content + bytes(1024))
    for read in (lambda p: open_data(p, "cifar10"), lambda p: open_source(p, "train")):
        with pytest.raises(InputError, match=r"a\.tar is no whole tar archive"):
            read(tmp_path / "a.tar")


def test_tars_in_tars_have_a_depth(tmp_path):
    path = write_tar(write_class_folders(tmp_path / "set"), tmp_path / "0.tar")
    for depth in range(1, 6):
        with tarfile.open(tmp_path / f"{depth}.tar", "w") as archive:
            archive.add(path, arcname="train.tar")
        path = tmp_path / f"{depth}.tar"
    with pytest.raises(InputError, match="tars in tars more than 3 deep"):
        open_source(path, "train")


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("says", [(2, 2, 2), (2**20, 2**20, 1), (2**31, 1, 1)])
def test_an_idx_file_is_read_against_its_header_and_a_limit(tmp_path, zipped, says):
    folder = write_idx(tmp_path / "idx", zipped=zipped)
    path = next(folder.glob("train-images*"))
    content = bytes([0, 0, 8, 3]) + np.array(says, ">u4").tobytes() + bytes(2**22)
    path.write_bytes(gzip.compress(content) if zipped else content)
    with pytest.raises(InputError, match=r"more bytes of data where its header says|at most 1,073,741,824 are read"):
        open_data(folder, "digits")


@pytest.mark.parametrize("size", [(1, 20_000), (20_000, 1), (10_000, 9_000), (60_000, 60_000)])
def test_an_image_that_would_take_gigabytes_is_bad_in_one_line(size):
    content = io.BytesIO()
    Image.new("1", (8, 8)).save(content, "png")
    plain = bytearray(content.getvalue())
    plain[16:24] = np.array(size, ">u4").tobytes()  # of the header, whose checksum Pillow reads
    plain[29:33] = np.array([zlib.crc32(bytes(plain[12:29]))], ">u4").tobytes()
    with pytest.raises(BadImage, match=r"^x\.png has (1 x 20,000|20,000 x 1|more than 89,478,485) pixels"):
        decode_rgb(bytes(plain), "x.png")


# --- nothing believed unread


@pytest.mark.parametrize("head", [b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", b"\xc5\xd0\xd3\xc6" + bytes(40)])
def test_no_format_but_those_that_are_meant_is_read_and_no_program_started(monkeypatch, head):
    monkeypatch.setattr("subprocess.Popen", lambda *_, **__: pytest.fail("a program was started"))
    with pytest.raises(BadImage, match=r"photo\.jpg is not a readable image: none of the formats that are read \(JPEG, PNG"):
        decode_image(head, "photo.jpg")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "PPM", "TIFF", "WEBP"])
def test_the_formats_that_are_meant_are_read_whatever_they_are_called(kind):
    content = io.BytesIO()
    Image.new("RGB", (9, 7), (200, 100, 0)).save(content, kind)
    assert decode_rgb(content.getvalue(), "x.jpg").size == (9, 7)


def test_orientation_is_obeyed_where_it_is_asked_for(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    for part in ("train", "val"):
        (tmp_path / part / "a").mkdir(parents=True)
        Image.new("RGB", (20, 10)).save(tmp_path / part / "a" / "0.jpg", exif=exif)
    sizes = [open_source(tmp_path, "train", upright=upright).read(0)[0].size for upright in (False, True)]
    assert sizes == [(20, 10), (10, 20)]
    assert not open_source(tmp_path, "train").upright  # as published figures are measured
    assert open_data(tmp_path, "cifar10").image_shape == (3, 20, 10)


def test_each_flipped_bit_of_the_cache_is_seen(tmp_path, cache_folder):
    folder = write_class_folders(tmp_path / "images")
    first = open_data(folder, "cifar10")
    (cache,) = cache_folder.iterdir()
    content = cache.read_bytes()
    for place in (*range(0, 600, 7), *range(600, len(content), 211)):
        cache.write_bytes(content[:place] + bytes([content[place] ^ 16]) + content[place + 1 :])
        data = open_data(folder, "cifar10")
        assert same(data, first)
        assert data.notes == first.notes


def test_an_image_replaced_by_one_of_equal_size_and_time_is_seen(tmp_path):
    folder = write_class_folders(tmp_path / "images")
    path = folder / "train" / "cat" / "0.png"
    Image.new("RGB", (8, 8), (1, 2, 3)).save(path, "bmp")
    assert open_data(folder, "cifar10").train.images[0, 0, 0, 0] == 1
    before = path.stat()
    other = path.with_name("other")
    Image.new("RGB", (8, 8), (9, 2, 3)).save(other, "bmp")
    assert other.stat().st_size == before.st_size
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.replace(path)
    assert open_data(folder, "cifar10").train.images[0, 0, 0, 0] == 9


def test_what_a_killed_process_left_in_the_cache_is_swept(tmp_path, cache_folder):
    for name, age in (("images-a.tmp", 7200), ("images-b.tmp", 0)):
        (cache_folder / name).touch()
        os.utime(cache_folder / name, (time.time() - age,) * 2)
    open_data(write_class_folders(tmp_path / "images"), "cifar10")
    assert [path.name for path in cache_folder.glob("*.tmp")] == ["images-b.tmp"]


def named(module: bytes, name: bytes) -> bytes:
    return b"c" + module + b"\n" + name + b"\n"


def text(words: bytes) -> bytes:
    return b"X" + len(words).to_bytes(4, "little") + words


ARRAY = named(b"numpy.core.multiarray", b"_reconstruct") + named(b"numpy", b"ndarray") + b"K\x00\x85U\x01b\x87R"
STATE = b"(K\x03" + text(b">") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"


def of_type(name: bytes, state: bytes = STATE, data: bytes = b"U\x08AAAAAAAA") -> bytes:
    dtype = named(b"numpy", b"dtype") + text(name) + b"\x89\x88\x87R" + state
    return ARRAY + b"(K\x01K\x01\x85" + dtype + b"\x89" + data + b"tb."


@pytest.mark.parametrize(
    "content",
    [
        of_type(b"O8"),  # its bytes would be taken for pointers
        of_type(b"V8"),
        of_type(b"O8,i4"),
        of_type(b"i8", STATE.replace(b"K\x00tb", b"K\x3ftb")),  # flags
        of_type(b"i8", STATE.replace(b"NNN", text(b"x") + b"NN")),  # an array within
        of_type(b"i8", data=b"U\x04AAAA"),  # shorter than its shape
        of_type(b"u1", data=b"N"),
        ARRAY + b".",
        b"}" + b")" + b"\x85" * 200_000 + b"K\x01s.",  # a key that nests too deep to be hashed
        b"Nr\xff\xff\xff\x7f]r\xff\xff\xff\xff.",  # a memo of billions of places
        b"\x8e" + b"\xff" * 7 + b"\x7fa.",
        b"\x96" + b"\0" * 4 + b"\x10\0\0\0a.",
        named(b"numpy", b"dtype") + b"}" + text(b"_make") + b"K\x01sb.",
        named(b"numpy", b"ndarray") + b")\x81.",
        named(b"numpy", b"ndarray") + b"K\x09\x85R.",
        named(b"_codecs", b"encode") + text(b"x") + text(b"zip") + b"\x86R.",
        b"(ios\nsystem\n.",
        named(b"numpy", b"load") + text(b"x") + b"\x85R.",
        b"]("
        + text(b"A" * 2**20)
        + b"q\x01"
        + 50 * (named(b"_codecs", b"encode") + b"h\x01" + text(b"latin1") + b"\x86R")
        + b"e.",
    ],
)
def test_a_pickle_builds_nothing_but_plain_containers_and_arrays_of_numbers(tmp_path, content):
    root = write_cifar10(tmp_path / "root")
    (root / "cifar-10-batches-py" / "data_batch_1").write_bytes(b"\x80\x02" + content)
    with pytest.raises(InputError, match=r"data_batch_1 is (refused|damaged|not a CIFAR batch)") as error:
        open_data(root, "cifar10")
    assert len(str(error.value)) < 400
    assert str(error.value).isprintable()


@pytest.mark.parametrize("protocol", range(6))
def test_a_pickle_of_plain_things_is_read_as_pickle_reads_it(protocol):
    value = {
        "a": np.arange(6, dtype=">i4").reshape(2, 3).T,
        "b": [1, -1, 2**70, 1.5, None, True, "é", b"x" * 300, (1, (2,)), {}],
    }
    read = read_pickle(pickle.dumps(value, protocol))
    assert np.array_equal(read["a"], value["a"])
    assert read["b"] == value["b"]
    assert read_pickle(pickle.dumps(np.float32(2.5), protocol)) == 2.5
