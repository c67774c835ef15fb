"""The vector reward: mo-gymnasium's conventions, with and without mo-gymnasium."""

import warnings
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode

import envs  # noqa: F401 - registers
from envs.multi_objective import MultiObjectiveEnv, MultiObjectiveVectorEnv
from envs.orchestration import OrchestrationEnv

ID = "IntraFed/Orchestration-MO-v0"
ACTIONS = np.random.default_rng(0).uniform(-1, 1, (200, 17)).astype(np.float32)


def test_gymnasium_complains_about_the_vector_reward_and_nothing_else(calibrated: Any) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_env(gym.make(ID, scenario=calibrated("phones")).unwrapped)
    told = {str(w.message) for w in caught}
    assert all("reward returned by `step()` must be a float" in text for text in told)
    assert len(told) == 1


def test_made_and_played_without_a_warning(calibrated: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = gym.make(ID, scenario=calibrated("phones"))
        env.reset(seed=0)
        reward = env.step(ACTIONS[0])[1]
    assert isinstance(reward, np.ndarray)
    assert reward.dtype == np.float32
    assert env.unwrapped.reward_space.contains(reward)  # type: ignore[attr-defined]


def test_it_is_the_scalar_environment_but_for_the_reward(calibrated: Any) -> None:
    vector, scalar = MultiObjectiveEnv(calibrated("phones")), OrchestrationEnv(calibrated("phones"))
    assert np.array_equal(vector.reset(seed=5)[0], scalar.reset(seed=5)[0])
    total, ended = np.zeros(4), False
    for action in ACTIONS:
        observation, reward, ended, truncated, info = vector.step(action)
        expected, _, *rest = scalar.step(action)
        assert np.array_equal(observation, expected)
        assert (ended, truncated) == tuple(rest[:2])
        assert np.array_equal(reward, rest[2]["vector_reward"])
        total += reward
        if ended:
            break
    assert ended
    r = vector.core.world().reference
    spent = info["time_s"] / r.time_s, info["energy_j"] / r.energy_j, info["bytes"] / r.bytes
    assert total == pytest.approx([info["progress"], *(-x for x in spent)], rel=1e-4)
    assert (total[1:] < 0).all()
    assert info["log_efficiency"] == rest[2]["log_efficiency"]


def test_a_reward_changed_in_place_leaves_info_alone(calibrated: Any) -> None:
    env = MultiObjectiveEnv(calibrated("phones"))
    env.reset(seed=0)
    _, reward, _, _, info = env.step(ACTIONS[0])
    kept = info["vector_reward"].copy()
    reward *= 7.0
    assert np.array_equal(info["vector_reward"], kept)


def test_scenarios_that_ask_for_different_rewards_mix(calibrated: Any) -> None:
    mixed = [calibrated("phones", reward={"kind": "ratio"}), calibrated("farm-lte", reward={"kind": "lagrangian"})]
    with pytest.raises(ValueError, match="different rewards"):
        OrchestrationEnv(mixed)
    MultiObjectiveEnv(mixed).reset(seed=0)


def test_mo_gymnasium_makes_it_and_its_wrappers_work(calibrated: Any) -> None:
    mo = pytest.importorskip("mo_gymnasium")
    from mo_gymnasium.wrappers import LinearReward, MONormalizeReward, MORecordEpisodeStatistics

    weight = np.array([1.0, 0.5, 0.25, 0.25])
    env = LinearReward(mo.make(ID, scenario=calibrated("phones")), weight=weight)
    bare = MultiObjectiveEnv(calibrated("phones"))
    env.reset(seed=1), bare.reset(seed=1)
    for action in ACTIONS[:5]:
        scalar, vector = env.step(action)[1], bare.step(action)[1]
        assert scalar == pytest.approx(float(vector @ weight))
    counted = MORecordEpisodeStatistics(MONormalizeReward(mo.make(ID, scenario=calibrated("phones")), idx=1))
    counted.reset(seed=1)
    ended, played = False, 0
    while not ended:
        *_, ended, _, info = counted.step(ACTIONS[played])
        played += 1
    assert info["episode"]["r"].shape == (4,)
    assert info["episode"]["l"] == played


def test_mo_gymnasium_batches_it(calibrated: Any) -> None:
    pytest.importorskip("mo_gymnasium")
    from mo_gymnasium.wrappers.vector import MOSyncVectorEnv

    batch = MOSyncVectorEnv([lambda: MultiObjectiveEnv(calibrated("phones")) for _ in range(3)])
    batch.reset(seed=1)
    bare = MultiObjectiveEnv(calibrated("phones"))
    bare.reset(seed=2)
    rewards = batch.step(ACTIONS[:3])[1]
    assert rewards.shape == (3, 4)
    assert rewards[1] == pytest.approx(bare.step(ACTIONS[1])[1])


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_the_native_batch_is_its_episodes_one_by_one(calibrated: Any, mode: AutoresetMode) -> None:
    phones = calibrated("phones")
    batch = gym.make_vec(ID, num_envs=3, scenario=phones, autoreset_mode=mode)
    assert isinstance(batch.unwrapped, MultiObjectiveVectorEnv)
    alone = [MultiObjectiveEnv(phones) for _ in range(3)]
    for env, seed in zip(alone, (1, 2, 3), strict=True):
        env.reset(seed=seed)
    batch.reset(seed=1)
    ended, ends, rng = np.zeros(3, dtype=bool), 0, np.random.default_rng(0)
    for _ in range(120):
        actions = rng.uniform(-1, 1, (3, 17)).astype(np.float32)
        _, rewards, now, _, _ = batch.step(actions)
        assert rewards.shape == (3, 4)
        assert rewards.dtype == np.float32
        for i, env in enumerate(alone):
            if ended[i] and mode == AutoresetMode.NEXT_STEP:
                env.reset()
                assert (rewards[i] == 0).all()
                continue
            if ended[i]:
                env.reset()
            assert rewards[i] == pytest.approx(env.step(actions[i])[1], rel=1e-5)
        ended = now
        ends += int(now.sum())
    assert ends > 3
