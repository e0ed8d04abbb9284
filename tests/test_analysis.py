"""Statistics against cases worked by hand, and against the libraries."""

import math

import numpy as np
import pytest
import timm
import torch
from scipy import stats
from sklearn.covariance import LedoitWolf
from sklearn.discriminant_analysis import QuadraticDiscriminantAnalysis

from ditcnn.analysis.alignment import (
    best_alignment,
    chance_alignment,
    chance_quantile,
    class_moments,
    eigenvectors_by_size,
    matrix_cosine,
)
from ditcnn.analysis.figures import figure_bytes, figure_style, line_style
from ditcnn.analysis.intervals import mean_interval, paired_interval
from ditcnn.analysis.normal import (
    bayes_accuracy,
    bayes_quadratic,
    excess_error,
    log_density,
)
from ditcnn.data import ImageSet
from ditcnn.data.digits import read_digits
from ditcnn.experiments.fig1.descent import FORWARDS, descend, mlp, neuron, stack
from ditcnn.experiments.fig1.two_normals import random_problem
from ditcnn.experiments.fig2.few_shot import discriminant_hits, share
from ditcnn.experiments.fig6.measures import channel_numbers, pixel_numbers
from ditcnn.experiments.removal import term_moments
from ditcnn.train import TrainedModel


