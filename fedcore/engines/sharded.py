"""Weights whose rows are spread over ranks: every layer computes its own neurons and gathers those of the others.

Column-parallel layers (Megatron-LM, Shoeybi et al. 2019): every rank computes the outputs of its own neurons from whole
inputs, then all gather each other's outputs. Weights owned by the neurons that they read (`Weights.spread`) are
row-parallel: partial sums are added over all ranks.

Every rank computes the whole loss from its own copies, so what is differentiated is the mean of p equal losses. Then each
exchange has its exact adjoint: a gather's is a reduce-scatter, a sum's is a sum, and each rank's gradient of a whole
activation is only its own columns' part of it. That is Megatron's f (sum the input gradients of all ranks' columns) moved
behind the layer before, where every rank needs the sum for its own neurons only: half the bytes of an all-reduce.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedcore.blocks import Block, Weights
from fedcore.engines.collectives import Collectives
from fedcore.neurons import NeuronMap, State
from scenarios.errors import InputError


def disjoint_blocks(neuron_map: NeuronMap, shares: Sequence[float]) -> list[Block]:
    """Give every neuron to exactly one rank, in contiguous runs.

    Args:
        neuron_map: the model.
        shares: of the ranks; above 0, together 1. Whole neurons go by largest remainder, at least one to each rank.

    Returns:
        By rank, a block without context.

    Raises:
        InputError: shares that are not positive or do not add up to 1, or a layer of fewer neurons than ranks.
    """
    if not shares or min(shares) <= 0 or abs(sum(shares) - 1.0) > 1e-6:
        raise InputError(f"shares are {list(shares)}, expected one above 0 per rank, adding up to 1")
    blocks = [Block({}, {}) for _ in shares]
    for layer in neuron_map.layers:
        if layer.neurons < len(shares):
            raise InputError(
                f"shares are for {len(shares)} ranks, but layer {layer.name} has {layer.neurons} neurons: "
                f"choose at most {layer.neurons} ranks"
            )
        exact = np.asarray(shares) / sum(shares) * layer.neurons
        counts = np.floor(exact).astype(int)
        counts[np.argsort(counts - exact, kind="stable")[: layer.neurons - counts.sum()]] += 1
        while counts.min() == 0:
            counts[counts.argmax()] -= 1
            counts[counts.argmin()] += 1
        ends = [0, *counts.cumsum().tolist()]
        for block, (start, end) in zip(blocks, pairwise(ends), strict=True):
            block.trained[layer.name] = torch.arange(start, end)
            block.context[layer.name] = torch.arange(0)
    return blocks


class _Gather(torch.autograd.Function):
    """All ranks' parts joined along `dim`; backward, the sum over ranks of the own part's gradients."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, group: Collectives, sizes: Sequence[int], dim: int) -> Tensor:
        ctx.group, ctx.sizes, ctx.dim = group, sizes, dim
        return torch.cat(group.gather(own, sizes, dim), dim)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return ctx.group.reduce_scatter(gradient.split(list(ctx.sizes), ctx.dim)), None, None, None


