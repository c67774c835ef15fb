"""Importance of neurons: how far their own weights have lately moved, per round in which somebody trained them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from fedcore.blocks import Block
from fedcore.neurons import NeuronMap, State

MEMORY = 0.7
"""Weight of the past in the moving average."""
FLOOR = 0.1
"""Importance that any neuron has at least, as a fraction of its layer's mean, so that the dead are tried again."""


class Importance:
    """Running importance of every neuron, and how long it has rested.

    The score by which `allocation.allocate` orders neurons is (importance + floor) x (1 + rounds rested). Rest is the
    exploration: it grows without bound while importance does not, so that every neuron's turn comes, the oftener the more
    important it is. A neuron that was never trained scores infinity.

    Args:
        neuron_map: the model.
    """

    def __init__(self, neuron_map: NeuronMap) -> None:
        self.moved = {layer.name: np.full(layer.neurons, np.nan) for layer in neuron_map.layers}
        """Layer -> (n_l,) moving average of the norm of the change of a neuron's rows; NaN before its first round."""
        self.rested = {layer.name: np.zeros(layer.neurons, dtype=np.int64) for layer in neuron_map.layers}
        """Layer -> (n_l,) merged rounds since somebody trained the neuron."""

    def scores(self) -> dict[str, NDArray[np.float64]]:
        """Layer -> (n_l,) scores, larger first."""
        scores = {}
        for name, moved in self.moved.items():
            known = moved[~np.isnan(moved)]
            floor = FLOOR * float(known.mean()) if len(known) else 0.0
            # A layer in which nothing moved at all (a rate of 0) still takes turns.
            score = (moved + max(floor, 1e-12)) * (1 + self.rested[name])
            scores[name] = np.where(np.isnan(moved), np.inf, score)
        return scores

    def observe(self, neuron_map: NeuronMap, before: State, after: State, blocks: Sequence[Block]) -> None:
        """Take one merge into account.

        Args:
            neuron_map: the model.
            before: global weights before it.
            after: global weights after it.
            blocks: of the updates that were merged.
        """
        for layer in neuron_map.layers:
            change = torch.zeros(layer.neurons, dtype=torch.float64)
            for p in neuron_map.parameters:
                if p.rows == layer.name:
                    change += (after[p.name] - before[p.name]).double().view(layer.neurons, -1).square().sum(dim=1)
            trained = np.zeros(layer.neurons, dtype=np.bool_)
            for block in blocks:
                trained[block.trained[layer.name].numpy()] = True
            new, old = change.sqrt().numpy(), self.moved[layer.name]
            blended = np.where(np.isnan(old), new, MEMORY * old + (1 - MEMORY) * new)
            self.moved[layer.name] = np.where(trained, blended, old)
            self.rested[layer.name] = np.where(trained, 0, self.rested[layer.name] + 1)