def spd(dims: int, seed: int) -> torch.Tensor:
    root = torch.randn(dims, dims, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return root @ root.mT + torch.eye(dims, dtype=torch.float64)


def mixture(mean0, cov0, mean1, cov1, count: int = 40_000) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw points of two classes, half each."""
    draw = torch.Generator().manual_seed(0)
    z = torch.randn(count, len(mean0), generator=draw, dtype=torch.float64)
    half = count // 2
    first, second = z[:half] @ torch.linalg.cholesky(cov0).mT + mean0, z[half:] @ torch.linalg.cholesky(cov1).mT + mean1
    return torch.cat([first, second]), torch.arange(count) >= half


def test_log_odds_are_the_difference_of_two_log_densities():
    mean0, mean1, cov0, cov1 = torch.zeros(3).double(), torch.tensor([1.0, -2.0, 0.5]).double(), spd(3, 0), spd(3, 1)
    x = torch.randn(20, 3, dtype=torch.float64)
    expected = [
        stats.multivariate_normal(mean1, cov1).logpdf(point) - stats.multivariate_normal(mean0, cov0).logpdf(point)
        for point in x.numpy()
    ]
    odds = bayes_quadratic(mean0, cov0, mean1, cov1)
    torch.testing.assert_close(odds.at(x), torch.tensor(expected))
    torch.testing.assert_close(log_density(x, mean1, cov1) - log_density(x, mean0, cov0), torch.tensor(expected))
    torch.testing.assert_close(odds.a, (cov0.inverse() - cov1.inverse()) / 2)


def test_equal_covariances_give_a_line_half_way_between_the_means():
    mean0, mean1, cov = torch.tensor([-1.0, 0.0]).double(), torch.tensor([3.0, 2.0]).double(), spd(2, 0)
    odds = bayes_quadratic(mean0, cov, mean1, cov)
    assert odds.a.abs().max() == 0
    assert abs(odds.at((mean0 + mean1) / 2)) < 1e-12
    assert odds.at(mean1) == pytest.approx(-odds.at(mean0))


def test_exchanging_the_classes_changes_the_sign():
    first = bayes_quadratic(torch.zeros(2).double(), spd(2, 0), torch.ones(2).double(), spd(2, 1))
    second = bayes_quadratic(torch.ones(2).double(), spd(2, 1), torch.zeros(2).double(), spd(2, 0))
    for a, b in zip(first, second, strict=True):
        torch.testing.assert_close(a, -b)


def test_bayes_accuracy_agrees_with_the_closed_form_within_its_error():
    mean0, mean1, cov = torch.zeros(3).double(), torch.tensor([1.0, 1.0, 0.0]).double(), spd(3, 2)
    x, _ = mixture(mean0, cov, mean1, cov)
    estimate, error = bayes_accuracy(bayes_quadratic(mean0, cov, mean1, cov).at(x))
    assert 0 < error < 0.001
    distance = math.sqrt(mean1 @ torch.linalg.solve(cov, mean1))  # Mahalanobis
    assert abs(estimate - stats.norm.cdf(distance / 2)) < 4 * error


def test_bayes_accuracy_of_two_widths_in_one_dimension():
    # N(0, 1) against N(0, 4): equal densities at x^2 = 8/3 ln 2 squared out, t = sqrt(8 ln(2) / 3).
    t = math.sqrt(8 * math.log(2) / 3)
    truth = (2 * stats.norm.cdf(t) - 1 + 2 * (1 - stats.norm.cdf(t / 2))) / 2
    zero, one = torch.zeros(1).double(), torch.eye(1).double()
    x, _ = mixture(zero, one, zero, 4 * one)
    estimate, error = bayes_accuracy(bayes_quadratic(zero, one, zero, 4 * one).at(x))
    assert abs(estimate - truth) < 4 * error


def test_excess_error_is_the_loss_against_bayes_and_zero_for_bayes_itself():
    zero, cov0, cov1 = torch.zeros(2).double(), spd(2, 3), spd(2, 4)
    x, is_one = mixture(zero, cov0, zero, cov1)
    odds = bayes_quadratic(zero, cov0, zero, cov1).at(x)
    assert excess_error(odds, odds) == 0
    always_one = torch.ones_like(odds)
    best, error = bayes_accuracy(odds)
    assert excess_error(always_one, odds).item() == pytest.approx(best - 0.5, abs=5 * error)
    counted = ((odds > 0) == is_one).double().mean() - ((x[:, 0] > 0) == is_one).double().mean()
    assert excess_error(x[:, 0], odds).item() == pytest.approx(counted.item(), abs=0.01)
    stacked = excess_error(torch.stack([odds, always_one]), odds)
    assert stacked.shape == (2,)


def test_sample_moments_make_it_sklearns_discriminant_analysis():
    x, is_one = mixture(torch.zeros(2).double(), spd(2, 0), torch.ones(2).double(), spd(2, 1), 200)
    qda = QuadraticDiscriminantAnalysis(store_covariance=True).fit(x.numpy(), is_one.numpy())
    mean0, mean1 = map(torch.from_numpy, qda.means_)
    cov0, cov1 = map(torch.from_numpy, qda.covariance_)
    odds = bayes_quadratic(mean0, cov0, mean1, cov1).at(x)
    torch.testing.assert_close(odds, torch.from_numpy(qda.decision_function(x.numpy())))


def test_class_moments_are_numpys_class_by_class():
    x, labels = torch.randn(50, 3), torch.arange(50) % 2
    means, covariances = class_moments(x, labels, 2)
    for number in range(2):
        members = x[labels == number].double().numpy()
        np.testing.assert_allclose(means[number], members.mean(0))
        np.testing.assert_allclose(covariances[number], np.cov(members.T, ddof=0))
    with pytest.raises(ValueError, match="class 2 of 3 has no vectors"):
        class_moments(x, labels, 3)


def test_eigenvectors_come_by_absolute_eigenvalue_and_rebuild_the_symmetric_part():
    matrix = torch.randn(6, 6, dtype=torch.float64)
    values, vectors = eigenvectors_by_size(matrix)
    assert values.abs().tolist() == sorted(values.abs().tolist(), reverse=True)
    torch.testing.assert_close(vectors.mT @ values.diag() @ vectors, (matrix + matrix.mT) / 2)


def test_the_best_alignment_ignores_signs_and_order():
    basis = torch.eye(3)[[2, 0, 1]]
    index, cosine = best_alignment(torch.tensor([0.6, 0.0, -0.8]), basis)
    assert index == 0
    assert cosine == pytest.approx(0.8)


@pytest.mark.parametrize(("dims", "vectors"), [(1, 1), (3, 1), (3, 3), (10, 4), (784, 784)])
def test_chance_alignment_is_the_mean_over_random_directions(dims, vectors):
    draw = torch.Generator().manual_seed(0)
    g = torch.randn(4000, dims, generator=draw)
    cosines = (g[:, :vectors].abs().amax(1) / g.norm(dim=1)).double()
    assert chance_alignment(dims, vectors) == pytest.approx(cosines.mean().item(), abs=5 * cosines.std().item() / 60 + 1e-9)
    assert chance_quantile(dims, vectors, 0.5) == pytest.approx(cosines.median().item(), abs=0.02)
    assert chance_quantile(dims, vectors, 0.5) <= chance_quantile(dims, vectors, 0.95) <= 1


def test_one_random_direction_in_three_dimensions_has_a_cosine_of_a_half():
    assert chance_alignment(3, 1) == pytest.approx(0.5)  # uniform on a sphere: the cosine is uniform
    with pytest.raises(ValueError, match="1 to 3 orthonormal vectors"):
        chance_alignment(3, 4)


def test_the_cosine_of_matrices_knows_no_scale_and_no_antisymmetric_part():
    a, skew = spd(4, 0), torch.randn(4, 4, dtype=torch.float64)
    assert matrix_cosine(a, 3 * a + skew - skew.mT) == pytest.approx(1)
    assert matrix_cosine(a, -a) == pytest.approx(-1)
    assert matrix_cosine(torch.diag(torch.tensor([1.0, 0])), torch.diag(torch.tensor([0, 1.0]))) == 0


def test_a_mean_of_two_has_the_interval_of_one_degree_of_freedom():
    interval = mean_interval([0.0, 2.0])
    assert interval.high == pytest.approx(1 + math.tan(math.pi * 0.475))  # Cauchy's 97.5% quantile, times 1
    assert mean_interval([5.0]) == (5.0, None, None, 1)
    with pytest.raises(ValueError, match="finite values"):
        mean_interval([1.0, math.nan])


def test_paired_differences_lose_what_both_sides_share():
    shared = np.random.default_rng(0).normal(size=8) * 10
    interval = paired_interval((shared + [1, 2] * 4).tolist(), shared.tolist())
    assert interval[:3] == pytest.approx(mean_interval([1.0, 2.0] * 4)[:3])
    with pytest.raises(ValueError, match="got 1 and 2"):
        paired_interval([1.0], [1.0, 2.0])


def test_an_interval_covers_the_truth_as_often_as_it_says():
    random = np.random.default_rng(0)
    intervals = [mean_interval(random.normal(size=4).tolist(), 0.9) for _ in range(1000)]
    assert np.mean([i.low < 0 < i.high for i in intervals]) == pytest.approx(0.9, abs=0.03)


def test_the_same_figure_gives_the_same_bytes_and_no_date():
    from matplotlib.figure import Figure

    pictures = []
    for _ in range(2):
        with figure_style():
            figure = Figure()
            figure.subplots().plot([1, 2], [3, 4], **line_style(1))
            pictures.append([figure_bytes(figure, ending) for ending in ("svg", "png")])
    assert pictures[0] == pictures[1]
    assert b"dc:date" not in pictures[0][0]


@pytest.mark.parametrize("covariances", ["equal", "unequal"])
def test_random_problems_have_about_the_accuracy_that_was_asked_for(covariances):
    # Unequal: exact by symmetry in two dimensions alone; in others the two classes have not quite the same accuracy.
    for dims, tolerance in ((2, 0.005), (4, 0.011 if covariances == "unequal" else 0.005), (16, 0.008)):
        problem = random_problem(covariances, dims, seed=3, accuracy=0.9)
        x, labels = problem.sample(40_000, seed=5)
        odds = problem.bayes().at(x)
        assert bayes_accuracy(odds)[0] == pytest.approx(0.9, abs=tolerance)
        assert ((odds > 0) == labels.bool()).double().mean().item() == pytest.approx(0.9, abs=tolerance + 0.006)
        torch.testing.assert_close(torch.logdet(problem.cov0), torch.logdet(problem.cov1))
    assert torch.equal(problem.cov0, problem.cov1) == (covariances == "equal")
    assert torch.equal(problem.mean0, problem.mean1) == (covariances == "unequal")


@pytest.mark.parametrize("method", ["neuron", "mlp"])
def test_stacked_descent_is_each_modules_own_descent(method):
    modules = [neuron(3, seed) if method == "neuron" else mlp(3, 5, seed) for seed in range(2)]
    x, labels = torch.randn(2, 20, 3), (torch.rand(2, 20) < 0.5).float()
    trained = descend(FORWARDS[method], stack(modules), x, labels, epochs=7, lr=0.1)
    for number, module in enumerate(modules):
        optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
        for _ in range(7):
            optimizer.zero_grad()
            torch.nn.functional.binary_cross_entropy_with_logits(module(x[number])[:, 0], labels[number]).backward()
            optimizer.step()
        for name, value in module.state_dict().items():
            torch.testing.assert_close(trained[name][number], value)


def test_a_share_is_stratified_and_a_function_of_its_seed():
    part = ImageSet(torch.arange(200, dtype=torch.uint8).reshape(200, 1, 1, 1), torch.arange(200) % 4)
    chosen = share(part, 0.1, seed=1)
    assert chosen.labels.bincount().tolist() == [5, 5, 5, 5]
    assert torch.equal(chosen.images, share(part, 0.1, seed=1).images)
    assert not torch.equal(chosen.images, share(part, 0.1, seed=2).images)
    assert share(part, 1.0, seed=1) is part


def test_shrunk_discriminant_analysis_is_scikit_learns_with_the_same_covariances():
    random = torch.Generator().manual_seed(0)
    labels = torch.arange(90) % 3
    x = torch.randn(90, 4, generator=random) * (1 + labels[:, None]) + labels[:, None]
    hits = discriminant_hits(x, labels, x, labels, 3)
    scores = []
    for number in range(3):
        members = x[labels == number].double().numpy()
        cov = LedoitWolf().fit(members).covariance_
        scores.append(stats.multivariate_normal(members.mean(0), cov).logpdf(x.double().numpy()))
    assert hits == (np.argmax(scores, 0) == labels.numpy()).sum()


def test_a_form_that_is_the_covariances_inverse_aligns_perfectly():
    covariances = torch.stack([spd(5, 0), spd(5, 1)])
    numbers = pixel_numbers(covariances, covariances.inverse(), with_pictures=True)
    assert numbers["lead_cosine"] == pytest.approx([1, 1])
    assert numbers["lead_position"] == [5, 5]  # the inverse of the largest is the smallest
    assert max(numbers["lead_other_cosine"]) < 1
    for direction, other in numbers["pictures"]:
        assert direction == pytest.approx(other, abs=2e-3)


def test_variance_along_a_random_form_is_the_mean_variance():
    random = torch.Generator().manual_seed(0)
    forms = torch.randn(400, 6, 6, generator=random)
    numbers = channel_numbers(spd(6, 3), forms)
    assert numbers["variance_along"] == pytest.approx([1.0] * 6, abs=0.15)
    assert numbers["by_rank"] == pytest.approx([numbers["chance"]] * 6, abs=0.03)


def test_the_covariance_at_the_terms_input_is_that_of_its_normed_channels():
    data = read_digits()
    model = timm.create_model("dit_resnet20", in_chans=1, img_size=8).eval()
    trained = TrainedModel(model, data.classes, data.image_shape, (0.3,), (0.4,))
    part = ImageSet(data.train.images[:50], data.train.labels[:50])
    ((_, (term, moments)),) = term_moments(trained, part, batch_size=20).items()
    assert term is model.layer2[0].quadratic
    seen = []
    term.norm.register_forward_hook(lambda module, arguments, output: seen.append(output))
    with torch.no_grad():
        model((data.train.images[:50].float() / 255 - 0.3) / 0.4)
    z = seen[0].permute(1, 0, 2, 3).flatten(1).double()
    torch.testing.assert_close(moments.covariance, torch.cov(z, correction=0))