class _Sum(torch.autograd.Function):
    """The sum over ranks; backward, the sum over ranks of the gradients."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, group: Collectives) -> Tensor:
        ctx.group = group
        return group.all_reduce(own)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return ctx.group.all_reduce(gradient), None


@dataclass
class ShardedWeights(Weights):
    """One rank's rows of every layer, by all columns; whatever they compute is gathered and comes out whole.

    All ranks must run the same forward and backward passes. Divide the loss by the number of ranks before `backward`.

    Attributes:
        group: the ranks.
        neuron_map: the model's declaration.
        owned: by rank, layer name -> indices of its neurons.
        read: names of the parameters that are read as they are (`vector`); they are gathered together.
    """

    group: Collectives = field(kw_only=True)
    neuron_map: NeuronMap = field(kw_only=True)
    owned: Sequence[dict[str, Tensor]] = field(kw_only=True)
    read: Sequence[str] = field(kw_only=True)

    def __post_init__(self) -> None:
        self._layer_of = {p.name: p.rows for p in self.neuron_map.parameters if p.name in self.own}
        self._gathered: State | None = None
        self._orders: State = {}
        for layer in self.neuron_map.layers:
            joined, whole = torch.cat([rows[layer.name] for rows in self.owned]), torch.arange(layer.neurons)
            if not torch.equal(joined.sort().values, whole):
                raise ValueError(f"the ranks' neurons of layer {layer.name} are not every neuron exactly once")
            if not torch.equal(joined, whole):
                self._orders[layer.name] = torch.argsort(joined)

    @classmethod
    def cut(
        cls,
        state: State,
        neuron_map: NeuronMap,
        blocks: Sequence[Block],
        group: Collectives,
        read: Sequence[str],
        trained: bool = True,
    ) -> ShardedWeights:
        """This rank's rows of a whole state.

        Args:
            state: whole weights; parameters of the map that it lacks are passed over.
            neuron_map: the model's declaration.
            blocks: by rank, whose `trained` are its neurons; every neuron belongs to one rank.
            group: the ranks.
            read: names of the parameters that are read as they are, see `exchanges.Plan`.
            trained: whether they are trained, or only looked at (a momentum target).

        Raises:
            ValueError: a neuron that belongs to no rank, or to several.
        """
        owned = [block.trained for block in blocks]
        own = {p.name: state[p.name][owned[group.rank][p.rows]] for p in neuron_map.parameters if p.name in state}
        for tensor in own.values() if trained else ():
            tensor.requires_grad_()
        parts = (own, {}) if trained else ({}, own)
        return cls(*parts, group=group, neuron_map=neuron_map, owned=owned, read=tuple(read))

    @property
    def own(self) -> State:
        """Parameter name -> this rank's rows."""
        return self.trained or self.frozen

    def renew(self) -> None:
        """Forget the gathered vectors: call it before every forward pass, since weights have moved."""
        self._gathered = None

    def vector(self, name: str) -> Tensor:
        """See `Weights.vector`: all that are read as they are are gathered in one message, once per step."""
        if self._gathered is None:
            own = [self.own[n] for n in self.read]
            sizes = [
                [len(rows[self._layer_of[n]]) * t[0].numel() for n, t in zip(self.read, own, strict=True)]
                for rows in self.owned
            ]
            flat = torch.cat([tensor.flatten() for tensor in own])
            parts = _Gather.apply(flat, self.group, [sum(s) for s in sizes], 0).split([n for s in sizes for n in s])
            self._gathered = {
                n: self._ordered(torch.cat(parts[i :: len(own)]).view(-1, *tensor.shape[1:]), n, 0)
                for i, (n, tensor) in enumerate(zip(self.read, own, strict=True))
            }
        return self._gathered[name]

    def rows(self, names: Sequence[str], op: Callable[..., Tensor], dim: int = 1) -> Tensor:
        """See `Weights.rows`: column-parallel, the own neurons' values and those of all other ranks."""
        out = op(*(self.own[n] for n in names))
        sizes = [len(rows[self._layer_of[names[0]]]) for rows in self.owned]
        return self._ordered(_Gather.apply(out, self.group, sizes, dim % out.dim()), names[0], dim)

    def spread(self, x: Tensor, name: str) -> Tensor:
        """See `Weights.spread`: row-parallel, partial sums are added over the ranks."""
        w, rows = self.own[name], self.owned[self.group.rank][self._layer_of[name]]
        taken = x.index_select(-1 if w.dim() == 2 else -2, rows)
        return _Sum.apply(taken @ w if w.dim() == 2 else taken.flatten(-2) @ w.flatten(0, 1), self.group)

    def gather_state(self) -> State:
        """The whole state, on every rank: all rows of all parameters, and the statistics."""
        with torch.no_grad():
            state = {
                name: self._ordered(
                    torch.cat(self.group.gather(own.detach(), [len(r[self._layer_of[name]]) for r in self.owned], 0)), name, 0
                )
                for name, own in self.own.items()
            }
        return state | {name: value.clone() for name, value in self.statistics.items()}

    def _ordered(self, x: Tensor, name: str, dim: int) -> Tensor:
        order = self._orders.get(self._layer_of[name])
        return x if order is None else x.index_select(dim, order)
