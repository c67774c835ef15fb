"""Few-shot linear probe: what the features give a lab that has labelled 1 % or 10 % of its training images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedcore.probes.accuracy import resampled_accuracies, weighted_accuracies
from fedcore.probes.intervals import Estimate, percentile_interval
from fedcore.probes.linear import linear_guesses

FRACTIONS = (0.01, 0.1)
DRAWS = 5


@dataclass(frozen=True)
class FewShot:
    """Accuracy from a few labels.

    Attributes:
        fraction: of the training labels, as asked for.
        images: labelled images used; more than the fraction where every class needs its one.
        draws: independent draws of them, over which both figures are means.
        accuracy: over all test images. The intervals cover both the draw of the labels and that of the test images.
        balanced: mean over classes.
    """

    fraction: float
    images: int
    draws: int
    accuracy: Estimate
    balanced: Estimate


def stratified_draw(labels: NDArray[np.int64], fraction: float, rng: np.random.Generator) -> NDArray[np.int64]:
    """Sorted indices of a random `fraction` of every class, rounded, at least one of each.

    Args:
        labels: (N,).
        fraction: in (0, 1].
        rng: every draw comes from it.
    """
    parts = []
    for c in np.unique(labels):
        own = np.flatnonzero(labels == c)
        parts.append(rng.permutation(own)[: max(1, round(fraction * len(own)))])
    return np.sort(np.concatenate(parts))


def few_shot(
    train_features: NDArray[np.float32],
    train_labels: NDArray[np.int64],
    test_features: NDArray[np.float32],
    test_labels: NDArray[np.int64],
    fraction: float,
    seed: int,
    draws: int = DRAWS,
    group: NDArray[np.int64] | None = None,
) -> FewShot:
    """Linear probe on a stratified fraction of the labels.

    Args:
        train_features: (N, D).
        train_labels: (N,).
        test_features: (M, D).
        test_labels: (M,).
        fraction: of the training labels, in (0, 1].
        seed: of the draws and the bootstrap.
        draws: how many.
        group: (M,) unit of the test images that is resampled; None: images.

    Raises:
        ValueError: the fraction is not in (0, 1].
    """
    if not 0.0 < fraction <= 1.0:
        raise ValueError(f"fraction is {fraction}, expected a number above 0 and at most 1")
    rng = np.random.default_rng(seed)
    chosen = [stratified_draw(train_labels, fraction, rng) for _ in range(draws)]
    right = [linear_guesses(train_features[i], train_labels[i], test_features) == test_labels for i in chosen]
    return FewShot(fraction, len(chosen[0]), draws, *over_draws(right, test_labels, seed, group))


def over_draws(
    right: Sequence[NDArray[np.bool_]], labels: NDArray[np.int64], seed: int, group: NDArray[np.int64] | None = None
) -> tuple[Estimate, Estimate]:
    """Plain and balanced accuracy, means over draws, with intervals that cover the draws and the test units.

    The bootstrap over test units, widened where their n are few by n / (n - 1), and beside it a normal spread of the mean
    over draws, which are too few to be resampled. How wide either is is known no better than from its n - 1 degrees of freedom,
    which makes both Student's t of those (the Behrens-Fisher problem; Fisher 1935).

    Args:
        right: per draw (M,), whether its guesses are right.
        labels: (M,) of the test images.
        seed: of the bootstrap.
        group: (M,) unit of the test images that is resampled; None: images.
    """
    draws, units = len(right), len(labels) if group is None else len(np.unique(group))
    values = np.concatenate([weighted_accuracies(np.ones((1, len(labels))), r, labels) for r in right])
    value = values.mean(0)
    samples = resampled_accuracies(right, labels, seed, group).mean(0)
    rng = np.random.default_rng([seed, 1])
    if units > 1:
        wider = np.sqrt(units / rng.chisquare(units - 1, (len(samples), 1)))
        samples = value + wider * (samples - value)
    if draws > 1:
        samples += np.sqrt(values.var(0, ddof=1) / draws) * rng.standard_t(draws - 1, (len(samples), 1))
    plain, balanced = np.clip(samples, 0.0, 1.0).T
    return percentile_interval(value[0], plain), percentile_interval(value[1], balanced)
