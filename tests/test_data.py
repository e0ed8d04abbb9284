"""Loaders against hand-made files of every format, and what they say of bad ones."""

import functools
import http.server
import io
import os
import pickle
import tarfile
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision.datasets.utils
from PIL import Image
from torchvision.datasets import CIFAR10

from ditcnn.data import ImageData, ImageSet, channel_statistics, open_data
from ditcnn.data.split import hold_out
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
    with pytest.raises(InputError, match="--protocol paper"):
        hold_out(ImageSet(torch.zeros(30, 1, 2, 2), torch.arange(30) % 10))
