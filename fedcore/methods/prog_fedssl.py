"""Prog-FedSSL (Tun et al. 2024): the encoder grows stage by stage, and all of what is there trains."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from fedcore.blocks import Block
from fedcore.costs import cost_of_block
from fedcore.local import LocalRecipe, LocalResult, LocalTask, seeded, train_block
from fedcore.methods.base import RoundCost, Server
from fedcore.methods.fedavg import FedAvg
from fedcore.model import Model
from fedcore.neurons import State
from fedcore.samples import Samples
from scenarios.errors import InputError


@dataclass(frozen=True)
class ProgFedSSL(FedAvg):
    """In stage s = 1 .. S the model is F_s, the first s stages of the encoder, under heads H and P; after R_s rounds the
    next stage is attached, with the weights that it was drawn with at the start. Then FedAvg on what is there. After the
    last stage, training goes on with the whole encoder.

    Heads are kept from stage to stage where all of them still fit; where the width of the features changes, all of them
    are drawn anew, since a trained rest behind a fresh first layer means nothing.

    A momentum target is a copy of the online weights at the start of every round and follows them on the machine, so that
    it never travels (the paper's target branch).

    Attributes:
        rounds_per_stage: R_s.
    """

    name = "prog-fedssl"

    rounds_per_stage: int = 15

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rounds_per_stage < 1:
            raise InputError(f"{self.name}: rounds_per_stage is {self.rounds_per_stage}, expected at least 1")

    def check(self, model: Model, recipe: LocalRecipe) -> None:
        """See `Method.check`."""
        if model.objective_for is None:
            raise InputError(f"{self.name}: the model's heads cannot be rebuilt for every stage; make it with build_model")

    def start(self, server: Server) -> None:
        """See `Method.start`."""
        server.memory["whole"] = server.model
        server.memory["depth"] = 0
        self.begin_round(server)

    def begin_round(self, server: Server) -> None:
        """See `Method.begin_round`: attach the next stage where it is time. `server.state` holds the weights of later
        stages from the start."""
        whole: Model = server.memory["whole"]
        depth = min(server.round_index // self.rounds_per_stage + 1, len(whole.encoder.stages))
        if depth == server.memory["depth"]:
            return
        server.memory["depth"] = depth
        server.model = whole.prefix(depth)
        heads = server.model.objective.heads.parameters
        if any(server.state[p.name].shape != p.shape for p in heads):
            server.state = server.state | server.model.objective.init_state(seeded((server.seed, 4, depth)))
        server.target = server.model.target_of(server.state)

    def cost(self, server: Server, machine: int, block: Block, steps: int, recipe: LocalRecipe) -> RoundCost:
        """See `Method.cost`: what trains goes both ways, the target does not travel."""
        batch = recipe.batch_of(server.samples[machine])
        cost = cost_of_block(server.model, block, batch, recipe.optimizer_copies)
        return replace(RoundCost.of(cost), download_bytes=cost.upload_bytes)

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
        return train_block(model, state, target, task, samples, replace(recipe, moving_target=True), generator)

    def after_merge(self, server: Server, steps: int) -> None:
        """See `Method.after_merge`: the next round's target starts as a copy."""
        server.target = server.model.target_of(server.state)
