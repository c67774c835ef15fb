"""The one action space: how a vector of numbers becomes a decision, and back."""

from __future__ import annotations

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

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
    if actions.ndim != 2:
        raise ValueError(f"actions have shape {actions.shape}, expected (environments, K_max + 1)")
    if not np.isfinite(actions).all():
        raise ValueError("actions contain NaN or infinity, expected finite numbers in [-1, 1]")
    actions = np.clip(actions, -1.0, 1.0)
    shares = np.maximum(actions[:, :-1] - RESTS_BELOW, 0.0) / (1.0 - RESTS_BELOW)
    level = np.minimum((0.5 * (actions[:, -1] + 1.0) * levels).astype(np.int64), levels - 1)
    return shares, level


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
