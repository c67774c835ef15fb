"""The fast tier with a vector reward, as mo-gymnasium has it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from envs.orchestration import OrchestrationEnv
from envs.single import VECTOR_REWARD, ScenarioLike, vector_reward_space
from envs.vector import OrchestrationVectorEnv


class MultiObjectiveEnv(OrchestrationEnv):
    """`IntraFed/Orchestration-v0` for multi-objective learning: every objective has its own number.

    ## Description

    The task is that of `IntraFed/Orchestration-v0`. Only the reward differs: how much a second, a joule or a byte is worth
    is left to the learner, which may look for a whole front of policies.

    ## Observation Space

    As `IntraFed/Orchestration-v0`. The scenario's own weight of energy against bytes is still in it; nothing pays by it.

    ## Action Space

    As `IntraFed/Orchestration-v0`.

    ## Reward

    `reward_space` is `Box(-inf, inf, (4,), float32)`; the reward of a round is

    | entry | objective | meaning |
    |---|---|---|
    | 0 | progress | change of progress in this round; over an episode it sums to the progress at the end |
    | 1 | -time | minus its seconds over T_ref |
    | 2 | -energy | minus its joules over E_ref |
    | 3 | -bytes | minus its bytes over B_ref |

    where T_ref, E_ref and B_ref are what the scenario's reference policy needs to the target, so that its returns are about
    (1, -1, -1, -1). `mo_gymnasium.wrappers.LinearReward` weighs them into one number; a weighted sum is not the episode's
    efficiency (docs/rewards.md says how far they agree).

    ## Starting State

    As `IntraFed/Orchestration-v0`.

    ## Episode End

    As `IntraFed/Orchestration-v0`; the last `info` has its `efficiency` too (a batch's has `log_efficiency`).

    ## Arguments

    - `scenario`, `max_machines`, `render_mode`: as `IntraFed/Orchestration-v0`.

    `mo_gymnasium.make` and `gymnasium.make` both make it, and `gymnasium.make_vec` a natively batched one with rewards (B, 4).
    Gymnasium's environment checker allows no vector rewards: it is switched off in the registration and says nothing else
    against this environment.

    ## Version History

    - v0: first version.
    """

    def __init__(
        self,
        scenario: ScenarioLike | Sequence[ScenarioLike] = "farm-lte",
        max_machines: int = 16,
        render_mode: str | None = None,
    ) -> None:
        # Scenarios may ask for different scalar rewards: here none of them is paid.
        super().__init__(scenario, "efficiency", max_machines, render_mode)

    @property
    def reward_dim(self) -> int:
        """How many objectives there are, as some of mo-gymnasium's wrappers ask."""
        return len(VECTOR_REWARD)

    def step(  # type: ignore[override]
        self, action: NDArray[np.floating]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], bool, bool, dict[str, Any]]:
        """Play one round; see the class."""
        observation, _, terminated, truncated, info = super().step(action)
        # A copy: mo-gymnasium's wrappers change rewards in place.
        return observation, info["vector_reward"].copy(), terminated, truncated, info


class MultiObjectiveVectorEnv(OrchestrationVectorEnv):
    """`IntraFed/Orchestration-MO-v0` with B episodes side by side: as `OrchestrationVectorEnv`, with rewards (B, 4) float32.

    Args:
        num_envs: B.
        scenario: as `MultiObjectiveEnv`.
        max_machines: K_max.
        render_mode: only None.
        autoreset_mode: as `OrchestrationVectorEnv`.
        copy: as `OrchestrationVectorEnv`.
    """

    def __init__(
        self,
        num_envs: int = 1,
        scenario: ScenarioLike | Sequence[ScenarioLike] = "farm-lte",
        max_machines: int = 16,
        render_mode: str | None = None,
        autoreset_mode: AutoresetMode = AutoresetMode.NEXT_STEP,
        copy: bool = True,
    ) -> None:
        super().__init__(num_envs, scenario, "efficiency", max_machines, render_mode, autoreset_mode, copy)
        self.reward_space = vector_reward_space()

    def _play(self, actions: NDArray[np.float32]) -> tuple[NDArray[Any], NDArray[np.int64]]:
        _, reason = self.core.step(actions)
        return self.core.vector_reward(), reason
