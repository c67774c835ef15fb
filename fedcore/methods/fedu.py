"""FedU (Zhuang et al. 2021): a machine whose encoder moved far keeps its own predictor."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from fedcore.blocks import Block
from fedcore.costs import BYTES_PER_WEIGHT
from fedcore.local import LocalRecipe, LocalResult, LocalTask
from fedcore.methods.base import RoundCost, Server
from fedcore.methods.fedbyol import FedBYOL, divergence, encoder_weights
from fedcore.model import Model
from fedcore.neurons import State
from fedcore.samples import Samples
from fedcore.slices import entries, own_or, untrained, write_trained
from scenarios.errors import InputError


@dataclass(frozen=True)
class FedU(FedBYOL):
    """FedBYOL with divergence-aware predictor update (DAPU).

    The online encoder is always the global one. The predictor is the global one where the machine's last training led its
    encoder less than mu away from it (`fedbyol.divergence`), and the machine's own otherwise. On blocks, a machine has a
    predictor of its own for the entries that it has ever trained.

    Attributes:
        mu: threshold; it is a length in weight space, so it depends on encoder, learning rate and H.
    """

    name = "fedu"

    mu: float = 0.4

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.mu >= 0.0:  # an endless one is FedBYOL
            raise InputError(f"fedu: mu is {self.mu}, expected a number of at least 0")

    def begin(self, model: Model, state: State, task: LocalTask) -> State:
        """See `FedBYOL.begin`."""
        if "predictor" not in task.extra or float(task.extra["divergence"]["d"]) < self.mu:
            return state
        return own_or(task.extra["predictor"], state)

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
        result = super().train(model, state, target, task, samples, recipe, generator)
        d = torch.tensor(divergence(model, task.block, state, result))
        return replace(result, extra=result.extra | {"divergence": {"d": d}})

    def keep(self, server: Server, task: LocalTask, result: LocalResult) -> dict[str, State]:
        """See `FedBYOL.keep`."""
        names = server.model.objective.online_only
        old = task.extra.get("predictor", untrained(server.state, names))
        predictor = write_trained(old, server.model.neuron_map, task.block, result.trained)
        return super().keep(server, task, result) | {"predictor": predictor, "divergence": result.extra["divergence"]}

    def cost(self, server: Server, machine: int, block: Block, steps: int, recipe: LocalRecipe) -> RoundCost:
        """See `Method.cost`: the encoder weights that it was sent stay in memory, for the divergence."""
        cost = super().cost(server, machine, block, steps, recipe)
        sent = BYTES_PER_WEIGHT * entries(server.model.neuron_map, block, encoder_weights(server.model))
        return replace(cost, memory_bytes=cost.memory_bytes + sent)
