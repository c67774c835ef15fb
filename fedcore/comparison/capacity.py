"""What a machine can bear beside the strongest one: the width rates that fixed-capacity methods are given."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedcore.costs import BlockCost
from scenarios.schema import Scenario

LEVELS = (1.0, 0.5, 0.25, 0.125, 0.0625)
"""HeteroFL's five complexity levels a to e (Diao et al. 2021)."""


def capacity_shares(scenario: Scenario, whole: BlockCost) -> NDArray[np.float64]:
    """Capacity of every machine, (K,), on HeteroFL's levels.

    The scarcer of what it has of the highest speed (whole-model steps per second) and of the fastest uplink, beside the
    machine that has most of it, rounded to the nearest level on a log scale. What orchestrators do again every round by
    looking at the fleet, this does once, by nominal figures: it is the fixed assignment of the width-scaling papers.

    Args:
        scenario: whose fleet.
        whole: cost of the whole model.
    """
    machines = scenario.fleet.machines
    step_s = np.array([g.device.step_overhead_s + whole.step_flops / (g.device.throughput_gflops * 1e9) for g in machines])
    uplink = np.array([group.link.uplink_mbps for group in machines])
    scarcer = np.minimum(step_s.min() / step_s, uplink / uplink.max())
    capacity = scarcer / scarcer.max()  # somebody has to be the strongest, even where the fastest has a thin uplink
    levels = np.array(LEVELS)
    nearest = np.abs(np.log(capacity)[:, None] - np.log(levels)[None, :]).argmin(axis=1)
    return levels[nearest]
