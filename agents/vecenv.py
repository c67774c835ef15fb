"""The batched fast tier behind stable-baselines3's VecEnv interface, without one Python object per environment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv

from envs.core import REACHED, Core, SimulatedLearner
from envs.menu import menu_actions, menu_size
from envs.observation import observation_space
from envs.spaces import action_space
from fedcore.world import World


class BatchedVecEnv(VecEnv):
    """B episodes of the fast tier; resets ended episodes at once, as stable-baselines3 expects.

    In a script: `PPO("MlpPolicy", BatchedVecEnv([compile_world(scenarios.load("phones"))], 256, seed=0))`.

    Args:
        worlds: scenarios that episodes draw from, compiled (`fedcore.world.compile_world`).
        num_envs: B.
        seed: of all episodes.
        menu: offer the Discrete menu instead of the Box.
        reward: a name in `envs.rewards.REWARDS`; None for the scenarios' own kind.

    Raises:
        ValueError: no world, no episode, or an unknown reward.
    """

    def __init__(
        self, worlds: Sequence[World], num_envs: int, seed: int, menu: bool = False, reward: str | None = None
    ) -> None:
        self.core = Core(worlds, num_envs, SimulatedLearner(), reward)
        self.menu = menu
        action: gym.Space[Any] = gym.spaces.Discrete(menu_size()) if menu else action_space(self.core.max_machines)
        self.render_mode = None
        super().__init__(num_envs, observation_space(self.core.max_machines), action)
        self.seed(seed)
        self._actions: NDArray[Any] = np.zeros(0)
        self._observation = np.zeros((num_envs, *self.observation_space.shape), dtype=np.float32)  # type: ignore[misc]
        self._returns, self._lengths = np.zeros(num_envs), np.zeros(num_envs, dtype=np.int64)

    def seed(self, seed: int | None = None) -> list[int | None]:
        """Seed what the next `reset` draws from; without a number, from the system's entropy."""
        if seed is None:
            seed = int(np.random.SeedSequence().generate_state(1)[0])
        self.generators = [np.random.default_rng([seed, i]) for i in range(self.num_envs)]
        return [seed] * self.num_envs

    def reset(self) -> NDArray[np.float32]:
        """Start every episode."""
        self.core.reset(np.arange(self.num_envs), self.generators)
        self._returns[:], self._lengths[:] = 0.0, 0
        self._observation = self.core.observe()
        return self._observation

    def step_async(self, actions: NDArray[Any]) -> None:
        """Keep the actions for `step_wait`."""
        self._actions = actions

    def step_wait(self):  # type: ignore[no-untyped-def]
        """Play one round everywhere."""
        actions = self._actions
        if self.menu:
            actions = menu_actions(actions, self._observation)
        rewards, reason = self.core.step(actions)
        self._returns += rewards
        self._lengths += 1
        ended = reason > 0
        which = np.flatnonzero(ended)
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        observation = self.core.observe()
        if len(which):
            score, ledger = self.core.log_efficiency(), self.core.ledger()
            for i in which:
                infos[i] = {
                    "terminal_observation": observation[i].copy(),
                    "episode": {"r": float(self._returns[i]), "l": int(self._lengths[i]), "t": 0.0},
                    "log_efficiency": float(score[i]),
                    "reached": bool(reason[i] == REACHED),
                    "parts": (ledger.time[i], ledger.energy[i], ledger.bytes[i], self._lengths[i]),
                }
            self.core.reset(which, [self.generators[i] for i in which])
            self._returns[which], self._lengths[which] = 0.0, 0
            observation = self.core.observe()
        self._observation = observation
        return observation, rewards.astype(np.float32), ended, infos

    def close(self) -> None:
        """Nothing to close."""

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """The same attribute for every environment."""
        return [getattr(self, attr_name)] * len(list(self._get_indices(indices)))

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Not supported: episodes have no objects of their own."""
        raise NotImplementedError("the batched environment has no per-environment attributes")

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        """Not supported: episodes have no objects of their own."""
        raise NotImplementedError("the batched environment has no per-environment methods")

    def env_is_wrapped(self, wrapper_class: type[gym.Wrapper], indices: Any = None) -> list[bool]:
        """Nothing is wrapped; episode statistics are built in."""
        return [False] * len(list(self._get_indices(indices)))
