"""FedEMA (Zhuang et al. 2022): a machine's online network moves towards the global one, less the further they diverge."""

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
class FedEMA(FedBYOL):
    """theta_k <- mu theta_k + (1 - mu) theta_g with mu = min(lambda_k d_k, 1), for online encoder and predictor.

    d_k is how far the machine's last training led from the mixed encoder that it started from (`fedbyol.divergence`).
    lambda_k = tau / d_k is fixed at its first training, so that every machine starts with mu = tau (the autoscaler). The
    target stays local. A machine that did not train in the previous round takes online and target weights from the global
    model, as in the authors' code, and keeps lambda_k. On blocks, the entries that it trained in that round are mixed; the
    others are the global ones.

    Attributes:
        tau: mu at the start; 0 is FedBYOL while nobody sits a round out (whoever did starts from the global target here).
    """

    name = "fedema"

    tau: float = 0.7

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 <= self.tau <= 1.0:
            raise InputError(f"fedema: tau is {self.tau}, expected a number from 0 to 1")

    def remembered(self, server: Server, machine: int) -> dict[str, State]:
        """See `FedBYOL.remembered`."""
        kept = server.kept[machine]
        if kept and int(kept["divergence"]["round"]) != server.round_index - 1:
            return {"divergence": kept["divergence"]}
        return kept

    def begin(self, model: Model, state: State, task: LocalTask) -> State:
        """See `FedBYOL.begin`."""
        if "online" not in task.extra:
            return state
        own = own_or(task.extra["online"], state)
        mu = mixing(task.extra["divergence"])
        return state | {name: torch.lerp(state[name], own[name], mu) for name in task.extra["online"]}

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
        # From the mixed weights, as the authors' code: from the global ones mu would feed on itself.
        d = torch.tensor(divergence(model, task.block, self.begin(model, state, task), result))
        known = task.extra.get("divergence", {})
        # A machine that did not move at all has no scale yet.
        scale = {"lambda": known["lambda"]} if "lambda" in known else {"lambda": self.tau / d} if d > 0 else {}
        return replace(result, extra=result.extra | {"divergence": {"d": d, **scale}})

    def keep(self, server: Server, task: LocalTask, result: LocalResult) -> dict[str, State]:
        """See `FedBYOL.keep`."""
        names = {p.name for p in server.model.neuron_map.parameters}
        online = write_trained(untrained(server.state, names), server.model.neuron_map, task.block, result.trained)
        when = {"round": torch.tensor(server.round_index)}
        return super().keep(server, task, result) | {"online": online, "divergence": result.extra["divergence"] | when}

    def cost(self, server: Server, machine: int, block: Block, steps: int, recipe: LocalRecipe) -> RoundCost:
        """See `Method.cost`: the encoder weights that training starts from stay in memory, for the divergence; the local
        online weights that it keeps between rounds are those that it trains in."""
        cost = super().cost(server, machine, block, steps, recipe)
        start = BYTES_PER_WEIGHT * entries(server.model.neuron_map, block, encoder_weights(server.model))
        return replace(cost, memory_bytes=cost.memory_bytes + start)


def mixing(kept: State) -> float:
    """mu = min(lambda d, 1), the part of a machine's own weights; 0 where it has not moved yet.

    Args:
        kept: its "divergence".
    """
    return min(1.0, float(kept["lambda"] * kept["d"])) if "lambda" in kept else 0.0
