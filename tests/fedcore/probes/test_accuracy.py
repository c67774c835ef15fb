import numpy as np
import pytest
from sklearn.metrics import accuracy_score, balanced_accuracy_score

from fedcore.probes.accuracy import accuracy_of, weighted_accuracies
from fedcore.probes.intervals import Estimate, resamples

RNG = np.random.default_rng(0)
LABELS = RNG.choice([0, 2, 5], 40, p=(0.7, 0.2, 0.1))
GUESSES = np.where(RNG.random(40) < 0.6, LABELS, RNG.choice([0, 2, 5], 40))


def test_weights_are_the_same_as_repeated_images():
    weights = np.concatenate(list(resamples(40, 1, count=25)))
    got = weighted_accuracies(weights, GUESSES == LABELS, LABELS)
    for row, (plain, balanced) in zip(weights.astype(int), got, strict=True):
        index = np.repeat(np.arange(40), row)
        assert plain == pytest.approx(accuracy_score(LABELS[index], GUESSES[index]))
        by_class = [(GUESSES[index] == c)[LABELS[index] == c].mean() for c in np.unique(LABELS[index])]
        assert balanced == pytest.approx(np.mean(by_class))


def test_both_accuracies_with_intervals():
    accuracy = accuracy_of(GUESSES, LABELS, seed=0)
    assert accuracy.plain.value == pytest.approx(accuracy_score(LABELS, GUESSES))
    assert accuracy.balanced.value == pytest.approx(balanced_accuracy_score(LABELS, GUESSES))
    for estimate in (accuracy.plain, accuracy.balanced):
        assert 0 < estimate.low < estimate.value < estimate.high <= 1
    perfect = accuracy_of(LABELS, LABELS, seed=0)
    assert (perfect.plain.low, perfect.balanced.low) == (1, 1)
    # One group is all there is to draw: no width.
    alone = accuracy_of(GUESSES, LABELS, 0, np.zeros(40, np.int64)).plain
    assert alone.low == alone.high == alone.value


def test_a_rare_class_does_not_come_and_go_in_the_interval_of_balanced_accuracy():
    labels = np.repeat([0, 1, 2], [48, 1, 1])
    majority = accuracy_of(np.zeros(50, dtype=np.int64), labels, 0)
    assert majority.balanced == Estimate(1 / 3, 1 / 3, 1 / 3)
    assert 0.8 < majority.plain.low < majority.plain.value < majority.plain.high <= 1.0
    guesses = np.where(np.arange(50) % 4 == 0, 1, labels)
    mixed = accuracy_of(guesses, labels, 0).balanced
    assert mixed.low < mixed.value < mixed.high
    assert mixed.high < 0.99
