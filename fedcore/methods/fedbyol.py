"""FedBYOL: BYOL's online networks are averaged, every machine keeps a momentum target of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from fedcore.blocks import Block
from fedcore.costs import BYTES_PER_WEIGHT
from fedcore.local import LocalRecipe, LocalResult, LocalTask, train_block
from fedcore.merge import Update
from fedcore.methods.base import RoundCost, Server
from fedcore.methods.partial import Partial
from fedcore.model import Model
from fedcore.neurons import State
from fedcore.samples import Samples
from fedcore.slices import entries, trained_slice, write_visible
from scenarios.errors import InputError


@dataclass(frozen=True)
class FedBYOL(Partial):
    """Online encoder (with projector) and predictor are merged and broadcast; the target network never travels.

    In the paper's symbols: online weights theta of every machine are averaged, xi_k <- tau xi_k + (1 - tau) theta_k is machine
    k's own target, and tau is the objective's `target_momentum`. A machine's target starts as a copy of the online weights that
    it is first sent, moves after every local step, whatever
    the recipe says of moving targets, and stays on the machine between rounds. The server has none. It is the base of
    FedU and FedEMA (Zhuang et al. 2021, 2022), which keep more of the local model.
    """

    name = "fedbyol"

    def check(self, model: Model, recipe: LocalRecipe) -> None:
        """See `Method.check`."""
        super().check(model, recipe)
        objective = model.objective
        if objective.target_momentum is None or not objective.online_only:
            raise InputError(
                f"{self.name}: objective is {type(objective).__name__}, which lacks a momentum target with a predictor "
                "before it, choose objective 'byol' or method 'fedavg'"
            )

    def start(self, server: Server) -> None:
        """See `Method.start`."""
        super().start(server)
        server.target = None

    def remembered(self, server: Server, machine: int) -> dict[str, State]:
        """What a machine still goes by of what it kept."""
        return server.kept[machine]

    def task(self, server: Server, machine: int, block: Block, steps: int) -> LocalTask:
        """See `Method.task`: what the machine keeps is on it already."""
        own = dict(self.remembered(server, machine))
        own.setdefault("target", {name: server.state[name] for name in sorted(server.model.target_parameters)})
        return replace(super().task(server, machine, block, steps), extra=own)

    def begin(self, model: Model, state: State, task: LocalTask) -> State:
        """The whole weights that local training starts from.

        Args:
            model: encoder and objective.
            state: global weights as sent.
            task: with what the machine kept in `extra`.
        """
        return state

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
        task = replace(task, start=self.begin(model, state, task), target=task.extra["target"])
        return train_block(model, state, None, task, samples, replace(recipe, moving_target=True), generator)

    def keep(self, server: Server, task: LocalTask, result: LocalResult) -> dict[str, State]:
        """What a machine keeps after a round; called before `server.state` moves."""
        moved = write_visible(task.extra["target"], server.model.neuron_map, task.block, result.extra["target"])
        return {"target": moved}

    def merge(
        self, server: Server, tasks: Sequence[LocalTask], results: Sequence[LocalResult], updates: Sequence[Update]
    ) -> None:
        """See `Method.merge`."""
        for task, result in zip(tasks, results, strict=True):
            server.kept[task.machine] = self.keep(server, task, result)
        super().merge(server, tasks, results, updates)

    def cost(self, server: Server, machine: int, block: Block, steps: int, recipe: LocalRecipe) -> RoundCost:
        """See `Method.cost`: the target does not travel; it fills memory as it does elsewhere."""
        cost = super().cost(server, machine, block, steps, recipe)
        own = entries(server.model.neuron_map, block, server.model.target_parameters, visible=True)
        return replace(cost, download_bytes=cost.download_bytes - BYTES_PER_WEIGHT * own)


def encoder_weights(model: Model) -> frozenset[str]:
    """Names of the encoder's weight tensors; biases and norm parameters are none."""
    return frozenset(p.name for p in model.encoder.neuron_map.parameters if len(p.shape) > 1)


def divergence(model: Model, block: Block, state: State, result: LocalResult) -> float:
    """How far local training led from an encoder: mean over its layers of the Euclidean norm of the difference.

    Args:
        model: encoder and objective.
        block: what was trained; norms are over its entries.
        state: weights that it is measured from.
        result: of its training.
    """
    names = encoder_weights(model) & set(result.trained)
    start = trained_slice({name: state[name] for name in names}, model.neuron_map, block)
    norms = [float((result.trained[name] - start[name]).norm()) for name in sorted(names)]
    return sum(norms) / len(norms)
