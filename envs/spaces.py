"""The one action space: how a vector of numbers becomes a decision, and back."""

from __future__ import annotations

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from envs.rows import in_rows
from fedcore.kernel import kernel

RESTS_BELOW = -0.5
"""Action entries at or below this are share 0: the machine sits this round out. A quarter of the range, so that leaving
a machine out is as easy to find as any other choice; the rest of the range is the share, linearly."""


def action_space(max_machines: int) -> spaces.Box:
    """Box(-1, 1, (K_max + 1,)): one entry per machine for its share, the last one for the level of H."""
    return spaces.Box(-1.0, 1.0, (max_machines + 1,), dtype=np.float32)


def decode(actions: NDArray[np.floating], levels: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Actions to decisions.

    Args:
        actions: (B, K_max + 1); values beyond [-1, 1] are clipped.
        levels: (B,) number of sync intervals in each scenario's menu.

    Returns:
        (B, K_max) shares in [0, 1], (B,) index into the menu of sync intervals.

    Raises:
        ValueError: wrong shape, no real numbers, or not finite.
    """
    if np.asarray(actions).dtype.kind not in "fiu":
        raise ValueError(f"actions are of type {np.asarray(actions).dtype}, expected real numbers in [-1, 1]")
    actions = np.asarray(actions, dtype=np.float64)
    if actions.ndim != 2 or actions.shape[1] < 1:
        raise ValueError(f"actions have shape {actions.shape}, expected (environments, K_max + 1)")
    if not np.isfinite(actions).all():
        raise ValueError("actions contain NaN or infinity, expected finite numbers in [-1, 1]")
    shares, level = np.empty((len(actions), actions.shape[1] - 1)), np.empty(len(actions), dtype=np.int64)
    each = np.array(np.broadcast_to(levels, level.shape), dtype=np.int64)
    in_rows(_decode_rows, (), (actions, each, shares, level))
    return shares, level


@kernel()
def _decode_rows(
    actions: NDArray[np.float64], levels: NDArray[np.int64], shares: NDArray[np.float64], level: NDArray[np.int64]
) -> None:
    last = actions.shape[1] - 1
    for b in range(len(actions)):
        for k in range(last):
            entry = min(max(actions[b, k], -1.0), 1.0)
            shares[b, k] = max(entry - RESTS_BELOW, 0.0) / (1.0 - RESTS_BELOW)
        entry = min(max(actions[b, last], -1.0), 1.0)
        level[b] = min(np.int64(0.5 * (entry + 1.0) * levels[b]), levels[b] - 1)


def share_entries(shares: NDArray[np.floating]) -> NDArray[np.float32]:
    """Action entries that mean these shares, any shape; -1 for 0."""
    entries = RESTS_BELOW + (1.0 - RESTS_BELOW) * np.asarray(shares, dtype=np.float64)
    return np.where(np.asarray(shares) > 0, entries, -1.0).astype(np.float32)


def encode(shares: NDArray[np.floating], level: int, levels: int, max_machines: int) -> NDArray[np.float32]:
    """One decision to the action that means it.

    Args:
        shares: (K,) in [0, 1] for the machines that there are.
        level: index into the menu of sync intervals.
        levels: its length.
        max_machines: K_max.

    Returns:
        (K_max + 1,) float32.
    """
    action = np.full(max_machines + 1, -1.0, dtype=np.float32)
    action[: len(shares)] = share_entries(np.asarray(shares))
    action[-1] = 2.0 * (level + 0.5) / levels - 1.0
    return action
