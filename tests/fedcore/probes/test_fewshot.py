import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit

from fedcore.probes.fewshot import few_shot, over_draws, stratified_draw
from fedcore.probes.intervals import Estimate
from fedcore.probes.linear import linear_accuracy


@settings(max_examples=60, deadline=None)
@given(sizes=st.lists(st.integers(1, 60), min_size=1, max_size=6), fraction=st.floats(0.005, 1.0), seed=st.integers(0, 99))
def test_every_class_gives_its_fraction_and_one_at_least(sizes, fraction, seed):
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)) * 3, sizes))
    chosen = stratified_draw(labels, fraction, np.random.default_rng(seed))
    assert (np.diff(chosen) > 0).all()
    for c, size in enumerate(sizes):
        assert np.count_nonzero(labels[chosen] == 3 * c) == max(1, round(fraction * size))


def clusters(n: int, seed: int, spread: float) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 3
    return (3 * np.eye(4)[labels] + spread * rng.normal(size=(n, 4))).astype(np.float32), labels


def test_all_labels_are_the_linear_probe_and_few_are_worse():
    train, test = clusters(600, 0, 2.5), clusters(300, 1, 2.5)
    whole = few_shot(*train, *test, fraction=1.0, seed=0, draws=2)
    assert whole.accuracy.value == linear_accuracy(*train, *test)
    assert whole.balanced.value == pytest.approx(linear_accuracy(*train, *test, balanced=True))
    few = few_shot(*train, *test, fraction=0.01, seed=0)
    assert (few.images, few.draws, whole.images) == (6, 5, 600)
    assert few.accuracy.value < whole.accuracy.low
    assert few.accuracy.low < few.accuracy.value < few.accuracy.high
    # Which six images were labelled matters more than which were tested.
    assert few.accuracy.high - few.accuracy.low > whole.accuracy.high - whole.accuracy.low


def test_intervals_cover_the_truth_as_often_as_they_say():
    rng, labels = np.random.default_rng(0), np.arange(120) % 4
    # How likely a guess is right hangs on which images were labelled, and on the test image.
    draw, image = rng.normal(0, 0.5, (20_000, 1)), rng.normal(0, 0.3, (20_000, 1))
    truth = expit(1.0 + draw + image).mean()
    covered = []
    for seed in range(200):
        likely = expit(1.0 + rng.normal(0, 0.5, (5, 1)) + rng.normal(0, 0.3, (1, 120)))
        plain, balanced = over_draws(list(rng.random((5, 120)) < likely), labels, seed)
        covered.append((plain.low <= truth <= plain.high, balanced.low <= truth <= balanced.high))
    assert (np.mean(covered, axis=0) > 0.91).all()
    assert (np.mean(covered, axis=0) < 0.99).all()


def test_intervals_stay_between_0_and_1():
    right = np.ones((5, 40), dtype=bool)
    right[0, :12], right[3, :9] = False, False
    plain, _ = over_draws(list(right), np.arange(40) % 2, 0)
    assert plain.value < plain.high == 1.0
    # Two draws that agree on half of 400 images: no wider than half a hundred images' luck.
    same = np.arange(400) % 2 == 0
    alike, _ = over_draws([same, same], np.arange(400) % 4, 0)
    assert alike.high - alike.low == pytest.approx(2 * 1.96 * 0.5 / 20, rel=0.1)
    # Which images were labelled decides all: the mean of five, by Student's t of four degrees of freedom.
    labels = np.zeros(2000, dtype=np.int64)
    parts = [0.4, 0.45, 0.5, 0.55, 0.6]
    spread, _ = over_draws([np.arange(2000) < part * 2000 for part in parts], labels, 1)
    wide = 2 * 2.776 * np.std(parts, ddof=1) / np.sqrt(5)
    assert spread.high - spread.low == pytest.approx(wide, rel=0.25)
    assert over_draws([np.ones(8, dtype=bool)], np.arange(8) % 2, 0)[0] == Estimate(1.0, 1.0, 1.0)


def test_draws_follow_the_seed():
    train, test = clusters(300, 0, 2.5), clusters(90, 1, 2.5)
    one, again, other = (few_shot(*train, *test, fraction=0.01, seed=seed) for seed in (4, 4, 5))
    assert one == again != other


def test_a_single_class_is_guessed_everywhere():
    features = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    test = np.array([7] * 4 + [1] * 6)
    score = few_shot(features, np.full(20, 7), features[:10], test, fraction=0.1, seed=0)
    assert score.accuracy.value == 0.4
    assert score.balanced.value == 0.5


@pytest.mark.parametrize("fraction", [0.0, 1.1])
def test_a_fraction_out_of_range_is_refused(fraction):
    with pytest.raises(ValueError, match=f"fraction is {fraction}"):
        few_shot(*clusters(30, 0, 1.0), *clusters(30, 1, 1.0), fraction=fraction, seed=0)
