"""Arrays and torch Datasets of the user's own, as sources of images."""

import random

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import ConcatDataset, Dataset, IterableDataset, Subset, TensorDataset

from ditcnn.data import DatasetSource, from_arrays
from ditcnn.data.decoding import BadImage
from ditcnn.data.stream import EvalTransform, TrainTransform, eval_batches_of, train_batches_of
from ditcnn.system.errors import InputError

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 8, 10, 3), np.uint8)  # [N, H, W, C]


class Own(Dataset):
    """Items as they are given; counts how often one is read."""

    def __init__(self, items, **fields):
        self.items, self.reads = items, 0
        for name, value in fields.items():
            setattr(self, name, value)

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        self.reads += 1
        item = self.items[index]
        return item() if callable(item) else item


def own(kind=Image.fromarray, label=int, **fields) -> Own:
    return Own([(kind(pixels), label(i % 3)) for i, pixels in enumerate(PIXELS)], **fields)


def chw(pixels) -> torch.Tensor:
    return torch.from_numpy(pixels).permute(2, 0, 1)


@pytest.mark.parametrize("kind", [Image.fromarray, np.array, chw], ids=["PIL", "array", "tensor"])
@pytest.mark.parametrize("label", [int, np.int64, torch.tensor], ids=["int", "numpy", "tensor"])
def test_items_of_each_kind_are_the_same_image(kind, label):
    source = DatasetSource(own(kind, label))
    assert (len(source), source.classes, source.labels.tolist()) == (6, ("0", "1", "2"), [0, 1, 2, 0, 1, 2])
    image, number = source.read(4)
    assert (image.mode, number) == ("RGB", 1)
    assert np.array_equal(np.asarray(image), PIXELS[4])
    assert source.digest == DatasetSource(own()).digest


@pytest.mark.parametrize("grey", [lambda p: p[..., 0], lambda p: p[..., :1], lambda p: torch.from_numpy(p[None, ..., 0])])
def test_grey_items_become_rgb(grey):
    image, _ = DatasetSource(own(lambda pixels: grey(pixels.copy()))).read(2)
    assert np.array_equal(np.asarray(image), np.repeat(PIXELS[2][..., :1], 3, 2))


def test_a_float_tensor_is_passed_on_as_it_is():
    tensor = torch.rand(3, 4, 4)
    assert DatasetSource(Own([(tensor, 0), (tensor, 1)])).read(1)[0] is tensor


def test_batches_are_made_of_a_dataset_as_of_files():
    source = DatasetSource(own())
    images, labels = next(iter(eval_batches_of(source, EvalTransform(8), batch_size=6)))
    assert (images.shape, labels.tolist()) == ((6, 3, 8, 8), [0, 1, 2, 0, 1, 2])
    (step,) = train_batches_of(source, TrainTransform(8), seed=0, epoch=0, global_batch=6, batch_size=3)
    assert len(step) == 2


@pytest.mark.parametrize("name", ["targets", "labels", "samples"])
def test_labels_that_a_dataset_keeps_are_taken_without_reading_all_of_it(name):
    labels = [i % 3 for i in range(600)]
    kept = [("path", label) for label in labels] if name == "samples" else labels
    dataset = Own([(PIXELS[0], label) for label in labels], **{name: kept})
    assert DatasetSource(dataset).labels.tolist() == labels
    assert dataset.reads < 20


@pytest.mark.parametrize(
    "fields",
    [
        dict(targets=[2, 1, 0, 2, 1, 0]),  # of another order
        dict(targets=["a"] * 6),
        dict(labels="none"),
        dict(samples=["path"] * 6),
        dict(targets=[0, 1, 2]),
        {},
    ],
)
def test_labels_are_those_of_the_items_where_a_dataset_keeps_others_or_none(fields):
    assert DatasetSource(own(**fields)).labels.tolist() == [0, 1, 2, 0, 1, 2]


def test_a_target_transform_is_applied():
    items = [(PIXELS[0], 1 - i % 2) for i in range(50)]
    dataset = Own(items, targets=[i % 2 for i in range(50)], target_transform=lambda label: 1 - label)
    assert DatasetSource(dataset).labels.tolist() == [label for _, label in items]
    assert dataset.reads < 20


def test_pytorchs_wrappers_are_looked_into():
    dataset = own(targets=[0, 1, 2, 0, 1, 2], classes=["cat", "dog", "eel"])
    subset, both = DatasetSource(Subset(dataset, [5, 3])), DatasetSource(ConcatDataset([dataset, dataset]))
    assert (subset.labels.tolist(), subset.classes) == ([2, 0], ("cat", "dog", "eel"))
    assert (both.labels.tolist(), both.classes) == ([0, 1, 2] * 4, ("cat", "dog", "eel"))
    tensors = DatasetSource(TensorDataset(torch.zeros(4, 3, 2, 2), torch.arange(4)))
    assert (tensors.labels.tolist(), tensors.classes) == ([0, 1, 2, 3], ("0", "1", "2", "3"))


