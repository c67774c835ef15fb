import gymnasium as gym
import numpy as np
import pytest

import scenarios
from agents.vecenv import BatchedVecEnv
from envs.orchestration import OrchestrationEnv
from envs.rewards import REWARDS
from fedcore.world import compile_world
from scenarios import InputError


def test_equals_the_single_environment_step_for_step():
    scenario = scenarios.load("phones")
    vec = BatchedVecEnv([compile_world(scenario)], 3, seed=5)
    singles = [OrchestrationEnv(scenario, reward="efficiency") for _ in range(3)]
    first = vec.reset()
    for i, env in enumerate(singles):
        env.reset(seed=0)
        env.np_random = np.random.default_rng([5, i])
        assert np.array_equal(env.reset()[0], first[i])
    rng = np.random.default_rng(0)
    for _ in range(80):
        actions = rng.uniform(-1, 1, (3, 17)).astype(np.float32)
        vec.step_async(actions)
        observation, rewards, dones, infos = vec.step_wait()
        for i, env in enumerate(singles):
            single, reward, ended, _, info = env.step(actions[i])
            assert reward == pytest.approx(rewards[i], abs=1e-6)
            assert ended == dones[i]
            if ended:
                assert np.array_equal(infos[i]["terminal_observation"], single)
                assert infos[i]["log_efficiency"] == pytest.approx(info["log_efficiency"])
                assert infos[i]["episode"]["r"] == pytest.approx(info["log_efficiency"], abs=1e-5)
                single, _ = env.reset()
            assert np.array_equal(single, observation[i])


def test_menu_face_offers_a_discrete_space():
    vec = BatchedVecEnv([compile_world(scenarios.load("farm-lte"))], 4, seed=0, menu=True)
    vec.reset()
    vec.step_async(np.array([0, 1, 2, vec.action_space.n - 1]))
    assert vec.step_wait()[0].shape == (4, *vec.observation_space.shape)


def test_a_seed_given_later_is_the_same_as_one_given_at_the_start():
    world = compile_world(scenarios.load("phones"))
    first, later = BatchedVecEnv([world], 3, seed=5), BatchedVecEnv([world], 3, seed=6)
    other = later.reset().copy()
    later.seed(5)
    assert np.array_equal(first.reset(), later.reset())
    assert not np.array_equal(first.reset(), other)
    first.seed(), later.seed()
    assert not np.array_equal(first.reset(), later.reset())


def test_a_reset_comes_first_and_there_is_something_to_play():
    world = compile_world(scenarios.load("phones"))
    with pytest.raises(gym.error.ResetNeeded):
        BatchedVecEnv([world], 8, seed=0).step(np.zeros((8, 17), dtype=np.float32))
    for worlds, episodes in (([], 2), ([world], 0)):
        with pytest.raises(ValueError, match="expected at least one of each"):
            BatchedVecEnv(worlds, episodes, seed=0)


def test_it_pays_as_the_scenario_says():
    def paid(kind: str):
        phones = scenarios.load("phones")
        return compile_world(phones.model_copy(update={"reward": phones.reward.model_copy(update={"kind": kind})}))

    own = BatchedVecEnv([paid("ratio")], 2, seed=0)
    assert own.core.reward is REWARDS["ratio"]
    for reward in (None, "efficiency"):
        with pytest.raises(InputError, match=r"scenario phones: reward\.kind 'ratioo' is unknown"):
            BatchedVecEnv([paid("ratioo")], 2, seed=0, reward=reward)
