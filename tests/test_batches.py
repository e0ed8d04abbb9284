"""Augmentation: each image with a draw of its own, a function of seed, epoch and index."""

import pytest
import torch
import torchvision.transforms.functional as TF

from ditcnn.data import ImageSet
from ditcnn.data.batches import derived_seed, normalise, random_crop, random_flip
from ditcnn.recipes import Recipe
from ditcnn.train.sources import Cut, MemorySource


@pytest.fixture
def data():
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (50, 3, 6, 8), generator=generator, dtype=torch.uint8)
    return ImageSet(images, torch.arange(50))


def epoch(data, *, number=0, first=0, batch_size=16, **settings):
    """An epoch's batches, of steps of one micro-batch."""
    recipe = Recipe(**({"seed": 1, "crop_padding": 2} | settings))
    source = MemorySource(data, tuple("abc"), recipe)
    cut = Cut(batch_size, batch_size)
    steps = list(source.train_steps(cut, number, first))
    assert [step.number for step in steps] == list(range(first, source.steps(cut)))
    return [batch for step in steps for batch in step]


def test_an_epoch_has_each_image_once_in_a_new_order(data):
    labels = [torch.cat([y for _, y in epoch(data, number=e)]) for e in (0, 1)]
    assert [len(y) for _, y in epoch(data)] == [16, 16, 16, 2]
    for order in labels:
        assert order.sort().values.tolist() == list(range(50))
    assert not torch.equal(*labels)


def test_an_epoch_begun_in_the_middle_has_the_same_batches(data):
    whole, rest = epoch(data), epoch(data, first=2)
    assert len(rest) == 2
    for (x, y), (u, v) in zip(whole[2:], rest, strict=True):
        assert torch.equal(x, u)
        assert torch.equal(y, v)


def test_seeds_and_epochs_draw_differently(data):
    first = epoch(data)[0][0]
    assert torch.equal(first, epoch(data)[0][0])
    assert not torch.equal(first, epoch(data, seed=2)[0][0])
    assert not torch.equal(first, epoch(data, number=1)[0][0])


def test_crop_is_torchvisions_pad_and_crop(data):
    offsets = torch.tensor([[0, 0], [4, 4], [2, 2], [1, 3]])
    crops = random_crop(data.images[:4], 2, offsets)
    for image, crop, (top, left) in zip(data.images, crops, offsets.tolist(), strict=False):
        assert torch.equal(crop, TF.crop(TF.pad(image, 2), top, left, 6, 8))
    assert torch.equal(crops[2], data.images[2])


def test_flip_mirrors_the_chosen_images(data):
    flipped = random_flip(data.images[:2], torch.tensor([True, False]))
    assert torch.equal(flipped[0], TF.hflip(data.images[0]))
    assert torch.equal(flipped[1], data.images[1])


def test_images_of_a_batch_have_draws_of_their_own():
    same = ImageSet(torch.arange(48).view(1, 1, 6, 8).repeat(100, 1, 1, 1).to(torch.uint8), torch.zeros(100).long())
    ((images, _),) = epoch(same, batch_size=100, seed=0)
    # 25 offsets and 2 mirrorings: 50 pictures, and a hundred draws show most of them.
    assert 35 < len({tuple(i.flatten().tolist()) for i in images}) <= 50


def test_without_augmentation_images_are_as_they_were(data):
    for x, y in epoch(data, crop_padding=0, flip=False):
        assert torch.equal(x, data.images[y])


def test_normalise_is_torchvisions(data):
    mean, std = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
    expected = TF.normalize(data.images.float() / 255, mean, std)
    torch.testing.assert_close(normalise(data.images, mean, std), expected)


def test_derived_seeds_differ_in_every_number():
    seeds = {derived_seed(a, b, c) for a in range(5) for b in range(5) for c in range(5)}
    assert len(seeds) == 125
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert derived_seed(1, 2) == derived_seed(1, 2)
