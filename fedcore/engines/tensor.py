"""Exact tensor parallelism: the neurons of every layer are spread over ranks that see the same batch at every step.

For a trusted cluster on one LAN: activations are exchanged in every step (`sharded`), nothing is stale, and the result is that
of one machine to rounding. What a rank saves are weights, moments, gradients and matrix products; norms, nonlinearities
and attention scores run on whole activations on every rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from fedcore.blocks import Block
from fedcore.costs import ADAMW_COPIES, cost_of_counts
from fedcore.engines.collectives import Collectives
from fedcore.engines.exchanges import Traffic, record
from fedcore.engines.ranks import run_ranks
from fedcore.engines.sharded import ShardedWeights, disjoint_blocks
from fedcore.local import LocalRecipe, make_optimizer
from fedcore.methods.base import RoundCost
from fedcore.model import Model
from fedcore.neurons import State
from fedcore.samples import Samples
from scenarios.errors import InputError


def train_rank(
    group: Collectives,
    model: Model,
    state: State,
    target: State | None,
    samples: Samples,
    steps: int,
    recipe: LocalRecipe,
    blocks: Sequence[Block],
    seed: int,
) -> ShardedWeights:
    """One rank's part of `train_tensor_parallel`; all ranks call it with the same arguments but `group`.

    Args:
        group: the ranks.
        model: encoder and objective.
        state: whole weights, of which this rank keeps its own rows only.
        target: whole momentum target, or None.
        samples: the same on all ranks.
        steps: optimiser steps.
        recipe: how.
        blocks: by rank.
        seed: so that all draw the same batches and views.

    Returns:
        This rank's trained weights; `gather_state` joins them.
    """
    plan = record(model, state)
    weights = ShardedWeights.cut(state, model.neuron_map, blocks, group, plan.read)
    weights.statistics = {name: state[name].clone() for name in model.objective.statistics}
    aim = None
    if target is not None:
        aim = ShardedWeights.cut(target, model.neuron_map, blocks, group, plan.target_read, trained=False)
    optimiser = make_optimizer(list(weights.trained.values()), recipe)
    generator = torch.Generator().manual_seed(seed)
    for step in range(steps):
        weights.step = step
        chosen = torch.randperm(len(samples), generator=generator)[: recipe.batch_of(len(samples))]
        batch = model.objective.draw(samples, chosen, recipe.augmentation, generator)
        weights.renew()
        if aim is not None:
            aim.renew()
        loss = model.objective.loss(model.encoder.features, weights, aim, batch)
        optimiser.zero_grad(set_to_none=True)
        (loss / group.ranks).backward()
        optimiser.step()
        model.objective.update_statistics(weights)
        if aim is not None and recipe.moving_target and model.objective.target_momentum is not None:
            with torch.no_grad():
                for name, value in aim.frozen.items():
                    value.lerp_(weights.trained[name], 1 - model.objective.momentum(step))
    return weights


@dataclass(frozen=True)
class TensorRun:
    """What tensor-parallel training gave.

    Attributes:
        state: trained whole weights.
        traffic: by rank, counted over all steps; without handing weights out and gathering them at the end.
    """

    state: State
    traffic: tuple[Traffic, ...]


def _train_and_gather(
    group: Collectives,
    model: Model,
    state: State,
    target: State | None,
    samples: Samples,
    steps: int,
    recipe: LocalRecipe,
    shares: Sequence[float],
    seed: int,
) -> tuple[State | None, Traffic]:
    blocks = disjoint_blocks(model.neuron_map, shares)
    weights = train_rank(group, model, state, target, samples, steps, recipe, blocks, seed)
    traffic = Traffic(group.sent_bytes, group.received_bytes, group.exchanges)
    trained = weights.gather_state()
    return trained if group.rank == 0 else None, traffic


def run_tensor_parallel(
    model: Model,
    state: State,
    samples: Samples,
    steps: int,
    recipe: LocalRecipe,
    shares: Sequence[float],
    seed: int,
    target: State | None = None,
) -> TensorRun:
    """As `train_tensor_parallel`, and what was exchanged on the way."""
    if recipe.precision != "fp32":
        raise InputError(f"precision is {recipe.precision!r}, expected 'fp32': tensor parallelism is exact")
    disjoint_blocks(model.neuron_map, shares)  # refuses here, before any process starts
    target = model.target_of(state) if target is None else target
    results = run_ranks(
        _train_and_gather, len(shares), (model, state, target, samples, steps, recipe, tuple(shares), seed)
    )
    return TensorRun(results[0][0], tuple(traffic for _, traffic in results))


def train_tensor_parallel(
    model: Model,
    state: State,
    samples: Samples,
    steps: int,
    recipe: LocalRecipe,
    shares: Sequence[float],
    seed: int,
    target: State | None = None,
) -> State:
    """Train a whole model spread over processes of this machine, as one process would.

    Equals `local.train_block` with a whole block and a generator of the same seed, to rounding.

    Args:
        model: encoder and objective.
        state: whole weights; not changed.
        samples: what is trained on; all ranks see the same batch.
        steps: optimiser steps.
        recipe: how; its precision must be "fp32".
        shares: part of every layer's neurons per rank, above 0, together 1.
        seed: of batches and views.
        target: whole momentum target; None starts one from the weights where the objective has any.

    Returns:
        The trained whole state.

    Raises:
        InputError: shares that do not fit the model, or a precision other than fp32.
        RuntimeError: a rank failed; the message carries its traceback, and all ranks have been ended.
    """
    return run_tensor_parallel(model, state, samples, steps, recipe, shares, seed, target).state


def tensor_parallel_cost(
    model: Model, shares: Sequence[float], batch: int, steps: int = 1, optimizer_copies: int = ADAMW_COPIES
) -> list[RoundCost]:
    """What steps of tensor-parallel training ask of every rank.

    FLOPs: of every matrix product the own rows, forward, input gradients and weight gradients; attention scores whole.
    Bytes: `exchanges.Plan.traffic`; weights stay where they are, so nothing is downloaded before or uploaded after.
    Memory: own weights, target, gradients and moments, but whole activations.

    Args:
        model: encoder and objective.
        shares: by rank, above 0, together 1.
        batch: samples per step, the same ones on all ranks.
        steps: optimiser steps.
        optimizer_copies: tensors that the optimiser keeps per weight.

    Returns:
        By rank; `exchanges` counts the times that it waits for the others.

    Raises:
        InputError: shares that do not fit the model.
    """
    blocks = disjoint_blocks(model.neuron_map, shares)
    whole = {layer.name: layer.neurons for layer in model.neuron_map.layers}
    costs = []
    for block, traffic in zip(blocks, record(model).traffic(blocks, batch), strict=True):
        own = {name: len(index) for name, index in block.trained.items()}
        cost = cost_of_counts(model, own, own, batch, optimizer_copies, activations=whole)
        costs.append(
            RoundCost(
                cost.step_flops,
                float(steps * traffic.sent_bytes),
                float(steps * traffic.received_bytes),
                cost.memory_bytes,
                steps * traffic.exchanges,
                row_flops=cost.row_flops,
            )
        )
    return costs
