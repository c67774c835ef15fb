"""FedRolex (Alam et al. 2022): HeteroFL with a window that rolls over every layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from fedcore.methods.width import WidthScaled, width_count
from fedcore.neurons import Layer


@dataclass(frozen=True)
class FedRolex(WidthScaled):
    """In round j machine k trains the ceil(r_k n) neurons from j mod n on, wrapping at the end (equation 2).

    All machines start at the same neuron, and the window moves on by one neuron per round, so that all neurons are trained
    equally often in the end. Entries are averaged as in `HeteroFL` (the authors' default weighting, for all parameters).

    Attributes:
        scaler: see `WidthScaled`; the authors build on HeteroFL's.
    """

    name = "fedrolex"
    count_averaged: ClassVar[bool] = True

    scaler: bool = True

    def held(
        self, layer: Layer, rates: Mapping[int, float], round_index: int, rng: np.random.Generator
    ) -> dict[int, NDArray[np.int64]]:
        """See `WidthScaled.held`."""
        n = layer.neurons
        return {k: (round_index + np.arange(width_count(rate, n))) % n for k, rate in rates.items()}
