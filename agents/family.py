"""Families of simple policies, decided by the row: what planners try and go on with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agents.best_static import static_decisions, within_memory
from envs.crews import unasked
from envs.observation import split
from envs.patterns import finish_time, ready, round_energy
from envs.spaces import encode, share_entries
from fedcore.world import World

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Actions = NDArray[np.float32]

SHARES = (0.25, 0.5, 1.0)
"""That ranked policies give."""
FIXED, FASTEST, THRIFTIEST, TURNS = range(4)


@dataclass(frozen=True)
class Family:
    """Policies to try and to go on with, every field one row per policy.

    Attributes:
        action: (P, K_max + 1); of a ranked policy only the last entry, H, is used.
        rank: (P,) FIXED always takes its action; FASTEST gives its share to those of the machines present that would be back
            first, as last measured, THRIFTIEST to those that would use least energy, and TURNS to those whose time is shortest
            for the rounds that they have not been asked.
        keep: (P,) to how many of them.
        share: (P,) how much.
        steps: (P,) H, of ranked policies.
    """

    action: Actions
    rank: Ints
    keep: Ints
    share: Floats
    steps: Floats

    def decide(self, which: Ints, observations: NDArray[np.float32]) -> Actions:
        """Decisions (B, K_max + 1) of the policies `which` (B,) on observations (B, size)."""
        out = self.action[which]
        ranked = np.flatnonzero(self.rank[which] != FIXED)
        if not len(ranked):
            return out
        here, policy = split(observations[ranked]), which[ranked]
        able, whole, steps = ready(here), np.ones_like(here.machine["exists"]), self.steps[policy]
        seconds, joules = finish_time(here, whole, steps), round_energy(here, whole, steps)
        rank = self.rank[policy, None]
        in_turn = seconds / (1.0 + unasked(here))
        cost = np.where(rank == FASTEST, seconds, np.where(rank == THRIFTIEST, joules, in_turn))
        order = np.argsort(np.where(able, cost, np.inf), axis=1, kind="stable")
        place = np.empty_like(order)
        place[np.arange(len(order))[:, None], order] = np.arange(order.shape[1])
        share = np.minimum(self.share[policy, None], here.machine["max_share"])
        out[ranked, :-1] = share_entries(np.where(able & (place < self.keep[policy, None]), share, 0.0))
        return out


def family(world: World) -> Family:
    """All candidates of `best_static`, each machine alone, and the ranked ones with every H."""
    menu, n, size = world.scenario.decision.sync_intervals, world.arrays.machines, len(world.data)
    fixed = [action for _, action in static_decisions(world)]
    for k in range(n):
        alone = within_memory(world, np.eye(n)[k])
        fixed += [encode(alone, level, len(menu), size) for level in range(len(menu))]
    none = np.zeros(len(fixed))
    ranks = ranked(world, (1, 2, max(n // 4, 1), (n + 1) // 2, n))
    return Family(
        np.concatenate([np.stack(fixed), ranks.action]),
        np.concatenate([np.full(len(fixed), FIXED), ranks.rank]),
        np.concatenate([none.astype(np.int64), ranks.keep]),
        np.concatenate([none, ranks.share]),
        np.concatenate([none, ranks.steps]),
    )


def ranked(world: World, keeps: Sequence[int], shares: Sequence[float] = SHARES, first_level: int = 0) -> Family:
    """The ranked policies.

    Args:
        world: compiled scenario.
        keeps: numbers of machines to ask; those that the fleet has not are left out.
        shares: to give.
        first_level: index of the shortest H on the scenario's menu.
    """
    menu, n, size = world.scenario.decision.sync_intervals, world.arrays.machines, len(world.data)
    rows, actions = [], []
    for rank in (FASTEST, THRIFTIEST, TURNS):
        for keep in sorted(set(keeps) & set(range(1, n + 1))):
            for share in shares:
                for level, steps in enumerate(map(float, menu)):
                    if level >= first_level:
                        rows.append((rank, keep, share, steps))
                        actions.append(encode(np.zeros(n), level, len(menu), size))
    rank_, keep_, share_, steps_ = zip(*rows, strict=True)
    return Family(np.stack(actions), np.array(rank_), np.array(keep_), np.array(share_), np.array(steps_))
