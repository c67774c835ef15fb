"""What a machine can bear beside the strongest one: the width rates that fixed-capacity methods are given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from fedcore.costs import BlockCost, cost_of_counts, cost_of_share
from fedcore.methods.width import width_count
from fedcore.model import Model
from scenarios.schema import Scenario

LEVELS = (1.0, 0.5, 0.25, 0.125, 0.0625)
"""HeteroFL's five complexity levels a to e (Diao et al. 2021)."""


def level_costs(model: Model, batch: int) -> dict[float, BlockCost]:
    """Level -> cost of the model narrowed to it; level 1 is the whole model."""
    costs = {1.0: cost_of_share(model, 1.0, 1.0, batch)}
    for level in LEVELS[1:]:
        layers = model.neuron_map.layers
        counts = {y.name: y.neurons if y.always_visible else width_count(level, y.neurons) for y in layers}
        costs[level] = cost_of_counts(model, counts, counts, batch)
    return costs


def memory_bytes(scenario: Scenario) -> NDArray[np.float64]:
    """(K,) bytes that training may use on every machine."""
    return np.array([group.device.memory_mb * 1e6 for group in scenario.fleet.machines])


def machine_costs(model: Model, batches: Sequence[int]) -> list[Mapping[float, BlockCost]]:
    """`level_costs` on every machine, by how many samples its steps are on."""
    of = {batch: level_costs(model, batch) for batch in set(batches)}
    return [of[batch] for batch in batches]


def capacity_shares(scenario: Scenario, costs: Sequence[Mapping[float, BlockCost]]) -> NDArray[np.float64]:
    """Capacity of every machine, (K,), on HeteroFL's levels; 0 for one whose memory does not hold even the lowest.

    The scarcer of what it has of the highest speed (whole-model steps per second) and of the fastest uplink, beside the
    machine that has most of it among those that hold the whole model, rounded to the nearest level on a log scale; then no
    more than its memory holds of a narrowed model. What orchestrators do again every round by looking at the fleet, this does
    once, by nominal figures: it is the fixed assignment of the width-scaling papers.

    Args:
        scenario: whose fleet.
        costs: of every level on every machine, see `machine_costs`.
    """
    machines = scenario.fleet.machines
    whole = [own[1.0] for own in costs]
    step_s = np.array([g.device.step_s(w.step_flops, w.row_flops) for g, w in zip(machines, whole, strict=True)])
    uplink = np.array([group.link.uplink_mbps for group in machines])
    scarcer = np.minimum(step_s.min() / step_s, uplink / uplink.max())
    levels, needs = np.array(LEVELS), np.array([[own[level].memory_bytes for level in LEVELS] for own in costs])
    fits = needs <= memory_bytes(scenario)[:, None]
    # Somebody has to be the strongest, even where the fastest has a thin uplink or little memory.
    among = fits[:, 0] if fits[:, 0].any() else np.ones(len(machines), dtype=np.bool_)
    capacity = np.minimum(scarcer / scarcer[among].max(), 1.0)
    nearest = np.abs(np.log(capacity)[:, None] - np.log(levels)[None, :]).argmin(axis=1)
    return np.minimum(levels[nearest], np.where(fits, levels[None, :], 0.0).max(axis=1))
