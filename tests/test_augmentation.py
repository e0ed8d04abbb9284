"""Reflection, alternating flips and test-time views: in memory and streamed alike."""

import pytest
import torch
import torch.nn.functional as F
import torchvision.transforms.functional as TF
from torch import nn

from ditcnn.data import ImageSet
from ditcnn.data.batches import EpochDraws, normalise, random_crop
from ditcnn.data.datasets import DatasetSource
from ditcnn.data.stream import EvalTransform
from ditcnn.data.views import views_of
from ditcnn.recipes import Recipe
from ditcnn.system.errors import InputError
from ditcnn.train.evaluate import evaluate
from ditcnn.train.sources import Cut, MemorySource, StreamSource

PLAIN = {"batch_size": 16, "seed": 1, "mean": (0.5,) * 3, "std": (0.25,) * 3, "schedule": "cosine", "milestones": ()}


@pytest.fixture
def data():
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (48, 3, 6, 8), generator=generator, dtype=torch.uint8)
    return ImageSet(images, torch.arange(48))


class Items(torch.utils.data.Dataset):
    def __init__(self, data):
        self.data, self.targets = data, data.labels.tolist()

    def __len__(self):
        return len(self.data)

    def __getitem__(self, index):
        return self.data.images[index], self.targets[index]


def memory(data, **settings):
    return MemorySource(data, tuple(map(str, range(48))), Recipe(**(PLAIN | settings)))


def streamed(data, **settings):
    return StreamSource(
        DatasetSource(Items(data)), Recipe(**(PLAIN | settings)), (3, 6, 8), EvalTransform((6, 8), crop_pct=1)
    )


SOURCES = pytest.mark.parametrize("source", [memory, streamed])


def epoch(source, epoch):
    """Return an epoch's images in the order of the set."""
    steps = source.train_steps(Cut(16, 16), epoch, 0)
    images, labels = zip(*(batch for step in steps for batch in step), strict=True)
    return torch.cat(images)[torch.cat(labels).argsort()]


def flipped(images, originals):
    """Say of each image whether it is its original mirrored; it is one of both."""
    as_it_was = (images == originals).flatten(1).all(1)
    mirrored = (images == originals.flip(-1)).flatten(1).all(1)
    assert (as_it_was ^ mirrored).all()
    return mirrored


def test_reflected_crops_are_torchvisions(data):
    offsets = torch.tensor([[0, 0], [6, 6], [3, 3], [1, 5]])
    crops = random_crop(data.images[:4], 3, offsets, "reflect")
    for image, crop, (top, left) in zip(data.images, crops, offsets.tolist(), strict=False):
        assert torch.equal(crop, TF.crop(TF.pad(image, 3, padding_mode="reflect"), top, left, 6, 8))


@SOURCES
def test_reflection_brings_no_black_into_bright_images(data, source):
    bright = ImageSet(data.images.clamp(min=100), data.labels)
    settings = {"crop_padding": 2, "flip": False}
    assert epoch(source(bright, **settings), 0).min() == 0
    assert epoch(source(bright, padding_mode="reflect", **settings), 0).min() >= 100


@SOURCES
def test_reflection_wider_than_the_image_is_refused(data, source):
    source(data, crop_padding=5, padding_mode="reflect")
    with pytest.raises(InputError, match=r"`padding_mode` reflect needs `crop_padding` below.*got 6 for images of 6x8"):
        source(data, crop_padding=6, padding_mode="reflect")


@SOURCES
def test_alternating_flips_mirror_each_image_in_every_other_epoch(data, source):
    images = source(data, crop_padding=0, flip_mode="alternating")
    first, second, third = (flipped(epoch(images, number), data.images) for number in range(3))
    assert torch.equal(first, ~second)
    assert torch.equal(first, third)
    assert 10 < first.sum() < 38  # half of them at first
    other = source(data, crop_padding=0, flip_mode="alternating", seed=2)
    assert not torch.equal(first, flipped(epoch(other, 0), data.images))


def test_alternating_flips_leave_order_and_crops_as_they_are():
    for number in (0, 1):
        plain, alternating = (EpochDraws.of(100, 3, number, 2, mode) for mode in (False, True))
        assert torch.equal(plain.order, alternating.order)
        assert torch.equal(plain.offsets, alternating.offsets)


@SOURCES
def test_alternating_flips_go_with_a_random_resized_crop(data, source):
    slope = torch.arange(8, dtype=torch.uint8).mul(30).expand(48, 3, 6, 8).contiguous()  # brighter to the right
    images = source(ImageSet(slope, data.labels), crop_padding=0, scale=(0.9, 1.0), flip_mode="alternating")
    rising = [(pixels[..., -1] > pixels[..., 0]).flatten(1).all(1) for pixels in (epoch(images, 0), epoch(images, 1))]
    assert torch.equal(rising[0], ~rising[1])
    assert 10 < rising[0].sum() < 38


@SOURCES
def test_a_sample_is_spread_evenly_and_not_augmented(data, source):
    images = source(data, crop_padding=2)
    assert torch.equal(images.sample(4), data.images[[0, 12, 24, 36]])
    assert torch.equal(images.sample(100), data.images)


def test_views_are_mirrored_and_moved():
    x = torch.randn(2, 3, 5, 7)
    shares, views = zip(*views_of(x, 6), strict=True)
    assert shares == (0.25, 0.25, 0.125, 0.125, 0.125, 0.125)
    padded = F.pad(x, [1] * 4, "reflect")
    for view, expected in zip(views[::2], (x, padded[..., :5, :7], padded[..., 2:, 2:]), strict=True):
        assert torch.equal(view, expected)
    assert all(torch.equal(mirrored, view.flip(-1)) for view, mirrored in zip(views[::2], views[1::2], strict=True))
    assert [share for share, _ in views_of(x, 1)] == [1.0]
    assert [share for share, _ in views_of(x, 2)] == [0.5, 0.5]


@pytest.mark.parametrize("views", [2, 6])
def test_scores_with_views_are_those_of_the_mean_logits_beside_those_without(views):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 4 * 6, 10)).eval()
    images = ImageSet(torch.randint(0, 256, (60, 3, 6, 8), dtype=torch.uint8), torch.arange(60) % 10)
    options = {"mean": (0.5,) * 3, "std": (0.2,) * 3, "device": torch.device("cpu")}
    plain, scores = evaluate(model, images, **options), evaluate(model, images, **options, views=views)
    assert {name: scores[name] for name in plain} == plain
    x = normalise(images.images, options["mean"], options["std"])
    logits = sum(share * model(view) for share, view in views_of(x, views))
    assert scores["views_top1"] == pytest.approx(100 * (logits.argmax(1) == images.labels).float().mean().item())
    assert scores["views_loss"] == pytest.approx(F.cross_entropy(logits, images.labels).item(), rel=1e-5)


def test_a_model_blind_to_sides_gains_nothing_by_mirror_images():
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 5)).eval()
    images = ImageSet(torch.randint(0, 256, (30, 3, 6, 8), dtype=torch.uint8), torch.arange(30) % 5)
    scores = evaluate(model, images, mean=(0.5,) * 3, std=(0.2,) * 3, device=torch.device("cpu"), views=2)
    assert scores["views_loss"] == pytest.approx(scores["loss"], rel=1e-5)