def test_the_digest_tells_other_pixels_and_labels_but_not_draws():
    digest = DatasetSource(own()).digest
    other = own()
    other.items[3] = (Image.fromarray(PIXELS[3][::-1].copy()), 0)
    assert DatasetSource(other).digest != digest
    assert DatasetSource(own(label=lambda number: 2 - number)).digest != digest

    def drawn(index):
        return lambda: (PIXELS[index] // (1 + random.randrange(5)) // int(1 + np.random.randint(5)), index % 3)

    digests = {DatasetSource(Own([drawn(i) for i in range(6)])).digest for _ in range(5)}
    assert len(digests) == 1
    hidden = random.Random(0)
    unseen = [lambda i=i: (PIXELS[i] // (1 + hidden.randrange(50)), i % 3) for i in range(6)]
    assert DatasetSource(Own(unseen)).digest == DatasetSource(Own(unseen)).digest  # of a generator of its own


class Stream(IterableDataset):
    def __iter__(self):
        yield from []


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (Stream(), "map-style"),
        (Own([]), "holds no images"),
        (Own([1, 2]), r"Own\[0\] must be a pair \(image, label\); got int"),
        (Own([(PIXELS[0], "cat")]), r"label of Own\[0\] must be a whole number; got str"),
        (Own([(PIXELS[0], 1.5)]), "must be a whole number"),
        (Own([(PIXELS[0], -1)]), "from 0 on"),
        (Own([(PIXELS[0], 5)], classes=["a", "b"]), "below the number of classes, 2"),
    ],
)
def test_datasets_that_cannot_be_read_are_told(dataset, message):
    with pytest.raises(InputError, match=message):
        DatasetSource(dataset)


@pytest.mark.parametrize(
    "image",
    [np.zeros((8, 8, 3), np.float64), torch.zeros(8, dtype=torch.uint8), "path", None, np.zeros((8, 8, 2), np.uint8)],
)
def test_items_that_are_no_images_are_told_by_their_kind(image):
    with pytest.raises(InputError, match=r"Own\[0\] must hold a PIL image, a uint8 array"):
        DatasetSource(Own([(image, 0)])).read(0)


def test_an_error_of_a_dataset_is_told_in_one_line_with_the_item_and_its_kind():
    def broken():
        raise KeyError("no\nsuch column")

    source = DatasetSource(Own([(PIXELS[0], 0), broken], targets=[0, 1]))
    with pytest.raises(BadImage, match=r"^Own\[1\] raised KeyError: 'no\\nsuch column'\.$"):
        source.read(1)
    bad = {}
    batches = eval_batches_of(source, EvalTransform(8), batch_size=2, skip_bad_images=True, bad_images=bad)
    assert sum(len(labels) for _, labels in batches) == 1
    assert list(bad) == ["Own[1]"]


# --- arrays


@pytest.mark.parametrize("make", [np.asarray, torch.from_numpy])
def test_arrays_and_tensors_are_a_set(make):
    images = PIXELS.transpose(0, 3, 1, 2)
    part = from_arrays(make(images.copy()), [0, 1, 2, 0, 1, 2], ["a", "b", "c"])
    assert np.array_equal(part.images.numpy(), images)
    assert (part.labels.dtype, part.labels.tolist()) == (torch.int64, [0, 1, 2, 0, 1, 2])


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (PIXELS, [0] * 6, r"looks like \[N, H, W, C\]: images.transpose\(0, 3, 1, 2\)"),
        (torch.from_numpy(PIXELS), [0] * 6, r"images.permute\(0, 3, 1, 2\)"),
        (PIXELS[..., 0], [0] * 6, r"Grey ones: images\[:, None\]"),
        (np.zeros((2, 2, 8, 8), np.uint8), [0, 1], "with 1 or 3 channels"),
        (np.zeros((2, 3, 8, 8), np.float32), [0, 1], "must be uint8, 0 to 255; got float32"),
        (np.zeros((0, 3, 8, 8), np.uint8), [], "are empty"),
        (np.zeros((2, 3, 8, 8), np.uint8), [0, 1, 2], r"one an image, \[2\]; got \[3\]"),
        (np.zeros((2, 3, 8, 8), np.uint8), [0, 3], "from 0 on and below the number of classes, 3; got 0 to 3"),
        (np.zeros((2, 3, 8, 8), np.uint8), [-1, 0], "from 0 on"),
        (np.zeros((2, 3, 8, 8), np.uint8), [0.0, 1.0], "must be whole numbers, one an image; got float64"),
        ([[1, 2], [3]], [0, 1], "images must be one array"),
    ],
)
def test_arrays_that_do_not_fit_are_told_with_the_way_out(images, labels, message):
    with pytest.raises(InputError, match=message):
        from_arrays(images, labels, ["a", "b", "c"])
