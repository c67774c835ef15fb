"""What both single environments share: a core with one episode, behind the Gymnasium interface."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from envs.core import END_REASONS, REACHED, Core, Learner
from envs.observation import observation_space
from envs.rendering import History, render_ansi, render_rgb
from envs.restoring import Restorable
from envs.spaces import action_space
from fedcore.world import World, calibration_note, compile_world
from scenarios import InputError, Scenario, load

ScenarioLike = str | Path | Scenario
VECTOR_REWARD = ("progress", "-time", "-energy", "-bytes")


def compile_scenarios(
    scenario: ScenarioLike | Sequence[ScenarioLike], max_machines: int, channels: int = 1
) -> tuple[World, ...]:
    """Worlds of one scenario or a sequence of them, each a name, a path or a `Scenario`.

    Raises:
        InputError: a scenario does not load or compile, or there is none.
    """
    if isinstance(max_machines, bool) or not isinstance(max_machines, int | np.integer) or max_machines < 1:
        raise InputError(f"max_machines is {max_machines!r}, expected a whole number of at least 1")
    if not isinstance(scenario, str | Path | Scenario | Sequence) or not (isinstance(scenario, str) or scenario):
        raise InputError(f"scenario is {scenario!r:.60}, expected a name, a path, a Scenario or a sequence of these")
    many = [scenario] if isinstance(scenario, str | Path | Scenario) else list(scenario)
    return tuple(compile_world(s if isinstance(s, Scenario) else load(s), max_machines, channels) for s in many)


def compile_simulated(scenario: ScenarioLike | Sequence[ScenarioLike], max_machines: int) -> tuple[World, ...]:
    """As `compile_scenarios`, to simulate training in; warns of workloads that no calibration was made of."""
    worlds = compile_scenarios(scenario, max_machines)
    for note in filter(None, (calibration_note(world.scenario) for world in worlds)):
        warnings.warn(note, stacklevel=3)
    return worlds


def vector_reward_space() -> gym.spaces.Box:
    """Of the reward that has an entry per objective of `VECTOR_REWARD`."""
    return gym.spaces.Box(-np.inf, np.inf, (len(VECTOR_REWARD),), dtype=np.float32)


class SingleEnv(Restorable, gym.Env[NDArray[np.float32], NDArray[np.float32]]):
    """One episode of a `Core`."""

    moving = ("np_random", "history", "_needs_reset", "_began")
    metadata = {"render_modes": ["rgb_array", "ansi"], "render_fps": 4}  # noqa: RUF012 - as Gymnasium declares it

    def __init__(
        self,
        worlds: Sequence[World],
        learner: Learner,
        reward: str | None,
        render_mode: str | None,
        core: type[Core] = Core,
    ) -> None:
        if render_mode is not None and render_mode not in self.metadata["render_modes"]:
            raise ValueError(f"render_mode {render_mode!r} is unknown, expected one of {self.metadata['render_modes']}")
        self.core = core(worlds, 1, learner, reward)
        self.render_mode = render_mode
        self.observation_space: gym.Space[Any] = observation_space(self.core.max_machines)
        self.action_space: gym.Space[Any] = action_space(self.core.max_machines)
        self.reward_space = vector_reward_space()
        self.history = History()
        self._needs_reset = True
        self._began = False

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Start an episode; `options` takes nothing."""
        super().reset(seed=seed)
        self.core.reset(np.array([0]), [self.np_random])
        self._needs_reset, self._began = False, True
        self.history = History()
        return self.observation(), {"scenario": self.core.world().scenario.name, **self.core.info(0)}

    def observation(self) -> NDArray[np.float32]:
        """What the last step or reset gave, once more, (size,): wrappers that decide on it need no memory of their own."""
        if not self._began:
            raise gym.error.ResetNeeded("no episode began yet: call reset() first")
        return self.core.observe()[0].copy()

    def step(
        self, action: NDArray[np.floating]
    ) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Play one round; see the class."""
        if self._needs_reset:
            raise gym.error.ResetNeeded("the episode is over or never began: call reset() first")
        rewards, reason = self.core.step(np.asarray(action)[None])
        ended = bool(reason[0])
        info = self.core.info(0)
        info["vector_reward"] = self.core.vector_reward()[0]
        if ended:
            self._needs_reset = True
            info["end_reason"] = END_REASONS[int(reason[0])]
            info["reached"] = bool(reason[0] == REACHED)
            info["log_efficiency"] = float(self.core.log_efficiency()[0])
            info["efficiency"] = float(np.exp(info["log_efficiency"]))
        if self.render_mode is not None:
            self.history.append(info)
        # Budgets are part of the observed state, so running out of one is an end in itself, not a truncation.
        return self.observation(), float(rewards[0]), ended, False, info

    def render(self) -> NDArray[np.uint8] | str | None:
        """The fleet as a graph, each machine's blocks as coloured strips, the curves so far; or the same as text."""
        if self.render_mode is not None and not self._began:
            raise gym.error.ResetNeeded("there is nothing to render yet: call reset() first")
        if self.render_mode == "rgb_array":
            return render_rgb(self.core, self.history, self.blocks())
        if self.render_mode == "ansi":
            return render_ansi(self.core, self.history, self.blocks())
        return None

    def blocks(self) -> list[list[NDArray[np.int64]]]:
        """Per machine and layer, indices of the neurons it trained last round; empty lists where it rested."""
        raise NotImplementedError


def over_box(env: gym.Env[Any, Any]) -> SingleEnv:
    """As `single`, of an environment that still takes actions of the Box as they are.

    Raises:
        TypeError: none of ours is in it, or a wrapper in between takes other actions.
    """
    bare = single(env)
    if env.action_space != bare.action_space:
        raise TypeError(f"the wrapped environment takes {env.action_space}, expected {bare.action_space}, that of ours itself")
    return bare


def single(env: gym.Env[Any, Any]) -> SingleEnv:
    """The environment of ours inside any wrappers.

    Raises:
        TypeError: there is none.
    """
    bare = env.unwrapped
    if not isinstance(bare, SingleEnv):
        raise TypeError(f"got {type(bare).__name__}, expected one of intrafed's single environments, wrapped or not")
    return bare
