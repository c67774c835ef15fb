"""Merge: every weight entry becomes the mean over the machines that trained it; the rest keep their value.

With whole blocks this is FedAvg (McMahan et al. 2017, algorithm 1), bit for bit. Bad updates are refused by name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedcore.blocks import Block, look, places
from fedcore.neurons import NeuronMap, State


@dataclass(frozen=True)
class Update:
    """What comes back from one machine.

    Attributes:
        machine: its name, for messages.
        block: what it trained.
        trained: parameter name -> new values of the trained rows by visible columns.
        weight: samples x local steps.
    """

    machine: str
    block: Block
    trained: Mapping[str, Tensor]
    weight: float


MOST_MOVED = 10.0
"""A change of more than so many times the norm of what it changes is absurd."""


def refusal(update: Update, state: State, neuron_map: NeuronMap, max_relative_norm: float = MOST_MOVED) -> str | None:
    """Why an update must not reach the global model, in one sentence, or None where it may.

    Args:
        update: what came back.
        state: the global weights that it started from.
        neuron_map: the model.
        max_relative_norm: a change larger than this many times the norm of the weights it changes (plus one) is absurd.
    """
    names, changes, starts = [], [], []
    for p in neuron_map.parameters:
        if len(update.block.trained[p.rows]) == 0 or p.name not in state:
            continue
        new = update.trained.get(p.name)
        old = look(state[p.name], p, update.block.trained[p.rows], update.block)
        if new is None or new.shape != old.shape:
            shape = None if new is None else tuple(new.shape)
            return f"machine {update.machine}: update of {p.name} has shape {shape}, expected {tuple(old.shape)}"
        names.append(p.name)
        changes.append(new - old)
        starts.append(old)
    moved = _norms(changes)
    for name, norm in zip(names, moved, strict=True):
        # One NaN or infinity is enough to make the norm so; so is the difference of two huge numbers.
        if not math.isfinite(norm) and not torch.isfinite(update.trained[name]).all():
            return f"machine {update.machine}: update of {name} is not finite"
    change = math.hypot(*moved)
    if change > max_relative_norm:  # below it no weights are so small that the change is absurd
        size = math.hypot(*_norms(starts))
        if not math.isfinite(change) or change > max_relative_norm * (size + 1.0):
            return f"machine {update.machine}: update of norm {change:.3g} is absurd beside weights of norm {size:.3g}"
    return None


def _norms(tensors: Sequence[Tensor]) -> list[float]:
    """Euclidean norm of each, in one pass; infinite beyond float32, which is absurd enough."""
    return [float(v) for v in torch._foreach_norm(list(tensors))] if tensors else []


def merge(state: State, neuron_map: NeuronMap, updates: Sequence[Update], server_step: float = 1.0) -> State:
    """Merge accepted updates into a new state.

    Args:
        state: weights before the round; not changed.
        neuron_map: the model.
        updates: updates that `refusal` let pass; sums run in this order, in float64.
        server_step: how far to go from the old value to the mean. Below 1 it damps machines that move their blocks
            at once, each taking the others as frozen (a Jacobi step).

    Returns:
        New weights, float32.
    """
    merged: State = {}
    for p in neuron_map.parameters:
        old = state[p.name]
        total = torch.zeros(old.shape, dtype=torch.float64)
        # One number while all that came were whole tensors, an entry-wise sum from the first slice on.
        weight: Tensor | float = 0.0
        scaled = torch.empty_like(total)
        for update in updates:
            rows = update.block.trained[p.rows]
            if len(rows) == 0:
                continue
            if len(rows) == len(old) and (p.cols is None or update.block.sees_in_order(p.cols, old.shape[1])):
                total += scaled.copy_(update.trained[p.name]).mul_(update.weight)
                weight += update.weight
            else:
                if not isinstance(weight, Tensor):
                    weight = torch.full_like(total, weight)
                index = places(p, rows, update.block)
                total[index] += update.trained[p.name].to(torch.float64) * update.weight
                weight[index] += update.weight
        if not isinstance(weight, Tensor):
            merged[p.name] = torch.lerp(old, total.div_(weight).to(old.dtype), server_step) if weight > 0 else old
            continue
        mean = (total / weight.clamp_min(1e-300)).to(old.dtype)
        # lerp at 1 returns its end exactly, which is what makes the whole-block merge equal FedAvg bit for bit.
        merged[p.name] = torch.where(weight > 0, torch.lerp(old, mean, server_step), old)
    return merged
