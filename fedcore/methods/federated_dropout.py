"""Federated Dropout (Caldas et al. 2018): every machine trains a random sub-network of fixed size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedcore.methods.width import WidthScaled, width_count
from fedcore.neurons import Layer


@dataclass(frozen=True)
class FederatedDropout(WidthScaled):
    """A random ceil(r_k n) neurons of every hidden layer, drawn anew for every machine and round; draws may overlap.

    What comes back is mapped to its places and averaged as FedAvg does, by n_k. The paper's compression of what is sent is
    left out: it is another matter.

    Attributes:
        scaler: see `WidthScaled`; as dropout divides by the kept fraction.
    """

    name = "federated-dropout"

    scaler: bool = True

    def held(
        self, layer: Layer, rates: Mapping[int, float], round_index: int, rng: np.random.Generator
    ) -> dict[int, NDArray[np.int64]]:
        """See `WidthScaled.held`."""
        return {k: rng.choice(layer.neurons, width_count(rate, layer.neurons), replace=False) for k, rate in rates.items()}
