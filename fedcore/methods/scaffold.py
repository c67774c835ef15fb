"""SCAFFOLD (Karimireddy et al. 2020): control variates take the drift of unlike data out of local steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fedcore.blocks import Block, Weights, freeze, slice_weights
from fedcore.costs import BYTES_PER_WEIGHT
from fedcore.local import Hooks, LocalRecipe, LocalResult, LocalTask, features_in, train_block
from fedcore.merge import Update
from fedcore.methods.base import RoundCost, Server
from fedcore.methods.partial import Partial, require_plain_sgd
from fedcore.model import Model
from fedcore.neurons import State
from fedcore.samples import Samples
from fedcore.slices import entries, trained_slice, write_trained
from scenarios.errors import InputError


def gradient_at(
    model: Model,
    state: State,
    target: State | None,
    block: Block,
    samples: Samples,
    recipe: LocalRecipe,
    generator: torch.Generator,
    step: int,
) -> State:
    """Mean gradient of one pass over a machine's samples at fixed weights.

    The pass is made of floor(n / b) full batches of b = min(batch_size, n) in random order, each under fresh views: the
    contrastive losses depend on what else is in a batch, so batches are of the size that training uses.

    Args:
        model: encoder and objective.
        state: whole weights x.
        target: whole momentum target, or None.
        block: whose trained weights the gradient is of.
        samples: the machine's own.
        recipe: how it trains.
        generator: every draw comes from it.
        step: local steps that the run had done before; schedules go by it.

    Returns:
        Parameter name -> gradient of the trained rows by visible columns.
    """
    weights = slice_weights(state, model.neuron_map, block)
    weights.statistics = {name: state[name].clone() for name in model.objective.statistics}
    weights.step = step
    aim = None if target is None else freeze(slice_weights(target, model.neuron_map, block))
    features = features_in(model.encoder, recipe.precision)
    size = recipe.batch_of(len(samples))
    batches = len(samples) // size
    for chosen in torch.randperm(len(samples), generator=generator)[: batches * size].split(size):
        batch = model.objective.draw(samples, chosen, recipe.augmentation, generator)
        (model.objective.loss(features, weights, aim, batch) / batches).backward()
    gradient: State = {}
    for name, weight in weights.trained.items():
        assert weight.grad is not None
        gradient[name] = weight.grad
    return gradient


@dataclass(frozen=True)
class Scaffold(Partial):
    """Local steps y <- y - eta_l (g_k(y) - c_k + c) from x, with a control variate c_k per machine and their mean c
    (algorithm 1; all start at 0).

    After K = H steps c_k becomes, by option, (I) the gradient at x over one pass of the machine's samples
    (`gradient_at`), or (II) c_k - c + (x - y) / (K eta_l), which costs nothing. The machine sends y - x and the change of
    c_k; then x moves by eta_g (`server_step`) times the mean of the first, and c by |S| / N times the mean of the second.

    c and c_k are kept per weight: where blocks move, a machine's c_k covers every weight that it has trained (0 for the
    others), only its block's part of c travels, and |S| counts, weight by weight, the machines that trained it.

    Attributes:
        option: "II", or "I".
        uniform: machines count alike, as in the paper; False weighs them by their samples, in x and in c, so that the
            objective is FedAvg's (c never goes by `merge_rule`).
    """

    name = "scaffold"

    option: str = "II"
    uniform: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.option not in ("I", "II"):
            raise InputError(f"scaffold: option is {self.option!r}, expected 'I' or 'II'")

    def check(self, model: Model, recipe: LocalRecipe) -> None:
        """See `Method.check`."""
        super().check(model, recipe)
        require_plain_sgd(self.name, "the control variates' K eta_l assumes", recipe)

    def start(self, server: Server) -> None:
        """See `Method.start`."""
        super().start(server)
        server.memory["c"] = self._zeros(server)

    @staticmethod
    def _zeros(server: Server) -> State:
        return {p.name: torch.zeros(p.shape) for p in server.model.neuron_map.parameters}

    def task(self, server: Server, machine: int, block: Block, steps: int) -> LocalTask:
        """See `Method.task`: the block's part of c goes along; that of c_k ("own") is on the machine already."""
        own = server.kept[machine].get("c", self._zeros(server))
        cut = {
            name: trained_slice(whole, server.model.neuron_map, block)
            for name, whole in (("c", server.memory["c"]), ("own", own))
        }
        return replace(super().task(server, machine, block, steps), extra=cut)

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
        """See `Method.train`; sends back the change of c_k as "dc"."""
        c, own = task.extra["c"], task.extra["own"]
        correction = {name: c[name] - own[name] for name in c}

        def correct(weights: Weights, start: dict[str, Tensor]) -> None:
            for name, weight in weights.trained.items():
                assert weight.grad is not None
                weight.grad.add_(correction[name])

        result = train_block(model, state, target, task, samples, recipe, generator, Hooks(gradient=correct))
        if self.option == "I":
            gradient = gradient_at(model, state, target, task.block, samples, recipe, generator, task.steps_before)
            change = {name: gradient[name] - own[name] for name in own}
        else:
            start = trained_slice(state, model.neuron_map, task.block)
            scale = 1.0 / (result.steps * recipe.learning_rate)
            change = {name: (start[name] - y) * scale - c[name] for name, y in result.trained.items()}
        return replace(result, extra=result.extra | {"dc": change})

    def merge(
        self, server: Server, tasks: Sequence[LocalTask], results: Sequence[LocalResult], updates: Sequence[Update]
    ) -> None:
        """See `Method.merge`."""
        if self.uniform:
            updates = [replace(update, weight=1.0) for update in updates]
        super().merge(server, tasks, results, updates)
        for task, result, update in zip(tasks, results, updates, strict=True):
            change = result.extra.get("dc", {})
            shapes = {name: value.shape for name, value in update.trained.items()}
            sound = {name: value.shape for name, value in change.items() if value.isfinite().all()}
            if sound != shapes:
                continue  # its weights were fine, or they would have been refused: its variate stays what it was
            part = 1.0 / len(server.samples) if self.uniform else result.samples / sum(server.samples)
            own = server.kept[task.machine].get("c", self._zeros(server))
            server.kept[task.machine]["c"] = self._add(own, server, task.block, change, 1.0)
            server.memory["c"] = self._add(server.memory["c"], server, task.block, change, part)

    @staticmethod
    def _add(whole: State, server: Server, block: Block, change: State, part: float) -> State:
        old = trained_slice(whole, server.model.neuron_map, block)
        moved = {name: value + part * change[name] for name, value in old.items()}
        return write_trained(whole, server.model.neuron_map, block, moved)

    def cost(self, server: Server, machine: int, block: Block, steps: int, recipe: LocalRecipe) -> RoundCost:
        """See `Method.cost`: c comes and the change of c_k goes, each as large as the trained block; c, c_k and x lie beside
        the weights while training (what c_k holds outside the block rests in storage); option I passes over the samples
        once more."""
        cost = super().cost(server, machine, block, steps, recipe)
        size = BYTES_PER_WEIGHT * entries(server.model.neuron_map, block)
        n = server.samples[machine]
        batches = n // recipe.batch_of(n) if self.option == "I" else 0
        return replace(
            cost,
            step_flops=cost.step_flops * (1.0 + batches / steps),
            upload_bytes=cost.upload_bytes + size,
            download_bytes=cost.download_bytes + size,
            memory_bytes=cost.memory_bytes + 3 * size,
        )
