"""Intra-layer parallelism: every machine trains a share of every layer's neurons in the context of the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from fedcore.allocation import RULES, allocate, refuse_slivers
from fedcore.blocks import Block
from fedcore.context import CONTEXT_RULES, ActivationMeter, context_orders, corrected, merge_means
from fedcore.costs import context_bytes
from fedcore.encoders import MLP, ConvNet
from fedcore.importance import Importance
from fedcore.local import Hooks, LocalRecipe, LocalResult, LocalTask, train_block
from fedcore.merge import Update
from fedcore.methods.base import Method, RoundCost, Server
from fedcore.model import Model
from fedcore.neurons import State
from fedcore.samples import Samples
from scenarios.errors import InputError


@dataclass(frozen=True)
class IntraLayer(Method):
    """Blocks of neurons, trained at once and merged (DESIGN section 3).

    Context 1 is `cooperative`, the thesis's proposal; context 0 is `subnet`, Independent Subnet Training (Yuan et al.
    2019) with unequal blocks. With every share 1 it is FedAvg, bit for bit.

    Attributes:
        context: fraction in [0, 1] of the other neurons that every machine sees, frozen.
        rule: how S is drawn every round, a name in `allocation.RULES`; "importance" trains the neurons whose rows
            have lately moved most first (see `importance.Importance`).
        context_rule: which neurons a thinned context shows and how it is corrected, a name in `context.CONTEXT_RULES`; it
            says nothing where context is 1.
    """

    name = "intralayer"

    context: float = 1.0
    rule: str = "random"
    context_rule: str = "random-unscaled"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 <= self.context <= 1.0:
            raise InputError(f"context is {self.context}, expected a fraction from 0 to 1")
        if self.rule not in RULES:
            raise InputError(f"selection is {self.rule!r}, expected one of {', '.join(sorted(RULES))}")
        if self.context_rule not in CONTEXT_RULES:
            raise InputError(f"context_rule is {self.context_rule!r}, expected one of {', '.join(sorted(CONTEXT_RULES))}")

        if self._measures and type(self).train is not IntraLayer.train:
            raise InputError(
                f"context_rule is {self.context_rule!r}, which method {self.name} cannot measure for; expected method "
                "intralayer, or context_rule random or random-unscaled"
            )

    @property
    def _measures(self) -> bool:
        return self.context < 1.0 and CONTEXT_RULES[self.context_rule].measures

    def check(self, model: Model, recipe: LocalRecipe) -> None:
        """See `Method.check`: mean activations stand in for unseen neurons only where neurons are read one by one."""
        if self._measures and not isinstance(model.encoder, ConvNet | MLP):
            raise InputError(
                f"context_rule is {self.context_rule!r}, which measures activations of encoder convnet or mlp only; expected "
                "one of those encoders, or context_rule random or random-unscaled"
            )

    def blocks(self, server: Server, shares: Sequence[float], rng: np.random.Generator) -> list[Block | None]:
        """See `Method.blocks`.

        Raises:
            InputError: a share above 0 is below one neuron even of the widest layer.
        """
        refuse_slivers(server.model.neuron_map, server.machine_names, shares)
        neuron_map, rule = server.model.neuron_map, CONTEXT_RULES[self.context_rule]
        means: State = server.memory.get("activations", {})
        importance: Importance | None = server.memory.get("importance")
        blocks = allocate(
            neuron_map,
            shares,
            self.context,
            self.rule,
            server.round_index,
            rng,
            None if importance is None else importance.scores(),
            context_orders(rule, neuron_map, server.state, means, server.seed),
        )
        if self.context == 1.0:
            return blocks
        return [None if block is None else corrected(rule, neuron_map, block, means) for block in blocks]

    def cost(self, server: Server, machine: int, block: Block, steps: int, recipe: LocalRecipe) -> RoundCost:
        """See `Method.cost`; constants come down and measured means go up beside the weights."""
        cost = super().cost(server, machine, block, steps, recipe)
        if not self._measures:
            return cost
        visible = {layer: len(block.visible(layer)) for layer in block.trained}
        up, down = context_bytes(server.model, visible, self.context_rule)
        return replace(cost, upload_bytes=cost.upload_bytes + up, download_bytes=cost.download_bytes + down)

    def extras(self, model: Model, block: Block) -> dict[str, dict[str, int]]:
        """See `Method.extras`: mean activations of the layers that something reads."""
        if not self._measures:
            return {}
        read = {p.cols for p in model.neuron_map.parameters if p.cols is not None}
        return {"activations": {layer: len(block.visible(layer)) for layer in sorted(read)}}

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
        """See `Method.train`; where the context rule needs it, mean activations come back as `extra["activations"]`."""
        if not self._measures:
            return super().train(model, state, target, task, samples, recipe, generator)
        meter = ActivationMeter()
        result = train_block(model, state, target, task, samples, recipe, generator, Hooks(view=meter.view))
        return replace(result, extra=result.extra | {"activations": meter.means()})

    def merge(
        self, server: Server, tasks: Sequence[LocalTask], results: Sequence[LocalResult], updates: Sequence[Update]
    ) -> None:
        """See `Method.merge`; keeps importance and mean activations up to date where a rule needs them."""
        before = server.state
        super().merge(server, tasks, results, updates)
        neuron_map = server.model.neuron_map
        if self.rule == "importance":
            importance: Importance = server.memory.setdefault("importance", Importance(neuron_map))
            importance.observe(neuron_map, before, server.state, [update.block for update in updates])
        if self._measures:
            parts = [
                (update.block, result.extra["activations"], update.weight)
                for result, update in zip(results, updates, strict=True)
            ]
            server.memory["activations"] = merge_means(server.memory.get("activations", {}), neuron_map, parts)
