"""Local training: H optimiser steps of one machine on its own samples, over its own block."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from fedcore.augment import Augmentation
from fedcore.blocks import Block, Weights, freeze, slice_weights
from fedcore.encoders import Encoder
from fedcore.model import Model
from fedcore.neurons import State
from fedcore.objectives.base import Features
from fedcore.samples import Batch, Samples


@dataclass(frozen=True)
class LocalRecipe:
    """How a machine trains.

    Attributes:
        batch_size: samples per step; fewer where the machine holds fewer.
        learning_rate: of the optimiser.
        weight_decay: of the optimiser.
        optimizer: "adamw" or "sgd". Moments start fresh every round: blocks move, so there is nothing to keep them for.
        sgd_momentum: of "sgd".
        moving_target: move the momentum target after every local step instead of keeping it frozen in the round. Methods that
            say nothing else leave it on the machine when the round ends: the server's target follows the merged weights.
        augmentation: of the views.
        precision: of the encoder's forward and backward pass; "auto" takes bf16 where the processor has it. Weights,
            heads, loss and optimiser stay fp32 (pure bf16 weights lose their updates to rounding).
    """

    batch_size: int = 64
    learning_rate: float = 3e-3
    weight_decay: float = 1e-4
    optimizer: str = "adamw"
    sgd_momentum: float = 0.0
    moving_target: bool = False
    augmentation: Augmentation = field(default_factory=Augmentation)
    precision: str = "auto"

    @property
    def optimizer_copies(self) -> int:
        """Tensors that the optimiser keeps per trained weight."""
        return 2 if self.optimizer == "adamw" else int(self.sgd_momentum > 0)

    def batch_of(self, samples: int) -> int:
        """Samples per step of who holds so many."""
        return min(self.batch_size, samples)


@dataclass(frozen=True)
class LocalTask:
    """One machine's work in one round.

    Attributes:
        machine: its index.
        block: what it trains and sees.
        steps: H.
        seed: entropy of its draws in this round, so that results do not depend on who runs when.
        start: weights that it starts from where they are not the global ones.
        target: momentum target where it is not the server's.
        extra: what the method sends along, by a name of the method's own.
        steps_before: local steps that the run had done before this round; schedules go by it.
        round_index: of the round.
    """

    machine: int
    block: Block
    steps: int
    seed: tuple[int, ...]
    start: State | None = None
    target: State | None = None
    extra: dict[str, State] = field(default_factory=dict)
    steps_before: int = 0
    round_index: int = 0


@dataclass(frozen=True)
class LocalResult:
    """What local training gave.

    Attributes:
        trained: parameter name -> new trained rows by visible columns, float32.
        loss: mean over the steps.
        steps: optimiser steps done.
        samples: how many the machine holds, n_k.
        statistics: the objective's statistics after the last step.
        extra: what the method sends back; "target" is the visible part of the momentum target where it moved on the machine.
        lost: why nothing came back; empty where it did, and nothing else counts where it did not.
    """

    trained: dict[str, Tensor]
    loss: float
    steps: int
    samples: int
    statistics: State = field(default_factory=dict)
    extra: dict[str, State] = field(default_factory=dict)
    lost: str = ""

    @staticmethod
    def nothing(why: str) -> LocalResult:
        """What stands for a block that never came back."""
        return LocalResult({}, float("nan"), 0, 0, lost=why)


@dataclass(frozen=True)
class Hooks:
    """Where a method may change local training; each is called once per step.

    Attributes:
        penalty: (weights, batch, features) -> a term added to the loss.
        gradient: (weights, their values at the start) -> None; changes `.grad` of trained weights before the step.
        view: weights -> the weights that this step's forward pass runs over (ordered dropout takes a narrower view).
    """

    penalty: Callable[[Weights, Batch, Features], Tensor] | None = None
    gradient: Callable[[Weights, dict[str, Tensor]], None] | None = None
    view: Callable[[Weights], Weights] | None = None


def has_fast_bf16() -> bool:
    """Whether this processor multiplies bf16 natively; elsewhere autocast is slower than fp32."""
    capabilities = getattr(torch.backends.cpu, "get_cpu_capability", lambda: "")()
    return "AVX512" in capabilities and bool(torch.cpu._is_avx512_bf16_supported())


def in_precision(op: Features, precision: str) -> Features:
    """A forward pass, or a part of one, in a precision: "fp32", "bf16" or "auto"; what it returns is fp32."""
    if precision == "fp32" or (precision == "auto" and not has_fast_bf16()):
        return op

    def autocast(weights: Weights, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return op(weights, x).float()

    return autocast


def features_in(encoder: Encoder, precision: str) -> Features:
    """The encoder's forward pass in a precision, as `in_precision`."""
    return in_precision(encoder.features, precision)


