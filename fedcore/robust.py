"""How updates become one value per weight entry: the mean, or rules that a few bad machines cannot move far.

All rules go entry by entry over the machines that trained it; entries that nobody trained keep their value. Median and
trimmed mean count machines alike: weights are what a bad machine would lie about.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from statistics import median as middle

import torch
from torch import Tensor

from fedcore.blocks import Block, places
from fedcore.merge import Update, merge
from fedcore.neurons import NeuronMap, Parameter, State
from fedcore.slices import trained_slice
from scenarios.errors import InputError

Merge = Callable[[State, NeuronMap, Sequence[Update], float], State]


def _ordered(old: Tensor, p: Parameter, updates: Sequence[Update]) -> tuple[Tensor, Tensor]:
    """Every entry's values from the smallest to the largest.

    Returns:
        (U, *shape) float64, infinite beyond the machines that trained an entry, and how many those are, of shape (1, *shape).
    """
    rows = [update.block.trained[p.rows] for update in updates]
    holders = [(update, index) for update, index in zip(updates, rows, strict=True) if len(index)]
    values = torch.full((max(1, len(holders)), *old.shape), float("inf"), dtype=torch.float64)
    for i, (update, index) in enumerate(holders):
        values[i][places(p, index, update.block)] = update.trained[p.name].double()
    return values.sort(dim=0).values, values.isfinite().sum(dim=0, keepdim=True)


def _towards(old: Tensor, new: Tensor, count: Tensor, server_step: float) -> Tensor:
    return torch.where(count[0] > 0, torch.lerp(old, new.to(old.dtype), server_step), old)


def median(state: State, neuron_map: NeuronMap, updates: Sequence[Update], server_step: float = 1.0) -> State:
    """Coordinate-wise median (Yin et al. 2018, definition 1); between the two middle values where their number is even.

    Arguments and result as `merge.merge`; the weights of the updates do not count.
    """
    merged: State = {}
    for p in neuron_map.parameters:
        values, count = _ordered(state[p.name], p, updates)
        low = values.gather(0, (count - 1).clamp_min(0) // 2)
        high = values.gather(0, (count // 2).clamp_max(len(values) - 1))
        merged[p.name] = _towards(state[p.name], ((low + high) / 2)[0], count, server_step)
    return merged


BETA = 0.2
"""Part of the machines that the trimmed mean leaves out at either end."""


LEAST = {"median": 3, "trimmed-mean": round(1.0 / BETA)}
"""Machines that must train a weight before a rule leaves out anybody's value of it."""


def check_rule(rule: str, machines: int) -> None:
    """Refuse a rule that protects nobody in a fleet of so many machines.

    Raises:
        InputError: they are too few.
    """
    if machines < LEAST.get(rule, 0):
        raise InputError(
            f"merge_rule is {rule!r}, which leaves out nobody of {machines} machines; expected at least {LEAST[rule]} of them, "
            "or 'norm-clipping'"
        )


def unprotected(rule: str, neuron_map: NeuronMap, blocks: Sequence[Block]) -> str:
    """What is wrong with a rule on these blocks, which goes weight by weight over the machines that train it.

    Returns:
        One sentence where a weight is trained by too few of them for anybody to be left out, else "".
    """
    if rule not in LEAST:
        return ""
    fewest = LEAST[rule]
    for p in neuron_map.parameters:
        count = torch.zeros(p.shape, dtype=torch.int64)
        for block in blocks:
            count[places(p, block.trained[p.rows], block)] += 1
        fewest = min(fewest, int(count[count > 0].min())) if count.any() else fewest
    if fewest == LEAST[rule]:
        return ""
    holders = "one machine holds a neuron" if fewest == 1 else f"{fewest} machines hold a neuron"
    return (
        f"merge_rule is {rule!r}, which leaves out nobody where {holders}; expected {LEAST[rule]} of them everywhere: choose "
        "'norm-clipping', or larger shares"
    )


def trimmed_mean(
    state: State, neuron_map: NeuronMap, updates: Sequence[Update], server_step: float = 1.0, beta: float = BETA
) -> State:
    """Coordinate-wise trimmed mean (Yin et al. 2018, definition 2): the mean without the floor(beta n) smallest and largest
    of an entry's n values. Fewer than 1 / beta machines are not trimmed.

    Arguments and result as `merge.merge`; the weights of the updates do not count.
    """
    merged: State = {}
    for p in neuron_map.parameters:
        values, count = _ordered(state[p.name], p, updates)
        cut = torch.floor(beta * count + 1e-9).long()  # 0.2 x 15 is a little below 3 in binary, or above
        rank = torch.arange(len(values)).view(-1, *([1] * state[p.name].dim()))
        inner = (rank >= cut) & (rank < count - cut)
        mean = torch.where(inner, values, 0.0).sum(dim=0) / inner.sum(dim=0).clamp_min(1)
        merged[p.name] = _towards(state[p.name], mean, count, server_step)
    return merged


def _rms(change: Mapping[str, Tensor]) -> float:
    count = sum(value.numel() for value in change.values())
    return (sum(float(value.double().square().sum()) for value in change.values()) / count) ** 0.5


def norm_clipping(state: State, neuron_map: NeuronMap, updates: Sequence[Update], server_step: float = 1.0) -> State:
    """Clip every change to the median norm, then take the weighted mean (Sun et al. 2019, with the median as the bound).

    Blocks differ in size, so norms are taken per entry (root mean square): with equal blocks that is the norm's own rule.
    Arguments and result as `merge.merge`.
    """
    starts = [trained_slice(state, neuron_map, update.block) for update in updates]
    changes = [
        {name: update.trained[name] - old for name, old in start.items()} for update, start in zip(updates, starts, strict=True)
    ]
    norms = [_rms(change) for change in changes]
    bound = middle(norms) if norms else 0.0
    clipped = []
    for update, start, change, norm in zip(updates, starts, changes, norms, strict=True):
        if norm > bound:
            shorter = {name: start[name] + change[name] * (bound / norm) for name in start}
            update = replace(update, trained=shorter)
        clipped.append(update)
    return merge(state, neuron_map, clipped, server_step)


MERGES: dict[str, Merge] = {
    "mean": merge,
    "median": median,
    "trimmed-mean": trimmed_mean,
    "norm-clipping": norm_clipping,
}
