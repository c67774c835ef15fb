"""What width-scaling methods share: narrow sub-networks that see nothing beyond what they train (context 0)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from fedcore.allocation import refuse_slivers
from fedcore.blocks import Block
from fedcore.local import LocalResult, LocalTask
from fedcore.merge import Update
from fedcore.methods.base import Method, Server
from fedcore.neurons import Layer


def width_count(rate: float, neurons: int) -> int:
    """m = ceil(r n), at least 1; a rate that is a fraction of n up to rounding does not gain a neuron by it."""
    return max(1, min(neurons, ceil(rate * neurons - 1e-9)))


@dataclass(frozen=True)
class WidthScaled(Method):
    """Shares are width rates r_k; a rule of the method's own says which neurons of every hidden layer they stand for.

    Layers that are always visible (outputs of heads, residual streams) keep their full width, as inputs and outputs do in
    the papers: every machine trains all their rows over the columns that it holds. Heads of an attention are neurons like
    any others, so narrow machines hold fewer heads (HeteroFL narrows every head instead).

    Attributes:
        scaler: divide the activations of a narrowed layer by the fraction of it that is held while training, so that what
            reads it meets the same scale as in the whole network, which is used undivided (HeteroFL's Scaler).
    """

    count_averaged: ClassVar[bool] = False
    """Whether every machine weighs the same in the merge, however many samples it has."""

    scaler: bool = False

    @abstractmethod
    def held(
        self, layer: Layer, rates: Mapping[int, float], round_index: int, rng: np.random.Generator
    ) -> dict[int, NDArray[np.int64]]:
        """Which neurons of one hidden layer everyone holds.

        Args:
            layer: not an always-visible one.
            rates: machine -> r_k above 0, of those that take part.
            round_index: rounds played.
            rng: every draw comes from it.

        Returns:
            Machine -> indices, in any order.
        """

    def blocks(self, server: Server, shares: Sequence[float], rng: np.random.Generator) -> list[Block | None]:
        """See `Method.blocks`.

        Raises:
            InputError: a share above 0 is below one neuron even of the widest layer.
        """
        refuse_slivers(server.model.neuron_map, server.machine_names, shares)
        rates = {k: float(share) for k, share in enumerate(shares) if share > 0}
        blocks = {k: Block({}, {}) for k in rates}
        for layer in server.model.neuron_map.layers:
            everything = {k: np.arange(layer.neurons) for k in rates}
            held = everything if layer.always_visible else self.held(layer, rates, server.round_index, rng)
            for k, block in blocks.items():
                block.trained[layer.name] = torch.from_numpy(np.sort(held[k]))
                block.context[layer.name] = torch.arange(0)
                if self.scaler and len(held[k]) < layer.neurons:
                    block.scale[layer.name] = layer.neurons / len(held[k])
        return [blocks.get(k) for k in range(len(shares))]

    def merge(
        self, server: Server, tasks: Sequence[LocalTask], results: Sequence[LocalResult], updates: Sequence[Update]
    ) -> None:
        """See `Method.merge`."""
        if self.count_averaged:
            updates = [replace(update, weight=1.0) for update in updates]
        super().merge(server, tasks, results, updates)
