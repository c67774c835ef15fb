"""The MultiDiscrete face, and masked PPO on both discrete faces."""

import warnings
from collections import Counter
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as check_env_sb3

from envs.levels import SHARES, LevelAction, level_actions, level_masks
from envs.menu import LEVELS, MenuAction
from envs.multi_objective import MultiObjectiveEnv
from envs.observation import split
from envs.orchestration import OrchestrationEnv
from envs.spaces import decode
from envs.vector import OrchestrationVectorEnv
from fedcore.costs import GRID
from fedcore.world import share_indices
from scenarios import Scenario


def test_gymnasium_and_sb3_accept_it(calibrated: Any) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        env = LevelAction(OrchestrationEnv(calibrated("phones")))
        check_env(env, skip_render_check=True)
        check_env_sb3(env)
    assert [w for w in caught if "different from the unwrapped version" not in str(w.message)] == []
    assert env.action_space == spaces.MultiDiscrete([5] * 16 + [5])


def test_choices_by_hand() -> None:
    action = level_actions(np.array([0, 1, 2, 3, 4, 2]))
    assert action.dtype == np.float32
    shares, level = decode(action[None], np.array([LEVELS]))
    assert shares[0] == pytest.approx(SHARES, abs=1e-6)
    assert level[0] == 2
    levels = [decode(level_actions(np.array([[0, h]])), np.array([LEVELS]))[1][0] for h in range(LEVELS)]
    assert levels == list(range(LEVELS))


def test_what_the_masks_allow_is_what_can_be_trained(calibrated: Any) -> None:
    """Against the simulation: what is allowed is never infeasible nor away, what is forbidden always is."""
    content = calibrated("phones").model_dump(mode="json")
    content["workload"] = calibrated("farm-lte").model_dump(mode="json")["workload"]
    # 21 MB hold a share of 0.9, 16 MB none.
    for group, memory in zip(content["fleet"]["groups"], (21.0, 16.0, 1000.0), strict=True):
        group["device"]["memory_mb"] = memory
    env = LevelAction(OrchestrationEnv(Scenario.model_validate(content)))
    rng = np.random.default_rng(0)
    seen = Counter[tuple[bool, str]]()
    env.reset(seed=0)
    for _ in range(60):
        masks = env.action_masks()[:-LEVELS].reshape(16, len(SHARES))
        choices = np.r_[rng.integers(len(SHARES), size=16), rng.integers(LEVELS)]
        _, _, ended, _, info = env.step(choices)
        for k, status in enumerate(info["status"]):
            if choices[k] > 0:
                seen[bool(masks[k, choices[k]]), status] += 1
        if ended:
            env.reset()
    assert {status for allowed, status in seen if not allowed} == {"infeasible", "away"}
    assert "done" in {status for allowed, status in seen if allowed}
    assert not {status for allowed, status in seen if allowed} & {"infeasible", "away", "resting"}


def test_masks_stop_at_the_largest_share_that_fits(calibrated: Any) -> None:
    env = OrchestrationVectorEnv(2, calibrated("farm-lte"))
    observation = env.reset(seed=0)[0]
    view = split(observation.copy())
    view.machine["available"][:] = 1.0
    view.machine["max_share"][:, 0], view.machine["max_share"][:, 1] = 0.5, 0.5 - 1 / GRID
    view.machine["max_share"][:, 2], view.machine["max_share"][:, 3] = 0.0, 1.0
    view.machine["max_share"][:, 4] = share_indices(np.array([0.1]))[0] / GRID
    masks = level_masks(view)
    assert masks.shape == (2, 16 * 5 + 5)
    shares = masks[0, :-LEVELS].reshape(16, 5).sum(axis=1)
    assert shares.tolist() == [4, 3, 1, 5, 2, 5] + [1] * 10
    assert masks[:, -LEVELS:].all()


def test_misuse_is_told(calibrated: Any) -> None:
    env = LevelAction(OrchestrationEnv(calibrated("phones")))
    with pytest.raises(gym.error.ResetNeeded):
        env.action_masks()
    env.reset(seed=0)
    for wrong in (np.full(17, 5), np.full(16, 0), np.full(17, -1), np.zeros(17)):
        with pytest.raises(ValueError, match="is not in MultiDiscrete"):
            env.step(wrong)
    with pytest.raises(TypeError, match="expected one of intrafed's"):
        LevelAction(gym.make("CartPole-v1"))


def test_over_the_multi_objective_environment_too(calibrated: Any) -> None:
    env = LevelAction(MultiObjectiveEnv(calibrated("phones")))
    env.reset(seed=0)
    assert np.shape(env.step(env.action_space.sample())[1]) == (4,)


@pytest.mark.parametrize("face", [MenuAction, LevelAction])
def test_masked_ppo_trains_and_never_takes_what_is_masked(face: Callable[[Any], Any], calibrated: Any) -> None:
    contrib = pytest.importorskip("sb3_contrib")
    content = calibrated("phones", budgets={"rounds": 20}).model_dump(mode="json")
    content["fleet"]["groups"][0]["device"]["memory_mb"] = 8.0

    class Watched(face):  # type: ignore[misc, valid-type]
        played = 0

        def step(self, action: Any) -> Any:
            # Flat positions of the choices among the parts of the mask, one after the other.
            sizes = np.atleast_1d(getattr(self.action_space, "nvec", [getattr(self.action_space, "n", 0)]))
            at = np.r_[0, np.cumsum(sizes)[:-1]] + np.atleast_1d(action)
            assert self.action_masks()[at].all()
            self.played += 1
            return super().step(action)

    env = Watched(OrchestrationEnv(Scenario.model_validate(content)))
    model = contrib.MaskablePPO("MlpPolicy", env, n_steps=128, batch_size=64, n_epochs=2, seed=0, device="cpu")
    before = {name: value.clone() for name, value in model.policy.state_dict().items()}
    model.learn(384)
    assert env.played == 384
    assert any((value != before[name]).any() for name, value in model.policy.state_dict().items())
    observation, _ = env.reset(seed=1)
    action, _ = model.predict(observation, action_masks=env.action_masks(), deterministic=True)
    env.step(action)


@pytest.mark.parametrize("wrapper", [MenuAction, LevelAction])
def test_a_wrapped_environment_is_made_again_from_its_spec(wrapper: Any) -> None:
    env = wrapper(gym.make("IntraFed/Orchestration-v0", scenario="two-servers"))
    again = gym.make(env.spec)
    assert again.action_space == env.action_space
    first, second = env.reset(seed=3)[0], again.reset(seed=3)[0]
    assert np.array_equal(first, second)
