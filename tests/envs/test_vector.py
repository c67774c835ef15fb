"""The batched environment is its single environments, bit for bit."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

import envs  # noqa: F401 - registers
from envs.orchestration import OrchestrationEnv
from envs.vector import OrchestrationVectorEnv
from scenarios import InputError, Scenario

EVERY = ("round", "progress", "time_s", "energy_j", "bytes")
B = 10


def case(which: str, calibrated: Any) -> list[Scenario]:
    chosen = {"one": ["phones"], "many": ["phones", "solar-field", "lab-lan", "two-servers"]}[which]
    # Few rounds, so that targets, budgets and restarts all happen.
    return [calibrated(name, budgets={"rounds": 9 + 4 * i, "of_reference": 1.5}) for i, name in enumerate(chosen)]


@pytest.mark.parametrize("which", ["one", "many"])
@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
@pytest.mark.parametrize("reward", ["efficiency", "lagrangian"])
def test_equal_to_single_environments(which: str, mode: AutoresetMode, reward: str, calibrated: Any) -> None:
    scenarios = case(which, calibrated)
    batch = OrchestrationVectorEnv(B, scenarios, reward, autoreset_mode=mode)
    singles = [OrchestrationEnv(scenarios, reward) for _ in range(B)]
    seed = 100
    observation, _ = batch.reset(seed=seed)
    for i, env in enumerate(singles):
        assert np.array_equal(env.reset(seed=seed + i)[0], observation[i])
    ended_before = np.zeros(B, dtype=bool)
    rng = np.random.default_rng(3)
    episodes, reasons = 0, set()
    for _ in range(30):
        actions = rng.uniform(-1, 1, (B, 17)).astype(np.float32)
        observation, rewards, terminated, truncated, info = batch.step(actions)
        assert not truncated.any()
        for i, env in enumerate(singles):
            if mode == AutoresetMode.NEXT_STEP and ended_before[i]:
                expected, told = env.reset()
                assert rewards[i] == 0.0
                assert not terminated[i]
            else:
                expected, paid, ended, _, told = env.step(actions[i])
                assert rewards[i] == paid
                assert terminated[i] == ended
                if ended:
                    episodes += 1
                    reasons.add(told["end_reason"])
                    final = info["final_info"] if mode == AutoresetMode.SAME_STEP else info
                    for key in ("log_efficiency", "reached", "end_reason", *EVERY):
                        assert final[f"_{key}"][i]
                        assert final[key][i] == told[key]
                    if mode == AutoresetMode.SAME_STEP:
                        assert info["_final_obs"][i]
                        assert np.array_equal(info["final_obs"][i], expected)
                        assert info["_final_info"][i]
                        expected, told = env.reset()
                elif mode == AutoresetMode.SAME_STEP:
                    assert "_final_info" not in info or not info["_final_info"][i]
                    assert "_final_info" not in info or not info["final_info"]["_end_reason"][i]
                elif "_end_reason" in info:
                    assert not info["_end_reason"][i]
                for key in EVERY:
                    assert info[f"_{key}"][i]
                    assert info[key][i] == told[key]
            assert np.array_equal(observation[i], expected)
        ended_before = terminated.copy()
    assert episodes >= 12
    if which == "many":
        assert {"target reached", "round budget spent"} <= reasons


def test_an_episode_does_not_depend_on_its_neighbours(calibrated: Any) -> None:
    scenarios = case("many", calibrated)
    actions = np.random.default_rng(0).uniform(-1, 1, (8, 17)).astype(np.float32)
    seen = []
    for n, at in ((1, 0), (5, 2), (12, 11)):
        env = OrchestrationVectorEnv(n, scenarios)
        seeds = [1000 + i for i in range(n)]
        seeds[at] = 7
        env.reset(seed=seeds)
        seen.append([env.step(np.tile(a, (n, 1)))[0][at].tobytes() for a in actions])
    assert seen[0] == seen[1] == seen[2]


def test_make_vec_takes_the_native_batch(calibrated: Any) -> None:
    env = gym.make_vec("IntraFed/Orchestration-v0", num_envs=3, scenario=calibrated("phones"))
    assert isinstance(env.unwrapped, OrchestrationVectorEnv)
    observation, _ = env.reset(seed=1)
    assert env.observation_space.contains(observation)
    assert env.action_space.shape == (3, 17)
    assert env.step(env.action_space.sample())[1].shape == (3,)
    env.close()


def test_seeds_by_number_list_or_none(calibrated: Any) -> None:
    env = OrchestrationVectorEnv(3, calibrated("phones"))
    by_number = env.reset(seed=5)[0]
    assert np.array_equal(env.reset(seed=[5, 6, 7])[0], by_number)
    assert not np.array_equal(env.reset()[0], by_number)
    keys = set()
    for _ in range(5):
        env.reset()
        keys |= set(env.core.key.tolist())
    assert len(keys) == 15


def test_misuse_is_told(calibrated: Any) -> None:
    env = OrchestrationVectorEnv(2, calibrated("phones"))
    with pytest.raises(gym.error.ResetNeeded):
        env.step(np.zeros((2, 17), dtype=np.float32))
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"expected \(2, 17\)"):
        env.step(np.zeros((3, 17), dtype=np.float32))
    with pytest.raises(ValueError, match="NaN"):
        env.step(np.full((2, 17), np.nan, dtype=np.float32))
    with pytest.raises(ValueError, match="does not render"):
        OrchestrationVectorEnv(2, calibrated("phones"), render_mode="ansi")
    with pytest.raises(ValueError, match="not supported"):
        OrchestrationVectorEnv(2, calibrated("phones"), autoreset_mode=AutoresetMode.DISABLED)
    with pytest.raises(ValueError, match="seed has 3 entries, expected one for each of the 2"):
        env.reset(seed=[1, 2, 3])


def test_an_action_that_is_ignored_need_not_be_one(calibrated: Any) -> None:
    env = OrchestrationVectorEnv(2, calibrated("phones"))
    env.reset(seed=0)
    env._ended[1] = True
    actions = np.zeros((2, 17), dtype=np.float32)
    actions[1] = np.nan
    env.step(actions)
    assert env.core.round.tolist() == [1, 0]
    assert np.isnan(actions[1]).all()
    with pytest.raises(ValueError, match="NaN"):
        env.step(actions)


def test_a_mask_restarts_those_that_it_names(calibrated: Any) -> None:
    env = gym.make_vec("IntraFed/Orchestration-v0", num_envs=3, scenario=calibrated())
    with pytest.raises(gym.error.ResetNeeded):
        env.reset(options={"reset_mask": np.array([True, False, False])})
    env.reset(seed=4)
    for _ in range(2):
        before, *_ = env.step(env.action_space.sample())
    after, info = env.reset(options={"reset_mask": np.array([True, False, False])})
    assert info["_round"].tolist() == [True, False, False]
    assert (after == before).all(axis=1).tolist() == [False, True, True]
    env.reset(seed=[7, 8, 9], options={"reset_mask": np.array([False, True, False])})
    assert env.unwrapped.core.round.tolist() == [0, 0, 2]
    for mask, kind in (
        (np.zeros(3, dtype=bool), ValueError), (np.ones(2, dtype=bool), ValueError), ([True, False, True], TypeError),
        (np.ones(3), TypeError),
    ):  # fmt: skip
        with pytest.raises(kind, match=r"reset_mask is .*, expected 3 values of numpy's bool, not all False"):
            env.reset(options={"reset_mask": mask})


def test_what_is_told_is_what_gymnasium_gathers_of_fleets_of_any_size() -> None:
    names = ["two-servers", "phones", "farm-lte"]
    told = gym.make_vec("IntraFed/Orchestration-v0", 3, "sync", scenario=names)
    ours = [gym.make_vec("IntraFed/Orchestration-v0", 1, scenario=names) for _ in names]
    mask = np.array([True, False, True])
    infos = [told.reset(seed=[1, 2, 3])[1]], [[env.reset(seed=[seed])[1]] for seed, env in enumerate(ours, 1)]
    ended = 0
    for _ in range(40):
        actions = told.action_space.sample()
        infos[0].append(told.step(actions)[4])
        for env, action, own in zip(ours, actions, infos[1], strict=True):
            own.append(env.step(action[None])[4])
    infos[0].append(told.reset(seed=[4, 5, 6], options={"reset_mask": mask})[1])
    for seed, env, again, own in zip((4, 5, 6), ours, mask, infos[1], strict=True):
        own.append(env.reset(seed=[seed])[1] if again else {})
    assert len(set(infos[0][0]["machines"])) > 1
    for t, gathered in enumerate(infos[0]):
        for i, own in enumerate(infos[1]):
            for name in (name for name in own[t] if not name.startswith("_")):
                assert gathered[name][i] == own[t][name][0], name
                assert gathered[f"_{name}"][i] == own[t][f"_{name}"][0], name
            ended += "efficiency" in own[t]
    assert infos[0][-1]["_progress"].tolist() == mask.tolist()
    assert ended

@pytest.mark.parametrize("machines", [0, -1, "16", True, 2.5])
def test_a_number_of_machines_that_is_none_is_refused(machines: Any, calibrated: Any) -> None:
    for make in (gym.make, gym.make_vec):
        with pytest.raises(InputError, match=r"max_machines is .*, expected a whole number of at least 1"):
            make("IntraFed/Orchestration-v0", scenario=calibrated(), max_machines=machines)
