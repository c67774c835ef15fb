"""What split methods share: the first stages on the machine, the others, the heads and the loss on the server."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor

from fedcore.blocks import Block, Weights, freeze, slice_weights, whole_block
from fedcore.costs import BYTES_PER_WEIGHT, cost_of_block
from fedcore.encoders import Encoder
from fedcore.local import LocalRecipe, LocalResult, LocalTask, follow, in_precision, make_optimizer
from fedcore.methods.base import RoundCost, Server
from fedcore.methods.fedavg import FedAvg
from fedcore.model import Model
from fedcore.neurons import NeuronMap, State
from fedcore.objectives import Supervised
from fedcore.samples import Samples
from scenarios.errors import InputError


def bottom_of(model: Model, cut: int) -> Model:
    """The machine's part of a model, to be costed: its first `cut` stages, no heads, no loss, and no statistics (they are
    the heads')."""
    headless = copy.copy(model.objective)
    headless.heads, headless.online_only, headless.statistics = NeuronMap((), ()), frozenset(), {}
    headless.loss_numbers = lambda batch: 0  # type: ignore[method-assign]
    return Model(model.encoder.prefix(cut), headless)


class Wire:
    """The cut, in one training step: activations go up, their gradients come down; nothing else joins the halves.

    Args:
        encoder: that is cut.
        cut: after how many stages.
        precision: of both halves, as `LocalRecipe.precision`; what travels is fp32.
    """

    def __init__(self, encoder: Encoder, cut: int, precision: str) -> None:
        self.encoder, self.cut = encoder, cut
        self.bottom = in_precision(self._bottom, precision)
        self.top = in_precision(self._top, precision)
        self._sent: list[tuple[Tensor, Tensor]] = []

    def _bottom(self, weights: Weights, x: Tensor) -> Tensor:
        for index in range(self.cut):
            x = self.encoder.stage(index, weights, x)
        return x

    def _top(self, weights: Weights, x: Tensor) -> Tensor:
        for index in range(self.cut, len(self.encoder.stages)):
            x = self.encoder.stage(index, weights, x)
        return self.encoder.pool(x)

    def features(self, weights: Weights, x: Tensor) -> Tensor:
        """As `Encoder.features`, with the graph cut where the activations travel. A target's activations (keys) travel
        too, but no gradient answers them."""
        activation = self.bottom(weights, x)
        if not activation.requires_grad:
            return self.top(weights, activation)
        arrived = activation.detach().requires_grad_()
        self._sent.append((activation, arrived))
        return self.top(weights, arrived)

    def backward(self) -> None:
        """The machine's backward pass, from the gradients that the server's has left at the cut."""
        for activation, arrived in self._sent:
            if arrived.grad is not None:
                activation.backward(arrived.grad)
        self._sent.clear()


def _moments(optimiser: torch.optim.Optimizer) -> State:
    """What an optimiser keeps, by "index of the weight.name"."""
    kept = optimiser.state_dict()["state"]
    return {f"{i}.{name}": t.clone() for i, own in kept.items() for name, t in own.items() if t is not None}


def _resume(optimiser: torch.optim.Optimizer, moments: State) -> None:
    content = optimiser.state_dict()
    for key, value in moments.items():
        index, name = key.split(".")
        content["state"].setdefault(int(index), {})[name] = value
    optimiser.load_state_dict(content)


