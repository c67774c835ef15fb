"""Downstream quality of an encoder on a labelled or counted set, beside the two references that keep it honest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fedcore.data.dataset import Dataset
from fedcore.model import Model
from fedcore.neurons import State
from fedcore.probes import extract_features, raw_pixels
from fedcore.probes.accuracy import accuracy_of
from fedcore.probes.counts import estimate_counts, estimate_mae, knn_log_counts, ridge_log_counts
from fedcore.probes.features import principal
from fedcore.probes.intervals import Estimate
from fedcore.probes.knn import knn_guesses
from fedcore.probes.linear import linear_guesses
from fedcore.probes.report import LINEAR_LIMIT, resampled_groups

NEIGHBOURS = 5


@dataclass(frozen=True)
class Probes:
    """Scores on the held-out images with 95 % intervals over them, over groups where they are of several; None where the set
    has no such labels.

    Attributes:
        knn: accuracy of kNN.
        knn_balanced: mean over classes of the same.
        linear: accuracy of a linear probe; of raw pixels on their first principal components.
        count_r2: R2 of log counts (ridge on features; for raw pixels the better of ridge and kNN).
        count_mae: mean absolute error in objects per image, mean over kinds.
        images: that were held out.
        groups: that intervals resample; None where they resample images.
    """

    knn: Estimate | None = None
    knn_balanced: Estimate | None = None
    linear: Estimate | None = None
    count_r2: Estimate | None = None
    count_mae: Estimate | None = None
    images: int | None = None
    groups: int | None = None

    @staticmethod
    def from_dict(content: dict[str, Any]) -> Probes:
        """From JSON."""
        scores: dict[str, Any] = {name: Estimate(**v) if isinstance(v, dict) else v for name, v in content.items()}
        return Probes(**scores)


def _probe(features: NDArray[np.float32], dataset: Dataset, raw: bool = False) -> Probes:
    train, test, groups = ~dataset.test, dataset.test, resampled_groups(dataset)
    scores: dict[str, Any] = {}
    if dataset.labels is not None:
        y = dataset.labels
        nearest = accuracy_of(knn_guesses(features[train], y[train], features[test], k=NEIGHBOURS), y[test], 0, groups)
        some = np.random.default_rng(0).permutation(np.flatnonzero(train))[:LINEAR_LIMIT]
        seen = principal(features, some, 0) if raw else features
        linear = accuracy_of(linear_guesses(seen[some], y[some], seen[test]), y[test], 0, groups)
        scores |= {"knn": nearest.plain, "knn_balanced": nearest.balanced, "linear": linear.plain}
    if dataset.counts is not None:
        known, truth = (features[train], dataset.counts[train], features[test]), dataset.counts[test]
        guess = ridge_log_counts(*known)
        r2 = [estimate_counts(g, truth, 0, groups).r2_log for g in (guess, *([knn_log_counts(*known)] if raw else []))]
        scores |= {"count_r2": max(r2, key=lambda e: e.value), "count_mae": estimate_mae(guess, truth, 0, groups)}
    return Probes(**scores, images=int(test.sum()), groups=None if groups is None else len(np.unique(groups)))


def probe_encoder(model: Model, state: State, dataset: Dataset) -> Probes:
    """Scores of an encoder's features."""
    return _probe(extract_features(model, state, dataset.images), dataset)


def probe_untrained(model: Model, seed: int, dataset: Dataset) -> Probes:
    """Scores of the same encoder before training: the same seed's initial weights."""
    return probe_encoder(model, model.init_state(torch.Generator().manual_seed(seed)), dataset)


def probe_raw(dataset: Dataset) -> Probes:
    """Scores of raw pixels, which an encoder must beat to show anything."""
    return _probe(raw_pixels(dataset.images), dataset, raw=True)
