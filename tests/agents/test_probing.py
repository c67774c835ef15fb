"""What encoders are judged by, and what they are judged beside."""

import numpy as np

from agents.probing import probe_raw
from fedcore.data.dataset import Dataset


def test_raw_pixels_have_a_linear_probe_on_their_principal_components() -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(120) % 2
    images = rng.integers(0, 120, (120, 16, 16, 1)).astype(np.uint8)
    images[labels == 1, :8] += 100  # a class is bright on top
    test = np.arange(120) >= 80
    told = probe_raw(Dataset("made", images, np.zeros(120, dtype=np.int64), test, labels=labels, classes=("a", "b")))
    assert told.linear == 1.0
    assert told.images == 40
    assert told.count_r2 is None
