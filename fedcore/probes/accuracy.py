"""Accuracy and balanced accuracy of guesses, with intervals."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedcore.probes.intervals import Estimate, percentile_interval, resamples, tail_of


@dataclass(frozen=True)
class Accuracy:
    """How often guesses are right.

    Attributes:
        plain: over all test images.
        balanced: mean over classes of the accuracy within each, for imbalanced sets.
    """

    plain: Estimate
    balanced: Estimate


def weighted_accuracies(
    weights: NDArray[np.float64], right: NDArray[np.bool_], labels: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Plain and balanced accuracy of every resample.

    Args:
        weights: (B, N), see `intervals.resamples`; a class that a resample lacks is left out of its mean. Resampled within
            classes none is lacking, and balanced accuracy is of the same classes in all.
        right: (N,) whether the guess is right.
        labels: (N,).

    Returns:
        (B, 2).
    """
    index = np.unique(labels, return_inverse=True)[1]
    member = np.eye(int(index.max()) + 1)[index]
    size, hits = weights @ member, weights @ (member * right[:, None])
    present = size > 0
    balanced = (hits / np.where(present, size, 1.0)).sum(1) / present.sum(1)
    return np.stack([hits.sum(1) / size.sum(1), balanced], axis=1)


def resampled_accuracies(
    rights: Sequence[NDArray[np.bool_]], labels: NDArray[np.int64], seed: int, group: NDArray[np.int64] | None
) -> NDArray[np.float64]:
    """(D, B, 2) plain and balanced accuracy of D sets of guesses on the same resamples: of groups, or of images, for balanced
    accuracy within classes."""

    def of(draws: Iterable[NDArray[np.float64]]) -> NDArray[np.float64]:
        return np.concatenate([[weighted_accuracies(weights, right, labels) for right in rights] for weights in draws], axis=1)

    every = of(resamples(len(labels), seed, group))
    if group is None:
        every[..., 1] = of(resamples(len(labels), seed, strata=labels))[..., 1]
    return every


def accuracy_of(
    guesses: NDArray[np.int64], labels: NDArray[np.int64], seed: int, group: NDArray[np.int64] | None = None
) -> Accuracy:
    """Accuracy with intervals.

    Args:
        guesses: (N,).
        labels: (N,).
        seed: of the bootstrap.
        group: (N,) unit that is resampled; None: images.
    """
    right = guesses == labels
    values = weighted_accuracies(np.ones((1, len(labels))), right, labels)[0]
    [samples] = resampled_accuracies([right], labels, seed, group)
    tail = tail_of(len(labels) if group is None else len(np.unique(group)))
    return Accuracy(*(percentile_interval(value, column, tail) for value, column in zip(values, samples.T, strict=True)))
