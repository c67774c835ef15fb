"""Play copies of simulated episodes to their end, side by side."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from envs.core import Core

Floats = NDArray[np.float64]
Decide = Callable[[NDArray[np.int64], NDArray[np.float32]], NDArray[np.float32]]
Floor = Callable[[Floats], Floats]
"""From log-efficiencies, minus infinity of those that still run, to the least that is of interest of each; (B,) both."""


def best_of(wanted: int) -> Floor:
    """So many of the best are of interest."""
    return lambda scores: np.full(len(scores), np.partition(scores, -wanted)[-wanted] if len(scores) > wanted else -np.inf)


def play_out(core: Core, decide: Decide, floor: Floor | None = None) -> Floats:
    """Log-efficiencies (B,) with which the episodes of a core end, which is left in no useful state.

    Args:
        core: simulated episodes that have begun and not ended.
        decide: rows (N,) of those that still run and their observations (N, size) to actions (N, K_max + 1).
        floor: what is of interest, if not all is: an episode that is certain not to get above it is left unplayed and ends at
            minus infinity.
    """
    out, rows = np.full(core.num_envs, -np.inf), np.arange(core.num_envs)
    while len(rows):
        _, reason = core.step(decide(rows, core.observe()))
        running = reason == 0
        if not running.all():
            out[rows[~running]] = core.log_efficiency()[~running]
        if floor is not None:
            running &= core.log_efficiency_bound() > floor(out)[rows]
        if not running.all():
            goes_on = np.flatnonzero(running)
            rows, core = rows[goes_on], core.copies(goes_on)
    return out


def earned_from(rewards: Floats, ends: NDArray[np.bool_]) -> Floats:
    """What was earned from each round to its episode's end, (T, B), NaN where the end was not seen.

    Args:
        rewards: (T, B) of rounds of episodes side by side, another beginning where one ends.
        ends: (T, B) whether an episode ended with that round.
    """
    earned, ahead = np.zeros(rewards.shape), np.full(rewards.shape[1], np.nan)
    for t in reversed(range(len(rewards))):
        ahead = rewards[t] + np.where(ends[t], 0.0, ahead)
        earned[t] = ahead
    return earned
