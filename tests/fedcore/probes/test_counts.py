import numpy as np
import pytest
from scipy.stats import norm, t
from sklearn.metrics import mean_absolute_error, r2_score

from fedcore.probes import CountScore, count_regression
from fedcore.probes.counts import estimate_counts, knn_log_counts, ridge_log_counts, score_counts
from fedcore.probes.intervals import resamples


def made(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 40, (n, 3))
    mix = np.random.default_rng(9).normal(size=(3, 12))
    return (np.log1p(counts) @ mix * 5 + 2).astype(np.float32), counts


def test_a_linear_relation_is_recovered():
    score = count_regression(*made(200, 0), *made(100, 1))
    assert score.r2_log > 0.999
    assert min(score.r2_log_per_kind) > 0.999
    assert max(score.mae_per_kind) < 0.3
    assert max(map(abs, score.bias_per_kind)) < 0.2
    assert score.r2_log == pytest.approx(np.mean(score.r2_log_per_kind))


def test_features_that_know_nothing_score_about_zero():
    rng = np.random.default_rng(3)
    features = [rng.normal(size=(n, 12)).astype(np.float32) for n in (300, 200)]
    score = count_regression(features[0], made(300, 0)[1], features[1], made(200, 1)[1])
    assert -0.2 < score.r2_log < 0.1
    assert min(score.mae_per_kind) > 5


def test_errors_are_in_objects_per_image_and_signed():
    features = np.zeros((50, 2), np.float32)
    train = np.full((50, 1), 9)
    test = np.array([[5], [9], [9], [19]])
    score = count_regression(features, train, features[:4], test)
    # Without any information the guess is the training mean, 9.
    assert score.mae_per_kind == pytest.approx((3.5,), abs=1e-3)
    assert score.bias_per_kind == pytest.approx((-1.5,), abs=1e-3)
    truth = np.log1p(test[:, 0])
    expected = 1 - ((truth - np.log(10)) ** 2).sum() / ((truth - truth.mean()) ** 2).sum()
    assert score == CountScore(score.r2_log, (score.r2_log,), score.mae_per_kind, score.bias_per_kind)
    assert score.r2_log == pytest.approx(expected, abs=1e-5)


def test_intervals_are_percentiles_of_the_figures_of_repeated_images():
    rng = np.random.default_rng(0)
    counts = rng.integers(0, 9, (30, 2))
    guess = np.log1p(counts) + 0.4 * rng.normal(size=counts.shape)
    estimates = estimate_counts(guess, counts, seed=2)
    by_hand = []
    for row in np.concatenate(list(resamples(30, 2))).astype(int):
        i = np.repeat(np.arange(30), row)
        r2 = r2_score(np.log1p(counts[i]), guess[i], multioutput="raw_values")
        mae = mean_absolute_error(counts[i], np.expm1(guess[i]), multioutput="raw_values")
        by_hand.append([r2.mean(), *r2, *mae, *(np.expm1(guess[i]) - counts[i]).mean(0)])
    tail = norm.cdf(-np.sqrt(30 / 29) * t.ppf(0.975, 29))
    low, high = np.percentile(by_hand, [100 * tail, 100 - 100 * tail], axis=0)
    told = [estimates.r2_log, *estimates.r2_log_per_kind, *estimates.mae_per_kind, *estimates.bias_per_kind]
    assert [e.low for e in told] == pytest.approx(list(low))
    assert [e.high for e in told] == pytest.approx(list(high))
    score = score_counts(guess, counts)
    assert [e.value for e in told] == pytest.approx(
        [score.r2_log, *score.r2_log_per_kind, *score.mae_per_kind, *score.bias_per_kind]
    )


def test_groups_are_resampled_whole():
    counts = np.repeat(np.arange(4), 10)[:, None] * 3
    guess = np.log1p(counts + np.repeat([0, 0, 0, 4], 10)[:, None])
    images, groups = (estimate_counts(guess, counts, 0, g).mae_per_kind[0] for g in (None, np.repeat(np.arange(4), 10)))
    assert images.value == groups.value == pytest.approx(1.0)
    assert groups.high - groups.low > 2 * (images.high - images.low)


def test_a_kind_that_the_test_images_lack_has_r2_0_or_1_as_in_scikit_learn():
    counts = np.stack([np.arange(6), np.zeros(6, int)], 1)
    right, wrong = np.log1p(counts), np.log1p(counts + np.array([0, 1]))
    assert score_counts(right, counts).r2_log_per_kind == pytest.approx((1.0, 1.0))
    assert score_counts(wrong, counts).r2_log_per_kind == pytest.approx((1.0, 0.0))
    assert score_counts(wrong, counts).r2_log == pytest.approx(r2_score(right, wrong))


def test_ridge_and_neighbours_share_one_score():
    train, test = made(200, 0), made(80, 1)
    assert count_regression(*train, *test) == score_counts(ridge_log_counts(*train, test[0]), test[1])
    np.testing.assert_allclose(knn_log_counts(*train, train[0], k=1), np.log1p(train[1]))
