"""Images whose classes differ in correlation alone: that they do, the optimum, the methods compared, and the experiment."""

import json
import math
from pathlib import Path

import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from scipy import stats
from torch.distributions import MultivariateNormal

from ditcnn.analysis.figures import figure_style
from ditcnn.analysis.moments import second_moments
from ditcnn.analysis.sample_ratio import sample_ratio
from ditcnn.analysis.stationary import bayes_accuracy, check_spectra, dense_covariance, log_likelihoods, sample_images
from ditcnn.cli import main
from ditcnn.experiments.correlations import experiment as correlations
from ditcnn.experiments.correlations.colour_fields import CLASSES, FAMILIES, STEPS, cross_spectra
from ditcnn.experiments.correlations.experiment import CORRELATIONS
from ditcnn.experiments.correlations.methods import (
    NETS,
    Labelled,
    Schedule,
    build_net,
    fit_moments,
    train_net,
)
from ditcnn.experiments.engine.experiment import Context, Plan
from ditcnn.experiments.engine.runs import RunStore
from ditcnn.experiments.engine.sets import ImageSets
from ditcnn.experiments.fig3.experiment import FIG3
from ditcnn.system.errors import InputError

CHANNEL_FAMILIES = ("channels", "white-channels")
SIZE = 4


def noise(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def covariances(family: str, strength: float = 0.3, size: int = SIZE) -> torch.Tensor:
    """The exact covariances of the classes, ``[K, C, P, C, P]``."""
    whole = dense_covariance(cross_spectra(family, strength, size))
    return whole.reshape(CLASSES, 3, size * size, 3, size * size)


def draw(family: str, strength: float, size: int, count: int, seed: int) -> Labelled:
    labels = torch.arange(count) % CLASSES
    return Labelled(sample_images(cross_spectra(family, strength, size), labels, noise(seed)).float(), labels)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_pixel_has_variance_one_in_all_classes(family):
    torch.testing.assert_close(
        torch.diagonal(dense_covariance(cross_spectra(family, 0.3, SIZE)), dim1=1, dim2=2),
        torch.ones(CLASSES, 3 * SIZE**2, dtype=torch.float64),
    )


@pytest.mark.parametrize("family", CHANNEL_FAMILIES)
def test_a_channel_alone_is_the_same_random_field_in_all_classes(family):
    whole = covariances(family)
    for channel in range(3):
        alone = whole[:, channel, :, channel]
        torch.testing.assert_close(alone, whole[:1, 0, :, 0].expand_as(alone))


@pytest.mark.parametrize("family", CHANNEL_FAMILIES)
def test_any_two_classes_of_the_channel_families_differ_in_two_correlations_at_a_position(family):
    at_position = covariances(family)[:, :, 0, :, 0]
    for k in range(CLASSES):
        assert sorted(at_position[k][[0, 0, 1], [1, 2, 2]].abs().tolist()) == pytest.approx([0.3] * 3)
        for other in range(k):
            assert int(((at_position[k] - at_position[other]).abs() > 0.5).sum()) == 2 * 2


def test_in_white_channels_positions_are_independent():
    whole = covariances("white-channels").permute(0, 2, 4, 1, 3)
    apart = ~torch.eye(SIZE**2, dtype=torch.bool)
    assert float(whole[:, apart].abs().max()) < 1e-12


def test_smooth_channels_correlate_with_their_neighbours():
    assert float(covariances("channels", size=8)[0, 0, 0, 0, 1]) > 0.4


def test_in_neighbours_channels_are_independent_and_a_position_alone_is_the_same_in_all_classes():
    whole = covariances("neighbours")
    for first in range(3):
        for second in range(3):
            if first != second:
                assert float(whole[:, first, :, second].abs().max()) < 1e-12
    torch.testing.assert_close(whole[:, :, 0, :, 0], torch.eye(3, dtype=torch.float64).expand(CLASSES, 3, 3))


def test_in_neighbours_a_position_correlates_with_its_two_neighbours_in_one_direction_and_no_other():
    size = 8
    alone = covariances("neighbours", size=size)[:, 0, :, 0].reshape(CLASSES, size, size, size, size)
    for k, (down, right) in enumerate(STEPS):
        expected = torch.zeros(size, size, dtype=torch.float64)
        expected[0, 0] = 1
        expected[down % size, right % size] = expected[-down % size, -right % size] = 0.3
        torch.testing.assert_close(alone[k, 0, 0], expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_samples_have_the_exact_covariance_and_mean_zero(family):
    count = 20_000
    spectra = cross_spectra(family, 0.4, SIZE)
    for k in (0, 3):
        images = sample_images(spectra, torch.full((count,), k), noise(k)).flatten(1)
        assert float(images.mean(dim=0).abs().max()) < 5 / math.sqrt(count)
        # An entry of a sample covariance of unit normals has a standard error of at most sqrt(2 / count).
        error = images.T @ images / count - dense_covariance(spectra)[k]
        assert float(error.abs().max()) < 5 * math.sqrt(2 / count)


@pytest.mark.parametrize("family", FAMILIES)
def test_log_likelihoods_agree_with_the_dense_normal_density(family):
    spectra = cross_spectra(family, 0.3, SIZE)
    images = sample_images(spectra, torch.arange(8) % CLASSES, noise())
    dense = [
        MultivariateNormal(torch.zeros(len(covariance), dtype=torch.float64), covariance).log_prob(images.flatten(1))
        for covariance in dense_covariance(spectra)
    ]
    constant = 3 * SIZE**2 * math.log(2 * math.pi) / 2
    torch.testing.assert_close(log_likelihoods(images, spectra), torch.stack(dense, dim=1) + constant)


def test_frequencies_of_images_that_are_not_square_are_kept_apart():
    base = torch.rand(2, 3, 5, 2, 2, dtype=torch.float64, generator=noise())
    even = base + base.flip(1, 2).roll((1, 1), (1, 2))
    spectra = even + even.mT + 4 * torch.eye(2)
    images = sample_images(spectra, torch.tensor([0, 1, 1]), noise())
    covariance = dense_covariance(spectra)
    squares = torch.einsum("ni,kij,nj->nk", images.flatten(1), torch.linalg.inv(covariance), images.flatten(1))
    torch.testing.assert_close(log_likelihoods(images, spectra), -(torch.logdet(covariance) + squares) / 2)


def test_bayes_accuracy_of_two_variances_is_the_one_worked_by_hand():
    # N(0, 1) against N(0, 4): the densities cross where x^2 = (8/3) log 2.
    crossing = math.sqrt(8 / 3 * math.log(2))
    inside, inside_wide = (stats.norm.cdf(crossing / s) - stats.norm.cdf(-crossing / s) for s in (1, 2))
    exact = (inside + 1 - inside_wide) / 2
    spectra = torch.tensor([1.0, 4.0], dtype=torch.float64).reshape(2, 1, 1, 1, 1)
    found = bayes_accuracy(spectra, 40_000, noise())
    assert found.standard_error < 0.001
    assert abs(found.value - exact) < 4 * found.standard_error


def test_bayes_accuracy_is_chance_without_correlation_and_the_same_for_smooth_and_white_channels():
    assert bayes_accuracy(cross_spectra("neighbours", 0.0, 8), 100, noise()).value == pytest.approx(1 / CLASSES)
    # The spectrum cancels out of the likelihood ratio: whitening makes one of the other.
    smooth, white = (bayes_accuracy(cross_spectra(family, 0.1, 8), 4000, noise(1)) for family in CHANNEL_FAMILIES)
    assert smooth.value == pytest.approx(white.value, abs=1e-9)


def test_bayes_accuracy_agrees_with_the_hits_of_the_likelihood():
    spectra = cross_spectra("neighbours", 0.15, 8)
    labels = torch.arange(8000) % CLASSES
    hits = log_likelihoods(sample_images(spectra, labels, noise(2)), spectra).argmax(dim=1) == labels
    found = bayes_accuracy(spectra, 8000, noise(3))
    assert abs(float(hits.double().mean()) - found.value) < 4 * math.sqrt(0.25 / 8000)


@pytest.mark.parametrize(
    ("spectra", "message"),
    [
        (torch.ones(4, 4, 3, 3), r"shape \[K, H, W, C, C\]; got \[4, 4, 3, 3\]"),
        (-torch.eye(2).expand(1, 4, 4, 2, 2), "least eigenvalue is -1"),
        (torch.tensor([[1.0, 0.5], [0, 1]]).expand(1, 4, 4, 2, 2), "symmetric"),
        (torch.arange(1.0, 5.0).reshape(1, 1, 4, 1, 1), "the same at f and -f"),
    ],
)
def test_spectra_of_no_real_image_are_refused(spectra, message):
    with pytest.raises(ValueError, match=message):
        check_spectra(spectra)


@pytest.mark.parametrize(
    ("family", "strength", "size", "message"),
    [
        ("colours", 0.1, 8, "family must be one of channels, white-channels, neighbours; got 'colours'"),
        ("neighbours", 0.5, 8, "at least 0 and below 0.5; got 0.5"),
        ("channels", 1.0, 8, "at least 0 and below 1; got 1.0"),
        ("channels", 0.1, 3, "at least 4 wide"),
    ],
)
def test_families_out_of_their_range_are_refused(family, strength, size, message):
    with pytest.raises(InputError, match=message):
        cross_spectra(family, strength, size)


def test_moments_are_the_sample_covariances_of_pixels_so_far_apart():
    images = torch.randn(2, 2, 5, 6, generator=noise())
    moments = second_moments(images, reach=1)
    assert moments.shape == (2, 3 + 4 * 4)
    by_hand = [
        sum(images[0, c, h, w] * images[0, d, (h + 1) % 5, (w - 1) % 6] for h in range(5) for w in range(6)) / 30
        for c in range(2)
        for d in range(2)
    ]
    torch.testing.assert_close(moments[0, 7:11], torch.stack(by_hand))
    torch.testing.assert_close(second_moments(images, reach=0), moments[:, :3])


def test_a_form_averaged_over_positions_is_a_linear_function_of_the_moments_at_a_position():
    images = torch.randn(3, 2, 4, 4, generator=noise())
    a = torch.tensor([[1.0, 2.0], [2.0, -3.0]])
    pooled = torch.einsum("nchw,cd,ndhw->n", images, a, images) / 16
    torch.testing.assert_close(second_moments(images, 0) @ torch.tensor([1.0, 4.0, -3.0]), pooled)


def test_half_the_samples_at_every_accuracy_is_a_ratio_of_two():
    curve = {16: 0.3, 64: 0.55, 256: 0.7, 1024: 0.95}
    halved = {samples // 2: accuracy for samples, accuracy in curve.items()}
    assert sample_ratio(curve, halved) == pytest.approx(2)
    assert sample_ratio(halved, curve) == pytest.approx(0.5)
    assert sample_ratio(curve, curve) == 1


def test_a_ratio_needs_accuracies_that_both_pass_through():
    assert sample_ratio({10: 0.25, 1000: 0.26}, {10: 0.25, 1000: 0.9}) is None
    assert sample_ratio({10: 0.3, 1000: 0.6}, {10: 0.65, 1000: 0.9}) is None


def test_a_dip_in_a_curve_does_not_count():
    assert sample_ratio({1: 0.2, 10: 0.5, 100: 0.4, 1000: 0.8}, {1: 0.2, 10: 0.5, 100: 0.5, 1000: 0.8}) == pytest.approx(1)


def test_the_wide_net_has_the_parameters_of_the_dit_net_to_five_percent():
    for depth, size in ((8, 16), (20, 32)):
        dit, wide = (sum(p.numel() for p in build_net(name, depth, size, 4).parameters()) for name in ("dit", "wide"))
        assert abs(wide / dit - 1) < 0.05
        assert build_net("wide", depth, size, 4).num_features == (76 if depth == 8 else 68)  # as in the recorded runs


def test_networks_of_a_seed_start_from_the_same_weights_and_see_the_same_images():
    data = draw("channels", 0.3, 8, 16, seed=0)
    one_step = Schedule(steps=1, batch_size=8, lr=1e-12)
    torch.manual_seed(3)
    states = {name: build_net(name, 8, 8, 4).state_dict() for name in ("plain",)}
    for name in ("dit", "stem"):
        torch.manual_seed(3)
        mine = build_net(name, 8, 8, 4).state_dict()
        assert all(torch.equal(mine[key], value) for key, value in states["plain"].items())
    # The term of stem is zero at first, so a step too small to count leaves the plain net's function.
    plain, stem = (train_net(name, 8, data, data, one_step, seed=3) for name in ("plain", "stem"))
    assert plain["accuracy"] == stem["accuracy"]


def test_training_is_a_function_of_its_seed_and_leaves_the_global_one_alone():
    data = draw("channels", 0.3, 8, 24, seed=0)
    schedule = Schedule(steps=3, batch_size=10)
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    first, second = (train_net("dit", 8, data, data, schedule, seed=1) for _ in range(2))
    assert first == second
    assert torch.equal(torch.random.get_rng_state(), before)


def test_every_network_learns_what_is_easy():
    train, test = (draw("white-channels", 0.8, 8, count, seed=count) for count in (256, 200))
    for name in NETS:
        assert train_net(name, 8, train, test, Schedule(steps=40, batch_size=32), seed=0)["accuracy"] > 0.6


def test_products_at_a_position_tell_channel_classes_apart_and_are_at_chance_on_neighbours():
    accuracy = {}
    for family in FAMILIES:
        train, test = draw(family, 0.3, 8, 256, seed=1), draw(family, 0.3, 8, 1000, seed=2)
        for reach in (0, 1):
            accuracy[family, reach] = fit_moments(reach, train, test)["accuracy"]
    assert accuracy["white-channels", 0] > 0.9
    assert abs(accuracy["neighbours", 0] - 1 / CLASSES) < 0.06
    assert accuracy["neighbours", 1] > 0.9
    # Smooth fields have fewer independent positions; with the neighbours' products a rule can whiten.
    assert accuracy["channels", 0] < accuracy["white-channels", 0]
    assert accuracy["channels", 1] > accuracy["channels", 0]


def test_every_method_with_a_seed_is_given_the_same_images(monkeypatch):
    seen: dict[tuple[str, int], list[torch.Tensor]] = {}

    def noting(reach_or_name, *rest):
        train, test = (data for data in rest if isinstance(data, Labelled))
        seen.setdefault((str(reach_or_name), len(train.labels)), []).extend([train.images, test.images])
        return {}

    monkeypatch.setattr(correlations, "fit_moments", noting)
    monkeypatch.setattr(correlations, "train_net", noting)
    settings = CORRELATIONS.budgets["smoke"].settings
    cells = CORRELATIONS.cells(Plan(settings, 1, ()))
    for cell in cells:
        if cell["method"] != "bayes" and cell["family"] == "channels" and cell["strength"] == settings.strength:
            CORRELATIONS.run(cell, Context(ImageSets({}), RunStore(Path(), "correlations")))
    at_64 = [images for (_, count), images in seen.items() if count == 64]
    assert len(at_64) == len(NETS) + 2
    for train, test in at_64:
        assert torch.equal(train, at_64[0][0])
        assert torch.equal(test, at_64[0][1])
        assert not torch.equal(train, test)


@pytest.mark.parametrize("family", FAMILIES)
def test_no_method_is_better_than_the_optimum_and_the_right_products_come_near_it(family):
    images = {"family": family, "strength": 0.08, "size": 8}
    here = Context(ImageSets({}), RunStore(Path(), "correlations"))
    best = CORRELATIONS.run(images | {"method": "bayes", "images": 2000}, here)["accuracy"]
    assert 0.55 < best < 0.65
    shared = images | {"samples": 4000, "test_images": 2000, "seed": 0}
    training = {"depth": 8, "steps": 5, "batch_size": 64, "lr": 0.1, "term_lr_scale": 1.0}
    found = {name: CORRELATIONS.run(shared | {"method": name}, here)["accuracy"] for name in ("position", "neighbourhood")}
    found["dit"] = CORRELATIONS.run(shared | training | {"method": "dit"}, here)["accuracy"]
    error = math.sqrt(best * (1 - best) / 2000)
    assert all(accuracy < best + 4 * error for accuracy in found.values())
    assert max(found.values()) > best - 6 * error


def test_the_experiment_compares_every_method_with_the_optimum(tmp_path):
    assert main(["reproduce", "correlations", "--budget", "smoke", "--out", str(tmp_path)]) == 0
    record = json.loads((tmp_path / "correlations.json").read_text())
    summary = record["summary"]
    lines = map(json.loads, (tmp_path / "cells.jsonl").read_text().splitlines())
    assert {line["cell"]["method"] for line in lines if "cell" in line} == {"bayes", "position", "neighbourhood", *NETS}
    assert {row["family"] for row in summary["differences"]} == set(FAMILIES)
    for name in ("correlations", "correlations-ratio", "correlations-images"):
        assert (tmp_path / f"{name}.svg").stat().st_size > 1000
    assert "term at the input less plain twin" in (tmp_path / "correlations.md").read_text()


def test_the_ratio_in_the_record_is_the_geometric_mean_over_seeds():
    rows = []
    for seed, factor in enumerate((2, 8)):
        about = {"family": "channels", "strength": 0.2, "size": 16, "seed": seed, "train_accuracy": 1.0, "parameters": 1}
        for samples, accuracy in ((64, 0.3), (256, 0.6), (1024, 0.9)):
            rows += [about | {"method": name, "samples": samples, "accuracy": accuracy} for name in NETS]
            rows.append(about | {"method": "neighbourhood", "samples": samples // factor, "accuracy": accuracy})
    ratios = {r["method"]: r for r in CORRELATIONS.summarise(rows)["ratios"] if r["family"] == "channels"}
    assert ratios["neighbourhood"]["each"] == pytest.approx([2, 8])
    assert ratios["neighbourhood"]["ratio"][0] == pytest.approx(4)
    assert ratios["dit"]["ratio"][:3] == pytest.approx([1, 1, 1])
    assert ratios["plain"]["ratio"][:3] == pytest.approx([1, 1, 1])


def test_the_schematic_names_the_terms_places_and_no_text_of_it_overlaps(tmp_path):
    assert main(["reproduce", "fig3", "--budget", "smoke", "--out", str(tmp_path)]) == 0
    summary = json.loads((tmp_path / "fig3.json").read_text())["summary"]
    facts = ("channels", "map", "parameters")
    assert [summary["resnet"][fact] for fact in facts] == [32, [16, 16], 33_280]
    assert [summary["convnext"][fact] for fact in facts] == [96, [56, 56], 884_736]
    with figure_style():
        (figure,) = FIG3.draw(summary, ()).values()
        canvas = FigureCanvasAgg(figure)
        boxes = [(text.get_text(), text.get_window_extent(canvas.get_renderer())) for text in figure.axes[0].texts]
    boxes = [(words, box) for words, box in boxes if words]
    width, height = figure.bbox.width, figure.bbox.height
    for number, (words, box) in enumerate(boxes):
        assert 0 <= box.x0 < box.x1 <= width, words
        assert 0 <= box.y0 < box.y1 <= height, words
        for other, other_box in boxes[:number]:
            assert not box.overlaps(other_box), (words, other)
