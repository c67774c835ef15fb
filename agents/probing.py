"""Downstream quality of an encoder on a labelled or counted set, beside the two references that keep it honest."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from fedcore.data.dataset import Dataset
from fedcore.model import Model
from fedcore.neurons import State
from fedcore.probes import count_regression, extract_features, knn_accuracy, linear_accuracy, raw_pixels
from fedcore.probes.counts import knn_count_r2
from fedcore.probes.features import principal

NEIGHBOURS = 5
LINEAR_LIMIT = 6000


@dataclass(frozen=True)
class Probes:
    """Scores on the held-out images; None where the set has no such labels.

    Attributes:
        knn: accuracy of kNN.
        knn_balanced: mean over classes of the same.
        linear: accuracy of a linear probe; of raw pixels on their first principal components.
        count_r2: R2 of log counts (ridge on features; for raw pixels the better of ridge and kNN).
        count_mae: mean absolute error in objects per image, mean over kinds.
        images: that were held out.
    """

    knn: float | None = None
    knn_balanced: float | None = None
    linear: float | None = None
    count_r2: float | None = None
    count_mae: float | None = None
    images: int | None = None


def _probe(features: NDArray[np.float32], dataset: Dataset, raw: bool = False) -> Probes:
    train, test = ~dataset.test, dataset.test
    knn = balanced = line = r2 = mae = None
    if dataset.labels is not None:
        y = dataset.labels
        arguments = (features[train], y[train], features[test], y[test])
        knn = knn_accuracy(*arguments, k=NEIGHBOURS)
        balanced = knn_accuracy(*arguments, k=NEIGHBOURS, balanced=True)
        some = np.random.default_rng(0).permutation(np.flatnonzero(train))[:LINEAR_LIMIT]
        seen = principal(features, some, 0) if raw else features
        line = linear_accuracy(seen[some], y[some], seen[test], y[test])
    if dataset.counts is not None:
        score = count_regression(features[train], dataset.counts[train], features[test], dataset.counts[test])
        r2, mae = score.r2_log, float(np.mean(score.mae_per_kind))
        if raw:
            r2 = max(r2, knn_count_r2(features[train], dataset.counts[train], features[test], dataset.counts[test]))
    return Probes(knn, balanced, line, r2, mae, int(test.sum()))


def probe_encoder(model: Model, state: State, dataset: Dataset) -> Probes:
    """Scores of an encoder's features."""
    return _probe(extract_features(model, state, dataset.images), dataset)


def probe_untrained(model: Model, seed: int, dataset: Dataset) -> Probes:
    """Scores of the same encoder before training: the same seed's initial weights."""
    return probe_encoder(model, model.init_state(torch.Generator().manual_seed(seed)), dataset)


def probe_raw(dataset: Dataset) -> Probes:
    """Scores of raw pixels, which an encoder must beat to show anything."""
    return _probe(raw_pixels(dataset.images), dataset, raw=True)
