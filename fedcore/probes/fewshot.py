"""Few-shot linear probe: what the features give a lab that has labelled 1 % or 10 % of its training images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedcore.probes.accuracy import weighted_accuracies
from fedcore.probes.intervals import Estimate, percentile_interval, resamples
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

    The interval is the percentile bootstrap over two factors at once, draws and test units (Owen 2007).

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

    def per_draw(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.stack([weighted_accuracies(weights, r, test_labels) for r in right])

    value = per_draw(np.ones((1, len(test_labels)))).mean(0)[0]
    tests = np.concatenate([per_draw(weights) for weights in resamples(len(test_labels), seed, group)], axis=1)
    again = np.concatenate(list(resamples(draws, seed + 1))) / draws
    middle = tests.mean(0)
    # A resample of few draws spreads too little, by (draws - 1) / draws.
    widen = np.sqrt(draws / (draws - 1)) if draws > 1 else 1.0
    samples = middle + widen * (np.einsum("dbs,bd->bs", tests, again) - middle)
    return FewShot(
        fraction,
        len(chosen[0]),
        draws,
        percentile_interval(value[0], samples[:, 0]),
        percentile_interval(value[1], samples[:, 1]),
    )
