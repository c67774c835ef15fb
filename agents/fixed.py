"""Decisions that never change, by name: "fixed:0.5x10" for everyone, "fixed:1x40/2" for the two fastest machines alone."""

from __future__ import annotations

import re

import numpy as np

from agents.best_static import Static, whole_step_s, within_memory
from envs.spaces import encode
from fedcore.world import World
from scenarios import InputError

FIXED = "fixed:"


def parse_fixed(name: str, world: World) -> Static:
    """A fixed decision.

    Args:
        name: "fixed:SHARExH" or "fixed:SHARExH/N" for the N machines that are fastest as advertised; H is the nearest on the
            scenario's menu.
        world: compiled scenario.

    Raises:
        InputError: a name of another form, or numbers out of range.
    """
    found = re.fullmatch(rf"{FIXED}(\d*\.?\d+)x(\d+)(?:/(\d+))?", name)
    if found is None:
        raise InputError(f"agent {name!r} is no fixed decision, expected {FIXED}SHARExH or {FIXED}SHARExH/N ({FIXED}0.5x10/2)")
    share, steps = float(found[1]), int(found[2])
    machines = world.arrays.machines
    keep = machines if found[3] is None else int(found[3])
    if not (0.0 < share <= 1.0 and steps >= 1 and keep >= 1):
        raise InputError(f"agent {name!r}: expected a share in (0, 1], H of at least 1 and at least one machine")
    shares = np.zeros(machines)
    shares[np.argsort(whole_step_s(world), kind="stable")[:keep]] = share
    menu = np.array(world.scenario.decision.sync_intervals)
    level = int(np.argmin(np.abs(np.log(menu / steps))))
    return Static(encode(within_memory(world, shares), level, len(menu), len(world.data)), name)
