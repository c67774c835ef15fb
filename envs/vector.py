"""The fast tier natively batched: all episodes of a batch advance by array operations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from envs.core import END_REASONS, REACHED, Core, SimulatedLearner
from envs.observation import observation_space
from envs.restoring import Restorable
from envs.single import ScenarioLike, compile_simulated
from envs.spaces import action_space
from fedcore.fleet import columns as c

_REASONS = np.array(END_REASONS, dtype=object)


class OrchestrationVectorEnv(Restorable, gym.vector.VectorEnv[NDArray[np.float32], NDArray[np.float32], NDArray[np.float64]]):
    """`IntraFed/Orchestration-v0` with B episodes side by side; equal to B single environments step for step.

    Args:
        num_envs: B.
        scenario: as `OrchestrationEnv`; with several, every episode draws one.
        reward: as `OrchestrationEnv`.
        max_machines: K_max.
        render_mode: only None.
        autoreset_mode: `NEXT_STEP` (Gymnasium's default) or `SAME_STEP`.
        copy: give out observations that are the caller's to keep; otherwise the buffer itself, which the step after the next
            one overwrites (faster; `SyncVectorEnv` has the same switch).
    """

    moving = ("generators", "_ended", "_began")

    def __init__(
        self,
        num_envs: int = 1,
        scenario: ScenarioLike | Sequence[ScenarioLike] = "farm-lte",
        reward: str | None = None,
        max_machines: int = 16,
        render_mode: str | None = None,
        autoreset_mode: AutoresetMode = AutoresetMode.NEXT_STEP,
        copy: bool = True,
    ) -> None:
        if render_mode is not None:
            raise ValueError("the batched environment does not render: render one made by gym.make")
        if autoreset_mode not in (AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP):
            raise ValueError(f"autoreset_mode {autoreset_mode} is not supported, expected NEXT_STEP or SAME_STEP")
        self.num_envs, self.copy = num_envs, copy
        self.render_mode = None
        self.metadata = {"render_modes": [], "autoreset_mode": autoreset_mode}
        self.core = Core(compile_simulated(scenario, max_machines), num_envs, SimulatedLearner(), reward)
        self.single_observation_space = observation_space(self.core.max_machines)
        self.single_action_space = action_space(self.core.max_machines)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.generators = [np.random.default_rng() for _ in range(num_envs)]
        self._ended = np.zeros(num_envs, dtype=np.bool_)
        self._began = False

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Start every episode; a seed s gives episode i the seed s + i, as gymnasium's vector environments do. With
        `options={"reset_mask": mask}`, (B,) bool, only those of the mask.

        Raises:
            TypeError: a mask that is no array of numpy's bool.
            ValueError: another number of seeds than of episodes, or a mask of another shape or that chooses none.
            ResetNeeded: a mask leaves episodes as they are that never began.
        """
        mask = (options or {}).get("reset_mask", np.ones(self.num_envs, dtype=np.bool_))
        wrong = f"reset_mask is {mask!r:.60}, expected {self.num_envs} values of numpy's bool, not all False"
        if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_:
            raise TypeError(wrong)
        if mask.shape != (self.num_envs,) or not mask.any():
            raise ValueError(wrong)
        if not self._began and not mask.all():
            raise gym.error.ResetNeeded("no episode began yet: call reset() of all first")
        seeds = [None if seed is None else seed + i for i in range(self.num_envs)] if not isinstance(
            seed, Sequence) else list(seed)  # fmt: skip
        if len(seeds) != self.num_envs:
            raise ValueError(f"seed has {len(seeds)} entries, expected one for each of the {self.num_envs} environments")
        for i, value in enumerate(seeds):
            if value is not None and mask[i]:
                self.generators[i] = gym.utils.seeding.np_random(value)[0]
        which = np.flatnonzero(mask)
        self.core.reset(which, [self.generators[i] for i in which])
        self._ended[which] = False
        self._began = True
        return self._observe(), self._info(mask)

    def _info(self, mask: NDArray[np.bool_]) -> dict[str, Any]:
        """Where the episodes of a mask stand; 0 of others."""
        core, told = self.core, dict[str, Any](round=self.core.round, progress=self.core.progress)
        told |= {name: core.spent[:, i] for i, name in enumerate(("time_s", "energy_j", "bytes"))}
        told["co2e_kg"] = core.co2e_kg
        rounds = (("round_time_s", c.ROUND_S), ("round_energy_j", c.TOTAL_ENERGY_J), ("round_bytes", c.TOTAL_BYTES))
        told |= {name: core.totals[:, i] for name, i in rounds}
        whole = mask.all()
        shown = {name: value.copy() if whole else np.where(mask, value, 0) for name, value in told.items()}
        return shown | {f"_{name}": mask.copy() for name in told}

    def _observe(self) -> NDArray[np.float32]:
        return self.core.observe().copy() if self.copy else self.core.observe()

    def _play(self, actions: NDArray[np.float32]) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """A round everywhere: rewards, and why episodes end, as `Core.step`."""
        return self.core.step(actions)

    def step(
        self, actions: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float64], NDArray[Any], NDArray[Any], dict[str, Any]]:
        """Play one round in every episode, or start anew where one ended.

        `info` has arrays (B,) as gymnasium's vector environments give them, each with a mask under the same name with `_`
        before it: `round`, `progress`, `time_s`, `energy_j`, `bytes`, `co2e_kg`, `round_time_s`, `round_energy_j` and
        `round_bytes` of every episode, and of those that have just ended `end_reason`, `reached`, `log_efficiency` and
        `efficiency`. With `SAME_STEP`, what is of ended episodes is in `final_obs` and
        `final_info`, and the rest of those that begin. Other figures of a single environment's `info` are not gathered.
        """
        if not self._began:
            raise gym.error.ResetNeeded("no episode began yet: call reset() first")
        same_step = self.metadata["autoreset_mode"] == AutoresetMode.SAME_STEP
        restart = np.flatnonzero(self._ended)
        if not same_step and len(restart) and np.shape(actions) == self.action_space.shape:
            # What is ignored need not be an action.
            actions = np.array(actions)
            actions[restart] = 0.0
        rewards, reason = self._play(actions)
        if not same_step and len(restart):
            # An episode that ended last time starts now: this action is ignored, as gymnasium defines it.
            self.core.reset(restart, [self.generators[i] for i in restart])
            rewards[restart], reason[restart] = 0.0, 0
        ended = reason > 0
        everyone = np.ones(self.num_envs, dtype=np.bool_)
        info = self._info(everyone)
        which = np.flatnonzero(ended)
        if len(which):
            scores = np.where(ended, self.core.log_efficiency(), 0.0)
            ends: dict[str, Any] = {"log_efficiency": scores, "efficiency": np.where(ended, np.exp(scores), 0.0)}
            ends |= {"reached": reason == REACHED, "end_reason": _REASONS[reason]}
            info |= ends | {f"_{name}": ended.copy() for name in ends}
            if same_step:
                final = np.empty(self.num_envs, dtype=object)
                observation = self.core.observe()
                for i in which:
                    final[i] = observation[i].copy()
                told = {name: ended.copy() if name.startswith("_") else value for name, value in info.items()}
                self.core.reset(which, [self.generators[i] for i in which])
                ends = {"final_obs": final, "final_info": told}
                info = self._info(everyone) | ends | {f"_{name}": ended.copy() for name in ends}
        self._ended = np.zeros_like(ended) if same_step else ended
        return self._observe(), rewards, ended, np.zeros_like(ended), info
