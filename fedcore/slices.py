"""Slices of whole tensors that follow a block: cut one out, write one back, count one.

Whatever a method keeps per weight (control variates, personal weights, a local target) is kept whole and moves with the
blocks by these.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from fedcore.blocks import Block, places, take
from fedcore.neurons import NeuronMap, State


def trained_slice(state: State, neuron_map: NeuronMap, block: Block) -> State:
    """Fresh copies of the trained rows by the visible columns, by parameter name; parameters without any are left out.

    Args:
        state: whole tensors; parameters that it lacks are passed over.
        neuron_map: the model's.
        block: whose rows and columns.
    """
    return {
        p.name: take(state[p.name], p, block.trained[p.rows], block)
        for p in neuron_map.parameters
        if p.name in state and len(block.trained[p.rows])
    }


def write_trained(state: State, neuron_map: NeuronMap, block: Block, values: Mapping[str, Tensor]) -> State:
    """A copy of whole tensors with the entries that a block trains replaced.

    Args:
        state: whole tensors; not changed.
        neuron_map: the model's.
        block: whose rows and columns.
        values: as from `trained_slice`; names that `state` lacks are passed over.
    """
    written = dict(state)
    for p in neuron_map.parameters:
        if p.name in state and p.name in values:
            written[p.name] = state[p.name].clone()
            written[p.name][places(p, block.trained[p.rows], block)] = values[p.name]
    return written


def write_visible(state: State, neuron_map: NeuronMap, block: Block, values: Mapping[str, Tensor]) -> State:
    """A copy of whole tensors with the entries that a block sees replaced; arguments as `write_trained`.

    Values come in the order of `blocks.freeze`: trained rows, then context, but always-visible layers in the whole
    model's order.
    """
    written = dict(state)
    for p in neuron_map.parameters:
        if p.name in state and p.name in values:
            rows = block.visible(p.rows)
            if neuron_map.layer(p.rows).always_visible:
                rows = rows.sort().values
            written[p.name] = state[p.name].clone()
            written[p.name][places(p, rows, block)] = values[p.name]
    return written


def untrained(state: State, names: Collection[str]) -> State:
    """Whole tensors of NaN, the mark of entries that a machine has no value of its own for.

    Args:
        state: whose shapes.
        names: which.
    """
    return {name: torch.full_like(state[name], float("nan")) for name in sorted(names)}


def own_or(own: State, other: State) -> State:
    """Entry by entry `own`, or `other` where `own` is NaN; names that `own` lacks are `other`'s."""
    return other | {name: torch.where(value.isnan(), other[name], value) for name, value in own.items()}


def entries(neuron_map: NeuronMap, block: Block, names: Collection[str] | None = None, visible: bool = False) -> int:
    """How many weights a block trains.

    Args:
        neuron_map: the model's.
        block: whose.
        names: of the parameters that count; None counts all.
        visible: count the weights that it sees, instead.
    """
    total = 0
    for p in neuron_map.parameters:
        if names is None or p.name in names:
            rows = len(block.visible(p.rows) if visible else block.trained[p.rows])
            total += rows * p.per_pair * (1 if p.cols is None else len(block.visible(p.cols)))
    return total
