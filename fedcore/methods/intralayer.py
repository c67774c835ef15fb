"""Intra-layer parallelism: every machine trains a share of every layer's neurons in the context of the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fedcore.allocation import RULES, allocate
from fedcore.blocks import Block
from fedcore.methods.base import Method, Server
from scenarios.errors import InputError


@dataclass(frozen=True)
class IntraLayer(Method):
    """Blocks of neurons, trained at once and merged (DESIGN section 3).

    Context 1 is `cooperative`, the thesis's proposal; context 0 is `subnet`, Independent Subnet Training (Yuan et al.
    2019) with unequal blocks. With every share 1 it is FedAvg, bit for bit.

    Attributes:
        context: fraction in [0, 1] of the other neurons that every machine sees, frozen.
        rule: how S is drawn every round, a name in `allocation.RULES`.
    """

    name = "intralayer"

    context: float = 1.0
    rule: str = "random"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 <= self.context <= 1.0:
            raise InputError(f"context is {self.context}, expected a fraction from 0 to 1")
        if self.rule not in RULES:
            raise InputError(f"selection is {self.rule!r}, expected one of {', '.join(sorted(RULES))}")

    def blocks(self, server: Server, shares: Sequence[float], rng: np.random.Generator) -> list[Block | None]:
        """See `Method.blocks`."""
        return allocate(server.model.neuron_map, shares, self.context, self.rule, server.round_index, rng)
