import numpy as np
import pytest

from fedcore.probes import CountScore, count_regression


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
