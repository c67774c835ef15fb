"""FedAvg (McMahan et al. 2017): whole models, sample-weighted mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fedcore.blocks import Block, whole_block
from fedcore.methods.base import Method, Server


@dataclass(frozen=True)
class FedAvg(Method):
    """w <- sum_k n_k / n w_k after H local steps from w on every machine (algorithm 1).

    Shares only say who takes part: whoever does, holds everything. It is the base of the methods that differ from it
    in what happens on the machine or in the merge.
    """

    name = "fedavg"

    def blocks(self, server: Server, shares: Sequence[float], rng: np.random.Generator) -> list[Block | None]:
        """See `Method.blocks`."""
        return [whole_block(server.model.neuron_map) if share > 0 else None for share in shares]
