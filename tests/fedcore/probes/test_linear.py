import warnings

import numpy as np
import pytest

from fedcore.probes import linear_accuracy
from fedcore.probes.linear import linear_guesses


def made(n: int, seed: int):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 6)).astype(np.float32)
    return x * 1000 ** np.linspace(-1, 1, 6, dtype=np.float32), (x[:, 0] + x[:, 5] > 0.8).astype(np.int64)


def test_a_linear_boundary_is_found_whatever_the_features_scales():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert linear_accuracy(*made(400, 0), *made(300, 1)) > 0.95


def test_balanced_accuracy_does_not_reward_the_majority():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(400, 4)).astype(np.float32), (rng.random(400) < 0.1).astype(np.int64)
    plain = linear_accuracy(x[:200], y[:200], x[200:], y[200:])
    balanced = linear_accuracy(x[:200], y[:200], x[200:], y[200:], balanced=True)
    assert plain > 0.8
    assert balanced == pytest.approx(0.5, abs=0.05)


def test_guesses_are_labels_even_where_there_is_one_class():
    x, y = made(60, 0)
    assert set(linear_guesses(x, 3 * y + 2, x)) == {2, 5}
    assert linear_guesses(x, np.full(60, 4), x[:3]).tolist() == [4, 4, 4]
