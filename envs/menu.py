"""The Discrete face, of PPO and DQN: a menu of share patterns times sync intervals."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from envs.crews import ALL, SURE, TURNS, WEIGHTS, crew, in_turn, thriftiest
from envs.observation import FLEET_FEATURES, N_FLEET, View, machines_of, split
from envs.patterns import Floats, balanced, by_speed, fastest_half, ready, thriftiest_half, uniform
from envs.single import over_box
from envs.spaces import share_entries

LEVELS = 5
"""Sync intervals on the menu, spread evenly over the scenario's own list."""

PATTERNS: dict[str, Callable[[View, Floats | float], Floats]] = {
    "whole": lambda view, steps: uniform(view, 1.0),
    "half": lambda view, steps: uniform(view, 0.5),
    "quarter": lambda view, steps: uniform(view, 0.25),
    "tenth": lambda view, steps: uniform(view, 0.1),
    "speed": lambda view, steps: by_speed(view),
    "balanced-half": lambda view, steps: balanced(view, 0.5, steps),
    "balanced-quarter": lambda view, steps: balanced(view, 0.25, steps),
    "fastest-half": lambda view, steps: fastest_half(view, 0.5, steps),
    "fastest-quarter": lambda view, steps: fastest_half(view, 0.25, steps),
    "thrifty-half": lambda view, steps: thriftiest_half(view, 0.5, steps),
    "thrifty-quarter": lambda view, steps: thriftiest_half(view, 0.25, steps),
    "crew": crew,
    "crew-singly": lambda view, steps: crew(view, steps, turns=ALL),
    "crew-more": lambda view, steps: crew(view, steps, turns=TURNS, more=1),
    "sure-singly": lambda view, steps: crew(view, steps, turns=ALL, margin=SURE),
    "best": lambda view, steps: crew(view, steps, most=1),
    "two": lambda view, steps: crew(view, steps, most=2),
    "thriftiest": thriftiest,
    **{name: partial(in_turn, patience=p, data=d, teaches=t, surplus=s) for name, (p, d, t, s) in WEIGHTS.items()},
}
"""Name -> shares (..., K_max) from a view and H; a new pattern is one line.

Of the crew all are asked in a round, or one ("singly"); with "more", every third of one machine more than the crew; "sure"
is a crew with a margin. "turns" ask who is best for the rounds waited, weighed by data where the name says so; "proven" ones
by what rounds have told of each machine, most of all "proven-only"."""


def menu_size() -> int:
    """Number of moves."""
    return len(PATTERNS) * LEVELS


def interval_at(observation: NDArray[np.floating], level: NDArray[np.int64] | int) -> NDArray[np.float64]:
    """H that a level stands for, interpolated between the menu's ends on a log scale; patterns predict times with it."""
    short, long = (observation[..., FLEET_FEATURES.index(name) - N_FLEET] for name in ("shortest_interval", "longest_interval"))
    return np.asarray(10.0 ** (short + (long - short) * np.asarray(level) / (LEVELS - 1)), dtype=np.float64)


def menu_actions(moves: NDArray[np.int64], observations: NDArray[np.floating]) -> NDArray[np.float32]:
    """Moves to actions of the Box space.

    Args:
        moves: (B,) in [0, menu_size()).
        observations: (B, size), what the moves are made on.

    Returns:
        (B, K_max + 1) float32.

    Raises:
        ValueError: no moves of the menu, or not one for each observation.
    """
    moves = np.asarray(moves)
    if moves.shape != (len(observations),) or moves.dtype.kind not in "iu" or ((moves < 0) | (moves >= menu_size())).any():
        raise ValueError(f"moves are {moves!r:.80}, expected {len(observations)} whole numbers from 0 to {menu_size() - 1}")
    which, level = np.divmod(moves, LEVELS)
    machines = machines_of(observations.shape[-1])
    actions = np.full((len(observations), machines + 1), -1.0, dtype=np.float32)
    patterns, steps = tuple(PATTERNS.values()), interval_at(observations, level)
    for index in np.unique(which):
        chosen = which == index
        actions[chosen, :-1] = share_entries(patterns[index](split(observations[chosen]), steps[chosen]))
    actions[:, -1] = 2.0 * (level + 0.5) / LEVELS - 1.0
    return actions


class MenuAction(gym.utils.RecordConstructorArgs, gym.ActionWrapper[NDArray[np.float32], Any, NDArray[np.float32]]):
    """`Discrete(patterns x 5)` over any of the environments.

    Move i means pattern `i // 5` of `envs.menu.PATTERNS` and the (i % 5)-th part of the scenario's sync intervals.

    Args:
        env: `IntraFed/Orchestration-v0`, `IntraFed/Orchestration-MO-v0` or `IntraFed/Training-v0`, wrapped or not.
    """

    def __init__(self, env: gym.Env[NDArray[np.float32], NDArray[np.float32]]) -> None:
        gym.utils.RecordConstructorArgs.__init__(self)
        gym.ActionWrapper.__init__(self, env)
        self.bare = over_box(env)
        self.action_space = spaces.Discrete(menu_size())

    def action(self, action: int) -> NDArray[np.float32]:
        """The Box action that a move means now.

        Raises:
            ValueError: no move of the menu.
        """
        if not self.action_space.contains(action):
            raise ValueError(f"action is {action!r}, expected a move of the menu: a whole number from 0 to {menu_size() - 1}")
        return menu_actions(np.array([action]), self.bare.observation()[None])[0]

    def action_masks(self) -> NDArray[np.bool_]:
        """(menu_size(),) which moves ask at least one machine; all, where nobody can be asked anyway."""
        observation = self.bare.observation()
        if not ready(split(observation)).any():
            return np.ones(menu_size(), dtype=np.bool_)
        moves = np.arange(menu_size())
        actions = menu_actions(moves, np.repeat(observation[None], menu_size(), axis=0))
        return np.asarray((actions[:, :-1] > -1.0).any(axis=1))
