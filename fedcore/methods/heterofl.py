"""HeteroFL (Diao et al. 2021): weak machines train the first channels of every layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from fedcore.methods.width import WidthScaled, width_count
from fedcore.neurons import Layer


@dataclass(frozen=True)
class HeteroFL(WidthScaled):
    """Machine k trains W[: ceil(r_k out), : ceil(r_k in)] of every hidden layer (section 3.1, equation 1).

    Every entry becomes the plain mean over the machines that hold it, whatever their n_k (equation 2); entries that
    nobody holds keep their value. The paper's static batch norm is not needed here: encoders use group or layer norm, and
    heads batch norm without running statistics. Its masked loss is for labels, which there are none of.

    Attributes:
        scaler: see `WidthScaled`; the paper's Scaler.
    """

    name = "heterofl"
    count_averaged: ClassVar[bool] = True

    scaler: bool = True

    def held(
        self, layer: Layer, rates: Mapping[int, float], round_index: int, rng: np.random.Generator
    ) -> dict[int, NDArray[np.int64]]:
        """See `WidthScaled.held`."""
        return {k: np.arange(width_count(rate, layer.neurons)) for k, rate in rates.items()}
