"""What progress 1 means: most of what the reference policy on a bare fleet reaches in a fixed number of rounds."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from fedcore.training import FederatedTraining
from scenarios.schema import Device, Fleet, Group, Link, Scenario, Workload

TARGET_ROUNDS = 36
TARGET_PART = 0.9
"""Progress 1 is this part of the way that equal half shares and H = 10 come on six machines in `TARGET_ROUNDS`. At the end of
that way curves are nearly flat: whether a run gets there at all would be a matter of luck, not of decisions."""
TARGET_TAIL = 3
"""Mean over so many last rounds: what is measured scatters."""
REFERENCE_MACHINES = 6


def bare_scenario(machines: int, workload: Workload, images: int | Sequence[int] = 160) -> Scenario:
    """A scenario of that many alike machines: calibration cares for learning, not for cost.

    Args:
        machines: how many.
        workload: what is trained.
        images: on each (or windows of text); one number for all, or one per machine.
    """
    device = Device(throughput_gflops=10, memory_mb=4096, active_power_w=5, idle_power_w=1)
    link = Link(uplink_mbps=10, downlink_mbps=10)
    each = [("node", machines, images)] if isinstance(images, int) else [(f"node-{k}", 1, n) for k, n in enumerate(images)]
    groups = tuple(Group(name=name, count=count, device=device, link=link, images=n) for name, count, n in each)
    return Scenario(name="calibration", fleet=Fleet(groups=groups), workload=workload)


def target_between(untrained: float, reached: float) -> float:
    """InfoNCE at progress 1, from that of the untrained encoder and what `play_reference` reached."""
    return untrained - TARGET_PART * (untrained - reached)


def reference_curve(
    training: FederatedTraining, scenario: Scenario, on_round: Callable[[int], None] = lambda rounds: None
) -> list[float]:
    """InfoNCE after each of `TARGET_ROUNDS` rounds of the reference policy; `on_round` is told how many there have been."""
    machines, curve = len(scenario.fleet.machines), []
    for r in range(TARGET_ROUNDS):
        curve.append(training.play([scenario.reference.share] * machines, scenario.reference.sync_interval).infonce)
        on_round(r + 1)
    return curve


def reached_by(curve: Sequence[float]) -> float:
    """InfoNCE that a reference's curve ends at, mean of the last `TARGET_TAIL`."""
    return float(np.mean(curve[-TARGET_TAIL:]))


def play_reference(training: FederatedTraining, scenario: Scenario) -> float:
    """InfoNCE that the reference policy reaches in `TARGET_ROUNDS` rounds."""
    return reached_by(reference_curve(training, scenario))
