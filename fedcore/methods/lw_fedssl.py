"""LW-FedSSL (Tun et al. 2024): layer-wise training, one stage at a time on top of frozen ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import prod

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fedcore.blocks import Block, Weights, whole_block, whole_weights
from fedcore.costs import BYTES_PER_WEIGHT, cost_of_block
from fedcore.local import Hooks, LocalRecipe, LocalResult, LocalTask, seeded, train_block
from fedcore.merge import Update, refusal
from fedcore.methods.base import RoundCost, Server
from fedcore.methods.prog_fedssl import ProgFedSSL
from fedcore.methods.split import bottom_of
from fedcore.model import Model
from fedcore.neurons import State
from fedcore.objectives.base import Features
from fedcore.parallel import one_thread
from fedcore.samples import Batch, Samples
from scenarios.errors import InputError


@dataclass(frozen=True)
class LWFedSSL(ProgFedSSL):
    """Grows as `ProgFedSSL`, but in stage s only the new stage L_s and the heads H and P train and travel; the stages
    below are frozen and seen by all (arXiv 2401.11647, version 4).

    A frozen stage travels once more to every machine, when it first takes part after that stage's last merge: what it
    trained itself is not what the merge made of it. So a machine that missed rounds, or whole stages, downloads all that
    it lacks.

    The two mechanisms of versions 1 to 3, which version 4 dropped, are options.

    Attributes:
        representation_alignment: alpha, weight of a contrastive term that pulls the features of the first view towards
            those of the received F_s, held frozen, against those of the batch's other samples; 0 leaves it out.
        alignment_temperature: tau of that term.
        server_calibration_steps: after every merge the server trains all of F_s and the heads for so many steps on its
            auxiliary samples. Frozen stages move too, so that every machine must download all of F_s in every round.
    """

    name = "lw-fedssl"

    representation_alignment: float = 0.0
    alignment_temperature: float = 0.05
    server_calibration_steps: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 <= self.representation_alignment < float("inf"):
            raise InputError(
                f"{self.name}: representation_alignment is {self.representation_alignment}, expected a finite number of at "
                "least 0"
            )
        if not 0.0 < self.alignment_temperature < float("inf"):
            raise InputError(
                f"{self.name}: alignment_temperature is {self.alignment_temperature}, expected a finite number above 0"
            )
        if self.server_calibration_steps < 0:
            raise InputError(
                f"{self.name}: server_calibration_steps is {self.server_calibration_steps}, expected at least 0"
            )

    def check(self, model: Model, recipe: LocalRecipe) -> None:
        """See `Method.check`."""
        super().check(model, recipe)
        if self.representation_alignment > 0.0 and model.encoder.reads != "images":
            raise InputError(
                f"{self.name}: representation_alignment is {self.representation_alignment}, but it compares views of images "
                f"and the encoder reads {model.encoder.reads}; choose 0"
            )

    def start(self, server: Server) -> None:
        """See `Method.start`.

        Raises:
            InputError: calibration without samples to calibrate on.
        """
        if self.server_calibration_steps > 0 and server.auxiliary is None:
            raise InputError(
                f"{self.name}: server_calibration_steps is {self.server_calibration_steps} but the server has no auxiliary "
                "samples; pass some as auxiliary, or choose 0"
            )
        super().start(server)
        # Per machine: indices of frozen stages whose final weights it has.
        server.memory["holds"] = [set() for _ in server.machine_names]
        server.memory["invited"] = 0

    def blocks(self, server: Server, shares: Sequence[float], rng: np.random.Generator) -> list[Block | None]:
        """See `Method.blocks`: shares only say who takes part."""
        block = self._frozen(server.model, server.model.encoder.stages[:-1])
        server.memory["invited"] = sum(share > 0 for share in shares)
        return [block if share > 0 else None for share in shares]

    @staticmethod
    def _frozen(model: Model, stages: Sequence[Sequence[str]]) -> Block:
        """The block that sees everything and trains all but these stages."""
        whole = whole_block(model.neuron_map)
        below = {name for stage in stages for name in stage}
        return Block(
            {name: index[:0] if name in below else index for name, index in whole.trained.items()},
            {name: whole.trained[name] if name in below else index for name, index in whole.context.items()},
        )

    def cost(self, server: Server, machine: int, block: Block, steps: int, recipe: LocalRecipe) -> RoundCost:
        """See `Method.cost`."""
        model, stages = server.model, server.model.encoder.stages
        cost = super().cost(server, machine, block, steps, recipe)
        lacking = {n for i, stage in enumerate(stages[:-1]) if i not in server.memory["holds"][machine] for n in stage}
        late = sum(prod(p.shape) for p in model.encoder.neuron_map.parameters if p.rows in lacking)
        cost = replace(cost, download_bytes=cost.download_bytes + BYTES_PER_WEIGHT * late)
        if self.representation_alignment > 0.0:
            # One more view through the encoder and back, and through the received one.
            once = bottom_of(model, len(stages))
            once.objective.target_momentum, once.target_parameters = None, frozenset()
            once.objective.views_per_sample, once.objective.layer_views = 1, {}
            batch = recipe.batch_of(server.samples[machine])
            ours = cost_of_block(once, block, batch, recipe.optimizer_copies)
            theirs = cost_of_block(once, self._frozen(once, stages), batch)
            weights = ours.download_bytes + ours.upload_bytes * (1 + recipe.optimizer_copies)
            cost = replace(
                cost,
                step_flops=cost.step_flops + ours.step_flops + theirs.step_flops,
                # What the second pass keeps, and the received L_s beside the one in training.
                memory_bytes=cost.memory_bytes + (ours.memory_bytes - weights) + ours.upload_bytes,
            )
        if self.server_calibration_steps > 0:
            assert server.auxiliary is not None
            batch = recipe.batch_of(len(server.auxiliary))
            whole = cost_of_block(model, whole_block(model.neuron_map), batch, recipe.optimizer_copies)
            part = self.server_calibration_steps / max(1, server.memory["invited"])
            cost = replace(cost, server_flops=whole.step_flops * part)
        return cost

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
        hooks = Hooks(penalty=self._alignment(state)) if self.representation_alignment > 0.0 else Hooks()
        return train_block(model, state, target, task, samples, replace(recipe, moving_target=True), generator, hooks)

    def _alignment(self, state: State) -> Callable[[Weights, Batch, Features], Tensor]:
        received = whole_weights(state)

        def penalty(weights: Weights, batch: Batch, features: Features) -> Tensor:
            with torch.no_grad():
                theirs = F.normalize(features(received, batch.views[0]).flatten(0, -2), dim=1)
            ours = F.normalize(features(weights, batch.views[0]).flatten(0, -2), dim=1)
            logits = ours @ theirs.T / self.alignment_temperature
            return self.representation_alignment * F.cross_entropy(logits, torch.arange(len(logits)))

        return penalty

    def merge(
        self, server: Server, tasks: Sequence[LocalTask], results: Sequence[LocalResult], updates: Sequence[Update]
    ) -> None:
        """See `Method.merge`."""
        super().merge(server, tasks, results, updates)
        for task in tasks:
            server.memory["holds"][task.machine] |= set(range(len(server.model.encoder.stages) - 1))

    def after_merge(self, server: Server, steps: int) -> None:
        """See `Method.after_merge`.

        Raises:
            InputError: calibration diverged.
        """
        if self.server_calibration_steps > 0:
            self._calibrate(server, steps)
        super().after_merge(server, steps)

    def _calibrate(self, server: Server, steps: int) -> None:
        assert server.auxiliary is not None
        block = whole_block(server.model.neuron_map)
        seed = (server.seed, 5, server.round_index)
        task = LocalTask(-1, block, self.server_calibration_steps, seed, steps_before=server.steps_done + steps)
        recipe = replace(server.recipe, moving_target=True)
        target = server.model.target_of(server.state)
        with one_thread():
            result = train_block(server.model, server.state, target, task, server.auxiliary, recipe, seeded(seed))
        update = Update("server", block, result.trained, 1.0)
        problem = refusal(update, server.state, server.model.neuron_map)
        if problem is not None:
            raise InputError(f"{self.name}: calibration diverged ({problem}); lower learning_rate or server_calibration_steps")
        server.state = server.state | result.trained | result.statistics
        server.memory["holds"] = [set() for _ in server.machine_names]
