"""A run's own decisions made again in simulation, round by round, so that what rounds cost can be compared.

A policy that decides for itself may decide otherwise in simulation than it did in a real run, where luck was another: then its
rounds differ for that reason too. Here only what a round takes can differ.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium.utils.seeding import np_random

from agents.episodes import EpisodeResult
from envs.core import Bools, Core, Decisions, Floats, Ints
from envs.spaces import encode
from fedcore.world import World


class Still:
    """Learns nothing, so that no episode ends before the last decision."""

    immutable: tuple[Any, ...] = ()

    def reset(self, core: Core, which: Ints) -> None:
        """See `Learner.reset`."""

    def advance(self, core: Core, decisions: Decisions, done: Bools) -> Floats:
        """See `Learner.advance`."""
        return np.zeros(core.num_envs)


def replay(agent: str, decisions: Sequence[Mapping[str, Any]], world: World, seeds: Sequence[int]) -> list[EpisodeResult]:
    """Make these decisions in simulated episodes.

    Args:
        agent: whose they were.
        decisions: per round, "shares" of all machines and "steps", the sync interval, as `real_run` writes them.
        world: compiled scenario.
        seeds: of the episodes.

    Returns:
        An episode per seed, its costs those of all these rounds; it has no score, which is NaN.
    """
    core = Core([world], len(seeds), Still(), "efficiency")
    core.reset(np.arange(len(seeds)), [np_random(seed)[0] for seed in seeds])
    menu = list(world.scenario.decision.sync_intervals)
    for decision in decisions:
        shares = np.array(decision["shares"])
        action = encode(shares, menu.index(decision["steps"]), len(menu), core.max_machines)
        core.step(np.tile(action, (len(seeds), 1)))
    return [
        EpisodeResult.of(agent, world.scenario.name, seed, core.info(b), float("nan"), False, [])
        for b, seed in enumerate(seeds)
    ]
