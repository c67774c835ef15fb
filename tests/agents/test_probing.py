"""What encoders are judged by, and what they are judged beside."""

import json
from dataclasses import asdict

import numpy as np
import pytest

from agents.probing import Probes, probe_raw
from fedcore.data.dataset import Dataset
from fedcore.probes.counts import knn_log_counts, ridge_log_counts, score_counts
from fedcore.probes.features import raw_pixels
from fedcore.probes.intervals import Estimate


def test_raw_pixels_have_a_linear_probe_on_their_principal_components() -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(120) % 2
    images = rng.integers(0, 120, (120, 16, 16, 1)).astype(np.uint8)
    images[labels == 1, :8] += 100  # a class is bright on top
    test = np.arange(120) >= 80
    told = probe_raw(Dataset("made", images, np.zeros(120, dtype=np.int64), test, labels=labels, classes=("a", "b")))
    assert told.linear == Estimate(1.0, 1.0, 1.0)
    assert told.images == 40
    assert told.count_r2 is None


def test_counts_are_guessed_by_the_better_of_ridge_and_neighbours_and_intervals_go_by_groups() -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (120, 8, 8, 1)).astype(np.uint8)
    counts = np.stack([images[:, 0, 0, 0] // 8, rng.integers(0, 9, 120)], axis=1).astype(np.int64)
    group = np.arange(120) // 8  # the last forty images are five groups
    sites = tuple(map(str, range(15)))
    data = Dataset("made", images, group, np.arange(120) >= 80, counts=counts, kinds=("a", "b"), group_names=sites)
    told, pixels = probe_raw(data), raw_pixels(images)
    assert told.groups == 5
    guesses = [f(pixels[:80], counts[:80], pixels[80:]) for f in (ridge_log_counts, knn_log_counts)]
    assert told.count_r2 is not None
    assert told.count_r2.value == pytest.approx(max(score_counts(g, counts[80:]).r2_log for g in guesses))
    assert told.count_mae is not None
    assert told.count_mae.value == pytest.approx(np.mean(score_counts(guesses[0], counts[80:]).mae_per_kind))
    assert told.count_mae.low < told.count_mae.value < told.count_mae.high
    assert Probes.from_dict(json.loads(json.dumps(asdict(told)))) == told
