"""FedProx (Li et al. 2020): local training is held near the global weights."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fedcore.blocks import Block, Weights
from fedcore.costs import BYTES_PER_WEIGHT
from fedcore.local import Hooks, LocalRecipe, LocalResult, LocalTask, train_block
from fedcore.methods.base import RoundCost, Server
from fedcore.methods.partial import Partial
from fedcore.model import Model
from fedcore.neurons import State
from fedcore.samples import Samples
from fedcore.slices import entries
from scenarios.errors import InputError


@dataclass(frozen=True)
class FedProx(Partial):
    """Every machine minimises F_k(w) + mu / 2 ||w - w_t||^2 from w_t (algorithm 2): mu (w - w_t) joins each gradient.

    The paper's other half, that slow machines return what they managed instead of being dropped, is left out: H is the same
    for all machines of a round, and who is late is lost. With mu 0 it is FedAvg, bit for bit. No mu suits all problems (the
    authors search 0.001 to 1), and for self-supervision LW-FedSSL found that the term costs accuracy.

    Attributes:
        mu: weight of the proximal term.
    """

    name = "fedprox"

    mu: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 <= self.mu < float("inf"):
            raise InputError(f"fedprox: mu is {self.mu}, expected a finite number of at least 0")

    def train(
        self,
        model: Model,
        state: State,
        target: State | None,
        task: LocalTask,
        samples: Samples,
        recipe: LocalRecipe,
        generator: torch.Generator,
    ) -> LocalResult:
        """See `Method.train`."""
        hooks = Hooks(gradient=self._pull) if self.mu > 0.0 else Hooks()
        return train_block(model, state, target, task, samples, recipe, generator, hooks)

    def _pull(self, weights: Weights, start: dict[str, Tensor]) -> None:
        for name, weight in weights.trained.items():
            assert weight.grad is not None
            weight.grad.add_(weight.detach() - start[name], alpha=self.mu)

    def cost(self, server: Server, machine: int, block: Block, steps: int, recipe: LocalRecipe) -> RoundCost:
        """See `Method.cost`: the trained weights of w_t stay in memory; the term itself is no matrix product."""
        cost = super().cost(server, machine, block, steps, recipe)
        anchor = BYTES_PER_WEIGHT * entries(server.model.neuron_map, block) if self.mu > 0.0 else 0
        return replace(cost, memory_bytes=cost.memory_bytes + anchor)