def follow(aim: Weights, weights: Weights, momentum: float) -> None:
    """Move a momentum target, in place, one exponential step after the online weights."""
    with torch.no_grad():
        for name, value in aim.frozen.items():
            value.lerp_(weights.vector(name), 1 - momentum)


def seeded(entropy: tuple[int, ...]) -> torch.Generator:
    """A generator that follows from a few whole numbers: run, purpose, round, machine."""
    return torch.Generator().manual_seed(int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> 1))


def make_optimizer(weights: list[Tensor], recipe: LocalRecipe) -> torch.optim.Optimizer:
    """The recipe's optimiser over leaf tensors.

    Raises:
        ValueError: an unknown optimiser.
    """
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(weights, lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True)
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(
            weights, recipe.learning_rate, recipe.sgd_momentum, weight_decay=recipe.weight_decay, fused=True
        )
    raise ValueError(f"optimizer is {recipe.optimizer!r}, expected adamw or sgd")


def train_block(
    model: Model,
    state: State,
    target: State | None,
    task: LocalTask,
    samples: Samples,
    recipe: LocalRecipe,
    generator: torch.Generator,
    hooks: Hooks = Hooks(),
) -> LocalResult:
    """Train one block from the global weights.

    Args:
        model: encoder and objective.
        state: global weights; not changed.
        target: whole momentum target, or None.
        task: block, H, and what starts it elsewhere.
        samples: this machine's own.
        recipe: how.
        generator: every draw (batches, views) comes from it.
        hooks: where the method differs.
    """
    state = state if task.start is None else task.start
    target = target if task.target is None else task.target
    weights = slice_weights(state, model.neuron_map, task.block)
    weights.statistics = {name: state[name].clone() for name in model.objective.statistics}
    aim = None if target is None else freeze(slice_weights(target, model.neuron_map, task.block))
    leaves = list(weights.trained.values())
    optimiser = make_optimizer(leaves, recipe)
    start = {n: t.detach().clone() for n, t in weights.trained.items()} if hooks.gradient else {}
    batch_size = recipe.batch_of(len(samples))
    features = features_in(model.encoder, recipe.precision)
    total = 0.0
    for step in range(task.steps_before, task.steps_before + task.steps):
        weights.step = step
        chosen = torch.randperm(len(samples), generator=generator)[:batch_size]
        batch = model.objective.draw(samples, chosen, recipe.augmentation, generator)
        seen = weights if hooks.view is None else hooks.view(weights)
        seen.statistics, seen.step = weights.statistics, step
        loss = model.objective.loss(features, seen, aim, batch)
        if hooks.penalty is not None:
            loss = loss + hooks.penalty(seen, batch, features)
        for leaf in leaves:
            leaf.grad = None
        loss.backward()
        if hooks.gradient is not None:
            hooks.gradient(weights, start)
        optimiser.step()
        model.objective.update_statistics(weights)
        total += float(loss.detach())
        if aim is not None and recipe.moving_target and model.objective.target_momentum is not None:
            follow(aim, weights, model.objective.momentum(step))
    return LocalResult(
        {n: t.detach() for n, t in weights.trained.items()},
        total / task.steps,
        task.steps,
        len(samples),
        weights.statistics,
        {"target": aim.frozen} if aim is not None and recipe.moving_target else {},
    )
