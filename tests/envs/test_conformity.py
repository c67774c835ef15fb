"""Gymnasium to the letter, and what no sequence of actions may bring about."""

import warnings
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

import envs  # noqa: F401 - registers
from envs.core import Core
from envs.multi_objective import MultiObjectiveEnv
from envs.orchestration import OrchestrationEnv
from envs.rewards import REWARDS
from envs.single import SingleEnv
from envs.training import TrainingEnv
from envs.vector import OrchestrationVectorEnv
from fedcore.fleet import columns as c
from scenarios import InputError, Scenario, random_scenario

pytestmark = pytest.mark.usefixtures("cache")


def some_random(calibrated: Any, count: int, **sections: dict[str, Any]) -> list[Scenario]:
    """So many random scenarios of both splits whose reference policy gets there."""
    out: list[Scenario] = []
    seed = 0
    while len(out) < count:
        scenario = calibrated(random_scenario(np.random.default_rng(seed), "ood" if seed % 3 == 2 else "train"), **sections)
        seed += 1
        try:
            OrchestrationVectorEnv(1, scenario)
        except InputError:
            continue
        out.append(scenario)
    return out


@pytest.mark.parametrize("reward", REWARDS)
def test_gymnasium_accepts_every_reward_without_a_warning(reward: str, calibrated: Any) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        made = gym.make("IntraFed/Orchestration-v0", scenario=calibrated("phones"), reward=reward, disable_env_checker=True)
        check_env(made.unwrapped)
    assert [str(w.message) for w in caught] == []


@pytest.mark.slow
@pytest.mark.parametrize("reward", REWARDS)
def test_gymnasium_accepts_every_reward_of_real_training(reward: str, tiny: Scenario) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_env(TrainingEnv(tiny, reward), skip_render_check=True, skip_close_check=True)
    assert [str(w.message) for w in caught] == []


MAKE = {"orchestration": OrchestrationEnv, "multi-objective": MultiObjectiveEnv}


@pytest.fixture(params=MAKE)
def env(request: pytest.FixtureRequest, tiny: Scenario) -> SingleEnv:
    made: SingleEnv = MAKE[request.param](tiny)
    made.reset(seed=0)
    return made


@pytest.mark.parametrize(
    ("action", "sentence"),
    [
        (np.full(17, np.nan), "actions contain NaN or infinity"),
        (np.r_[np.zeros(16), -np.inf], "actions contain NaN or infinity"),
        (np.zeros(18), r"actions have shape \(1, 18\), expected \(1, 17\)"),
        (np.zeros(0), r"actions have shape \(1, 0\), expected \(1, 17\)"),
    ],
)
def test_actions_that_mean_nothing_are_refused_in_both(env: SingleEnv, action: Any, sentence: str) -> None:
    state = env.get_state()
    with pytest.raises(ValueError, match=sentence):
        env.step(action)
    after = env.step(np.zeros(17))
    env.set_state(state)
    assert np.array_equal(env.step(np.zeros(17))[0], after[0])


def test_a_round_without_anybody_takes_the_servers_wait_in_both(env: SingleEnv) -> None:
    before = env.step(np.zeros(17))[4]
    info = env.step(np.full(17, -1.0))[4]
    server = env.core.world().scenario.fleet.server
    assert info["round_time_s"] == pytest.approx(server.wait_s + server.round_overhead_s)
    assert (info["energy_j"], info["bytes"]) == (before["energy_j"], before["bytes"])
    assert info["progress"] == before["progress"]
    assert info["round"] == 2


def test_refused_actions_of_a_batch_change_nothing(calibrated: Any) -> None:
    env, twin = (OrchestrationVectorEnv(3, calibrated("phones")) for _ in range(2))
    env.reset(seed=0), twin.reset(seed=0)
    actions = np.zeros((3, 17), dtype=np.float32)
    wrong = actions.copy()
    wrong[1, 4] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        env.step(wrong)
    assert np.array_equal(env.step(actions)[0], twin.step(actions)[0])


def equality(calibrated: Any, episodes: int, kinds: int) -> int:
    """Play episodes in one batch and one by one; every number must be the same. Returns how many ended early."""
    scenarios = some_random(calibrated, kinds, budgets={"rounds": 12})
    actions = np.random.default_rng(1).uniform(-1.2, 1.2, (12, episodes, 17)).astype(np.float32)
    batch = OrchestrationVectorEnv(episodes, scenarios, autoreset_mode=AutoresetMode.SAME_STEP)
    seen = [batch.reset(seed=500)[0]]
    steps = []
    for action in actions:
        steps.append(batch.step(action))
        seen.append(steps[-1][0])
    single, early = OrchestrationEnv(scenarios), 0
    for i in range(episodes):
        assert np.array_equal(single.reset(seed=500 + i)[0], seen[0][i])
        for t, (_, rewards, terminated, _, told) in enumerate(steps):
            observation, reward, ended, _, info = single.step(actions[t, i])
            assert reward == rewards[i]
            assert ended == terminated[i]
            if ended:
                assert np.array_equal(told["final_obs"][i], observation)
                assert told["final_info"]["log_efficiency"][i] == info["log_efficiency"]
                assert told["final_info"]["end_reason"][i] == info["end_reason"]
                early += info["reached"]
                break
            assert np.array_equal(seen[t + 1][i], observation)
        else:
            raise AssertionError("the round budget did not end the episode")
    return early


