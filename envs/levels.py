"""The MultiDiscrete face for masked policies: one of a few shares for every machine, one of a few sync intervals."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from envs.menu import LEVELS
from envs.observation import View, split
from envs.patterns import ready
from envs.single import over_box
from envs.spaces import share_entries
from fedcore.costs import GRID

SHARES = np.array([0.0, 0.1, 0.25, 0.5, 1.0])
"""Shares that a machine may be given."""


def level_actions(choices: NDArray[np.integer]) -> NDArray[np.float32]:
    """Choices to actions of the Box space.

    Args:
        choices: (..., K_max + 1), an index into `SHARES` per machine, then one of `LEVELS` sync intervals.

    Returns:
        (..., K_max + 1) float32.
    """
    choices = np.asarray(choices)
    interval = 2.0 * (choices[..., -1:] + 0.5) / LEVELS - 1.0
    return np.concatenate([share_entries(SHARES[choices[..., :-1]]), interval], axis=-1).astype(np.float32)


def level_masks(view: View) -> NDArray[np.bool_]:
    """Which choices are possible: share 0 for every machine, more for those that are ready, as far as their memory goes.

    Args:
        view: one observation or a batch.

    Returns:
        (..., K_max x len(SHARES) + LEVELS), the parts of the MultiDiscrete one after the other, as sb3-contrib has it.
    """
    fits = view.machine["max_share"][..., None] + 0.5 / GRID >= SHARES
    shares = (ready(view)[..., None] & fits) | (SHARES == 0.0)
    shares = shares.reshape(*shares.shape[:-2], -1)
    return np.concatenate([shares, np.ones((*shares.shape[:-1], LEVELS), dtype=np.bool_)], axis=-1)


class LevelAction(gym.utils.RecordConstructorArgs, gym.ActionWrapper[NDArray[np.float32], Any, NDArray[np.float32]]):
    """`MultiDiscrete([5] * K_max + [5])` over any of the environments.

    Entry k < K_max is an index into `SHARES`, the last one a part of the scenario's sync intervals. Choices that
    `action_masks` rules out are allowed as they are in the Box: who is away is not asked, and a block that does not fit
    is "infeasible".

    Args:
        env: `IntraFed/Orchestration-v0`, `IntraFed/Orchestration-MO-v0` or `IntraFed/Training-v0`, wrapped or not.

    Raises:
        TypeError: another environment, or a wrapper in between takes other actions.
    """

    def __init__(self, env: gym.Env[NDArray[np.float32], NDArray[np.float32]]) -> None:
        gym.utils.RecordConstructorArgs.__init__(self)
        gym.ActionWrapper.__init__(self, env)
        self.bare = over_box(env)
        self.action_space = spaces.MultiDiscrete([len(SHARES)] * self.bare.core.max_machines + [LEVELS])

    def action(self, action: NDArray[np.integer]) -> NDArray[np.float32]:
        """The Box action that the choices mean; raises ValueError where they are none of the space's."""
        if np.asarray(action) not in self.action_space:
            raise ValueError(f"action {action!r} is not in {self.action_space}")
        return level_actions(action)

    def action_masks(self) -> NDArray[np.bool_]:
        """(K_max x 5 + 5,) which choices are possible now, see `level_masks`."""
        return level_masks(split(self.bare.observation()))
