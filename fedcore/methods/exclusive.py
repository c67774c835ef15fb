"""Exclusive learning: FedAvg among the machines that can hold the whole model; the weak ones are left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fedcore.blocks import Block, whole_block
from fedcore.methods.base import Server
from fedcore.methods.fedavg import FedAvg
from scenarios.errors import InputError


@dataclass(frozen=True)
class Exclusive(FedAvg):
    """Shares are capacities: machines of share 1 train whole models as in `FedAvg`, all others are dropped.

    The control that width-scaling methods must beat: DepthFL (Kim et al. 2023) found it ahead of HeteroFL.
    """

    name = "exclusive"

    def blocks(self, server: Server, shares: Sequence[float], rng: np.random.Generator) -> list[Block | None]:
        """See `Method.blocks`.

        Raises:
            InputError: machines take part, but none of them holds the whole model.
        """
        largest = max(shares, default=0.0)
        if 0.0 < largest < 1.0:
            raise InputError(
                f"exclusive: the largest share is {largest:g}, expected 1 for at least one machine that can hold the whole "
                "model, or method heterofl"
            )
        return [whole_block(server.model.neuron_map) if share >= 1.0 else None for share in shares]