def test_batched_and_single_episodes_are_equal_over_random_scenarios(calibrated: Any) -> None:
    assert 0 < equality(calibrated, 30, 6) < 30


@pytest.mark.slow
def test_batched_and_single_episodes_are_equal_1000_times(calibrated: Any) -> None:
    # A batch this large runs on several threads, too.
    assert 0 < equality(calibrated, 1000, 60) < 1000


def wild(rng: np.random.Generator, shape: tuple[int, int]) -> NDArray[np.float32]:
    """Sensible, extreme, far outside, and nobody at all, mixed."""
    actions = rng.uniform(-1, 1, shape)
    kind = rng.integers(5, size=shape[0])
    actions[kind == 1] = np.sign(actions[kind == 1])
    actions[kind == 2] *= 1e6
    actions[kind == 3, :-1] = -1.0
    actions[kind == 4, :-1] = np.where(rng.random((int((kind == 4).sum()), shape[1] - 1)) < 0.9, -1.0, 1.0)
    return actions.astype(np.float32)


def within_links(core: Core) -> bool:
    """Whether no shared link carried more than its capacity while machines downloaded, or uploaded."""
    w, t = core.world_index, core.telemetry
    began = np.where(t[:, :, c.SENT_BYTES] > 0, t[:, :, c.FINISH_S] - t[:, :, c.UPLOAD_S], np.inf).min(axis=1)
    uploading = np.maximum(t[:, :, c.FINISH_S].max(axis=1) - began, 0.0)
    fits = True
    for column, capacity, lasted in (
        (c.SENT_BYTES, core.fleets.link_up_bps, uploading),
        (c.RECEIVED_BYTES, core.fleets.link_down_bps, t[:, :, c.DOWNLOAD_S].max(axis=1)),
    ):
        seconds = lasted[:, None]
        carried = np.einsum("bk,bkl->bl", 8.0 * core.telemetry[:, :, column], core.fleets.via[w].astype(float))
        most = np.where(np.isfinite(capacity[w]), capacity[w], 1e18) * seconds  # columns without a link are endless
        fits = fits and bool((carried <= most * (1 + 1e-9)).all())
    return fits


def fuzz(calibrated: Any, total: int, num_envs: int, kinds: int, met: set[int]) -> None:
    several = [
        scenario.model_copy(update={"workload": scenario.workload.model_copy(update={"context": (0.0, 0.5, 1.0)[i % 3]})})
        for i, scenario in enumerate(some_random(calibrated, kinds))
    ]
    env = OrchestrationVectorEnv(num_envs, several, "lagrangian")
    core, rng = env.core, np.random.default_rng(2)
    observation, _ = env.reset(seed=0)
    seen: set[int] = set()
    episodes = 0
    for _ in range(-(-total // num_envs)):
        before, progress, restarts = core.spent.copy(), core.progress.copy(), env._ended.copy()
        observation, rewards, ended, _, info = env.step(wild(rng, (num_envs, 17)))
        episodes += int(ended.sum())
        assert np.isfinite(observation).all()
        assert (np.abs(observation) <= 5.0).all()
        assert np.isfinite(rewards).all()
        assert np.isfinite(core.progress).all()
        assert np.isfinite(core.totals).all()
        assert (core.totals >= 0).all()
        assert (core.totals[~restarts, c.ROUND_S] > 0).all()
        assert np.isfinite(core.telemetry).all()
        assert (core.telemetry >= 0).all()
        moved = core.telemetry[:, :, [c.SENT_BYTES, c.RECEIVED_BYTES]].sum(axis=(1, 2))
        assert within_links(core)
        assert np.allclose(moved, core.totals[:, c.TOTAL_BYTES], rtol=1e-12, atol=0)
        machines_j = core.telemetry[:, :, c.ENERGY_J].sum(axis=1)
        server_j = 8 * core.totals[:, c.TOTAL_BYTES] * core.fleet[:, c.SERVER_J_PER_BIT]
        assert np.allclose(machines_j + server_j, core.totals[:, c.TOTAL_ENERGY_J], rtol=1e-9)
        spent = np.where(restarts[:, None], 0.0, before) + core.totals[:, [c.ROUND_S, c.TOTAL_ENERGY_J, c.TOTAL_BYTES]]
        assert np.array_equal(core.spent, spent)
        status = core.telemetry[:, :, c.STATUS].astype(int)
        seen |= set(np.unique(status).tolist())
        done = (status == c.DONE).any(axis=1)
        # Nobody's block came back: nothing was learned. Somebody not asked: nothing was spent on it.
        assert (core.progress[~done & ~restarts] == progress[~done & ~restarts]).all()
        unasked = np.isin(status, (c.ABSENT, c.AWAY, c.RESTING, c.INFEASIBLE))
        assert (core.telemetry[unasked][:, [c.SENT_BYTES, c.RECEIVED_BYTES, c.COMPUTE_S]] == 0).all()
        if ended.any():
            assert np.isfinite(info["log_efficiency"]).all()
            assert (ended == (info["end_reason"] != "running")).all()
    assert episodes > num_envs // 2
    assert {c.ABSENT, c.AWAY, c.RESTING, c.DONE, c.LEFT} | met <= seen


def test_20_000_wild_actions(calibrated: Any) -> None:
    fuzz(calibrated, 20_000, 100, 10, set())


@pytest.mark.slow
def test_a_million_wild_actions(calibrated: Any) -> None:
    fuzz(calibrated, 1_000_000, 600, 100, {c.LATE, c.INFEASIBLE, c.FLAT})