def train_halves(
    model: Model,
    cut: int,
    state: State,
    target: State | None,
    task: LocalTask,
    samples: Samples,
    recipe: LocalRecipe,
    generator: torch.Generator,
    resumable: bool = False,
) -> LocalResult:
    """Train a whole model in two halves that share nothing but what the wire carries; each has its own optimiser.

    Args:
        model: encoder and objective.
        cut: stages on the machine.
        state: global weights; not changed.
        target: momentum target, or None.
        task: as for `local.train_block`; its `extra` goes on from a result's where there is one.
        samples: this machine's own.
        recipe: how.
        generator: every draw comes from it.
        resumable: send back, in `extra`, both optimisers' moments ("bottom", "top") and the generator's state ("draws"),
            so that the next step may be another task.
    """
    state = state if task.start is None else task.start
    target = target if task.target is None else task.target
    weights = slice_weights(state, model.neuron_map, task.block)
    weights.statistics = {name: state[name].clone() for name in model.objective.statistics}
    aim = None if target is None else freeze(slice_weights(target, model.neuron_map, task.block))
    below = {p.name for p in model.encoder.prefix(cut).neuron_map.parameters}
    bottom = make_optimizer([t for name, t in weights.trained.items() if name in below], recipe)
    top = make_optimizer([t for name, t in weights.trained.items() if name not in below], recipe)
    _resume(bottom, task.extra.get("bottom", {}))
    _resume(top, task.extra.get("top", {}))
    if "draws" in task.extra:
        generator.set_state(task.extra["draws"]["state"])
    wire = Wire(model.encoder, cut, recipe.precision)
    batch_size = recipe.batch_of(len(samples))
    total = 0.0
    for step in range(task.steps_before, task.steps_before + task.steps):
        weights.step = step
        chosen = torch.randperm(len(samples), generator=generator)[:batch_size]
        batch = model.objective.draw(samples, chosen, recipe.augmentation, generator)
        loss = model.objective.loss(wire.features, weights, aim, batch)
        bottom.zero_grad(set_to_none=True)
        top.zero_grad(set_to_none=True)
        loss.backward()
        wire.backward()
        top.step()
        bottom.step()
        model.objective.update_statistics(weights)
        total += float(loss.detach())
        if aim is not None and recipe.moving_target and model.objective.target_momentum is not None:
            follow(aim, weights, model.objective.momentum(step))
    extra: dict[str, State] = {"target": aim.frozen} if aim is not None and recipe.moving_target else {}
    if resumable:
        extra |= {"bottom": _moments(bottom), "top": _moments(top), "draws": {"state": generator.get_state()}}
    trained = {name: t.detach() for name, t in weights.trained.items()}
    return LocalResult(trained, total / task.steps, task.steps, len(samples), weights.statistics, extra)


@dataclass(frozen=True)
class Split(FedAvg):
    """Split learning (Gupta and Raskar 2018): a machine computes a = f_c(x), sends it up, and is sent dL/da.

    Label-free: views are made and stay on the machine, and the loss of the server needs no labels. A momentum target is
    cut like the model; its activations (MocoSFL's keys, Li et al. 2023) go up as well.

    Attributes:
        cut: stages of the encoder on the machine; at least one stage stays on the server, with the heads.
    """

    cut: int = 1

    def check(self, model: Model, recipe: LocalRecipe) -> None:
        """See `Method.check`."""
        stages = len(model.encoder.stages)
        if stages < 2:
            raise InputError(f"{self.name}: the encoder has a single stage, which cannot be cut; choose one of two or more")
        if not 1 <= self.cut < stages:
            raise InputError(f"{self.name}: cut is {self.cut}, expected 1 to {stages - 1} for an encoder of {stages} stages")
        if isinstance(model.objective, Supervised):
            raise InputError(f"{self.name}: objective supervised would send labels to the server; choose a label-free one")

    def cost(self, server: Server, machine: int, block: Block, steps: int, recipe: LocalRecipe) -> RoundCost:
        """See `Method.cost`: the machine computes and holds the bottom only; activations and their gradients travel in
        every step, the bottom's weights at both ends of the round."""
        model, batch = server.model, recipe.batch_of(server.samples[machine])
        below = bottom_of(model, self.cut)
        own = cost_of_block(below, whole_block(below.neuron_map), batch, recipe.optimizer_copies)
        whole = cost_of_block(model, block, batch, recipe.optimizer_copies)
        layer = model.encoder.neuron_map.layer(below.encoder.feature_layer)
        activation = BYTES_PER_WEIGHT * batch * layer.positions * layer.neurons
        views = model.objective.layer_views.get(layer.name, model.objective.views_per_sample)
        keys = model.objective.target_views if model.target_parameters else 0
        return RoundCost(
            own.step_flops,
            own.upload_bytes + steps * activation * (views + keys),
            own.download_bytes + steps * activation * views,
            own.memory_bytes,
            exchanges=steps,
            server_flops=steps * (whole.step_flops - own.step_flops),
            row_flops=own.row_flops,
        )

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
        return train_halves(model, self.cut, state, target, task, samples, recipe, generator)
