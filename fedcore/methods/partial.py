"""Methods that were made for whole models and work on blocks of neurons too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fedcore.blocks import Block, whole_block
from fedcore.local import LocalRecipe
from fedcore.methods.base import Server
from fedcore.methods.intralayer import IntraLayer
from scenarios.errors import InputError


@dataclass(frozen=True)
class Partial(IntraLayer):
    """Whole models as FedAvg sends them, or blocks as intra-layer parallelism sends them, by one switch.

    It is the base of methods that differ from FedAvg in what happens on the machine or in the merge.

    Attributes:
        partial: a share is the part of every layer that a machine trains, and `context` and `rule` are at work; False:
            shares only say who takes part, and whoever does holds everything.
    """

    partial: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.partial and (self.context, self.rule) != (IntraLayer.context, IntraLayer.rule):
            raise InputError(
                f"{self.name}: context is {self.context} and rule {self.rule!r}, which whole models have no use for; expected "
                "them left out, or partial=True"
            )

    def blocks(self, server: Server, shares: Sequence[float], rng: np.random.Generator) -> list[Block | None]:
        """See `Method.blocks`."""
        if self.partial:
            return super().blocks(server, shares, rng)
        return [whole_block(server.model.neuron_map) if share > 0 else None for share in shares]


def require_plain_sgd(method: str, why: str, recipe: LocalRecipe) -> None:
    """Refuse any optimiser but plain SGD.

    Args:
        method: its name.
        why: what it needs it for, as the end of a sentence.
        recipe: how machines train.

    Raises:
        InputError: AdamW, momentum or weight decay.
    """
    if recipe.optimizer == "sgd" and recipe.sgd_momentum == 0.0 and recipe.weight_decay == 0.0:
        return
    raise InputError(
        f"{method}: optimizer is {recipe.optimizer!r} with sgd_momentum {recipe.sgd_momentum:g} and weight_decay "
        f"{recipe.weight_decay:g}, choose optimizer 'sgd' with both 0, which {why}"
    )
