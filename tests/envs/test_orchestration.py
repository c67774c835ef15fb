"""The fast tier behind Gymnasium's interface."""

import copy
import pickle
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from numpy.typing import NDArray
from stable_baselines3.common.env_checker import check_env as check_env_sb3

import envs  # noqa: F401 - registers
from envs.observation import split
from envs.orchestration import OrchestrationEnv
from fedcore.fleet import columns as c
from scenarios import InputError, Scenario, load, parse

ID = "IntraFed/Orchestration-v0"
Trajectory = list[tuple[Any, ...]]


def play(env: OrchestrationEnv, seed: int, rounds: int = 30, actions: int = 0) -> Trajectory:
    """Steps with actions from a generator of their own, until the end or for so many rounds."""
    rng = np.random.default_rng(actions)
    observation, info = env.reset(seed=seed)
    out: Trajectory = [(observation.tobytes(), info["scenario"])]
    for _ in range(rounds):
        observation, reward, ended, truncated, info = env.step(rng.uniform(-1, 1, 17).astype(np.float32))
        out.append((observation.tobytes(), reward, ended, truncated, info["telemetry"].tobytes(), info["progress"]))
        if ended:
            break
    return out


@pytest.fixture
def env(calibrated) -> OrchestrationEnv:  # type: ignore[no-untyped-def]
    return OrchestrationEnv(calibrated("phones"))


def test_gymnasium_and_sb3_accept_it_without_a_warning(calibrated) -> None:  # type: ignore[no-untyped-def]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        made = gym.make(ID, scenario=calibrated("phones"), disable_env_checker=True).unwrapped
        check_env(made)
        check_env_sb3(made)
    assert [str(w.message) for w in caught] == []


def test_made_in_a_fresh_interpreter_without_importing_envs() -> None:
    code = (
        "import warnings; warnings.simplefilter('error')\n"
        "import gymnasium as gym\n"
        f"env = gym.make('envs:{ID}', scenario='phones')\n"
        "observation, info = env.reset(seed=1)\n"
        "env.step(env.action_space.sample())\n"
        "print(info['scenario'], observation.shape)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "phones (344,)"


def test_same_seed_and_actions_same_trajectory(env: OrchestrationEnv, calibrated) -> None:  # type: ignore[no-untyped-def]
    first = play(env, seed=5)
    assert play(env, seed=5) == first
    assert play(OrchestrationEnv(calibrated("phones")), seed=5) == first
    assert play(env, seed=6) != first
    assert play(env, seed=5, actions=1)[1:] != first[1:]


def test_episodes_without_a_new_seed_differ_but_follow_from_the_first(env: OrchestrationEnv) -> None:
    def two() -> list[float]:
        env.reset(seed=3)
        ends = []
        for _ in range(2):
            for _ in range(5):
                info = env.step(np.zeros(17))[4]
            ends.append(info["time_s"])
            env.reset()
        return ends

    first = two()
    assert first == two()
    assert first[0] != first[1]


def test_pickle_and_deepcopy_make_the_same_environment(calibrated) -> None:  # type: ignore[no-untyped-def]
    original = OrchestrationEnv(calibrated("phones"), "lagrangian", max_machines=16, render_mode="ansi")
    expected = play(original, seed=2)
    for other in (pickle.loads(pickle.dumps(original)), copy.deepcopy(original)):
        assert other is not original
        assert other.render_mode == "ansi"
        assert play(other, seed=2) == expected


def test_get_state_and_set_state_restore_an_episode_exactly(calibrated) -> None:  # type: ignore[no-untyped-def]
    env = OrchestrationEnv([calibrated("phones"), calibrated("farm-lte")], render_mode="ansi")
    rng = np.random.default_rng(1)
    actions = rng.uniform(-1, 1, (12, 17))
    actions[:, -1] = -1.0  # short rounds, so that the episode lasts
    env.reset(seed=8)
    for action in actions[:4]:
        env.step(action)
    state = env.get_state()

    def rest() -> Trajectory:
        out: Trajectory = [(env.render(),)]
        for action in actions[4:]:
            observation, reward, *_ = env.step(action)
            out.append((observation.tobytes(), reward))
        out.append((env.render(), len(env.history.rows)))
        observation, info = env.reset()
        out.append((observation.tobytes(), info["scenario"]))
        return out

    first = rest()
    env.set_state(state)
    assert len(env.history.rows) == 5
    assert rest() == first
    env.reset(seed=99)
    env.set_state(state)
    assert rest() == first
    other = OrchestrationEnv([calibrated("phones"), calibrated("farm-lte")], render_mode="ansi")
    other.set_state(state)
    env = other
    assert rest() == first


def test_states_share_the_worlds_instead_of_copying_them(env: OrchestrationEnv) -> None:
    env.reset(seed=0)
    assert env.get_state()["core"]["worlds"][0] is env.core.worlds[0]


def test_steps_and_pictures_need_a_reset(calibrated) -> None:  # type: ignore[no-untyped-def]
    env = OrchestrationEnv(calibrated("phones", budgets={"rounds": 2}), render_mode="ansi")
    with pytest.raises(gym.error.ResetNeeded, match=r"call reset\(\)"):
        env.step(np.zeros(17))
    with pytest.raises(gym.error.ResetNeeded, match=r"call reset\(\)"):
        env.render()
    env.reset(seed=0)
    env.step(np.zeros(17))
    assert env.step(np.zeros(17))[2]
    with pytest.raises(gym.error.ResetNeeded):
        env.step(np.zeros(17))
    assert "round budget spent" in str(env.render())


@pytest.mark.parametrize(
    "action",
    [
        np.full(17, np.nan),
        np.r_[np.zeros(16), np.inf],
        np.zeros(16),
        np.zeros((1, 17)),
        np.float32(0.0),
    ],
)
def test_actions_that_mean_nothing_are_refused_and_change_nothing(env: OrchestrationEnv, action: Any) -> None:
    env.reset(seed=0)
    observation = env.step(np.zeros(17))[0]
    with pytest.raises(ValueError, match="actions"):
        env.step(action)
    assert np.array_equal(env.core.observe()[0], observation)
    assert env.step(np.zeros(17))[4]["round"] == 2


def test_values_out_of_range_are_clipped(env: OrchestrationEnv) -> None:
    def after(action: NDArray[np.float64]) -> bytes:
        env.reset(seed=0)
        return env.step(action)[0].tobytes()

    rng = np.random.default_rng(0)
    wild = rng.normal(0, 3, 17)
    assert after(wild) == after(np.clip(wild, -1, 1))
    assert after(wild) != after(0.5 * np.clip(wild, -1, 1))


def test_when_nobody_trains_time_passes_and_progress_stands_still(env: OrchestrationEnv) -> None:
    env.reset(seed=0)
    before = env.step(np.zeros(17))[4]
    info = env.step(np.full(17, -1.0))[4]
    assert info["progress"] == before["progress"]
    assert info["energy_j"] == before["energy_j"]
    assert info["bytes"] == before["bytes"]
    server = env.core.world().scenario.fleet.server
    assert info["round_time_s"] == pytest.approx(server.wait_s + server.round_overhead_s)
    assert set(info["status"]) <= {"resting", "away"}


def test_actions_of_machines_that_do_not_exist_are_ignored(calibrated) -> None:  # type: ignore[no-untyped-def]
    env = OrchestrationEnv(calibrated("farm-lte"))
    low, high = np.zeros(17), np.zeros(17)
    low[6:16], high[6:16] = -1.0, 1.0
    seen = []
    for action in (low, high):
        env.reset(seed=0)
        seen.append(env.step(action)[0].tobytes())
    assert seen[0] == seen[1]


@pytest.mark.parametrize(
    ("budget", "reason"),
    [
        ({"rounds": 3}, "round budget spent"),
        ({"time_s": 1.0}, "time budget spent"),
        ({"energy_j": 1.0}, "energy budget spent"),
        ({"bytes": 1.0}, "byte budget spent"),
    ],
)
def test_every_budget_ends_an_episode_and_says_so(budget: dict[str, Any], reason: str, calibrated) -> None:  # type: ignore[no-untyped-def]
    env = OrchestrationEnv(calibrated("farm-lte", budgets=budget))
    env.reset(seed=0)
    for _ in range(budget.get("rounds", 1)):
        *_, ended, truncated, info = env.step(np.zeros(17))
    assert ended
    assert not truncated
    assert info["end_reason"] == reason
    assert not info["reached"]
    assert info["efficiency"] == pytest.approx(np.exp(info["log_efficiency"]))


def test_reaching_the_target_ends_it_with_the_score_of_the_formula(calibrated) -> None:  # type: ignore[no-untyped-def]
    env = OrchestrationEnv(calibrated("lab-lan", reward={"energy_weight": 0.3}))
    env.reset(seed=0)
    ended = False
    while not ended:
        *_, ended, _, info = env.step(np.zeros(17))
    assert info["end_reason"] == "target reached"
    assert info["reached"]
    assert info["progress"] >= 1.0
    r = env.core.world().reference
    cost = 0.3 * info["energy_j"] / r.energy_j + 0.7 * info["bytes"] / r.bytes
    assert info["efficiency"] == pytest.approx(1.0 / (info["time_s"] / r.time_s * cost))


def test_info_adds_up(env: OrchestrationEnv) -> None:
    env.reset(seed=1)
    rng = np.random.default_rng(0)
    totals, vector = np.zeros(3), np.zeros(4)
    for r in range(1, 6):
        info = env.step(rng.uniform(-1, 1, 17))[4]
        totals += (info["round_time_s"], info["round_energy_j"], info["round_bytes"])
        vector += info["vector_reward"]
        assert info["round"] == r
        assert (info["time_s"], info["energy_j"], info["bytes"]) == pytest.approx(tuple(totals))
        assert info["sync_interval"] in env.core.world().scenario.decision.sync_intervals
        server_j = 8 * info["round_bytes"] * env.core.fleet[0, c.SERVER_J_PER_BIT]
        assert info["round_energy_j"] == pytest.approx(info["telemetry"][:, c.ENERGY_J].sum() + server_j)
    reference = np.array([env.core.world().reference.time_s, env.core.world().reference.energy_j,
                          env.core.world().reference.bytes])  # fmt: skip
    assert vector == pytest.approx(np.r_[info["progress"], -totals / reference], rel=1e-5)
    assert env.reward_space.contains(info["vector_reward"])


def test_several_scenarios_are_all_drawn(calibrated) -> None:  # type: ignore[no-untyped-def]
    env = OrchestrationEnv([calibrated(name) for name in ("phones", "farm-lte", "lab-lan")])
    env.reset(seed=0)
    assert {env.reset()[1]["scenario"] for _ in range(40)} == {"phones", "farm-lte", "lab-lan"}


def test_scenarios_come_by_name_path_or_object(calibrated, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    import yaml

    scenario: Scenario = calibrated("phones")
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(scenario.model_dump(mode="json")))
    assert play(OrchestrationEnv(path), 1) == play(OrchestrationEnv(str(path)), 1) == play(OrchestrationEnv(scenario), 1)
    assert OrchestrationEnv("phones").core.world().scenario.name == "phones"
    with pytest.raises(InputError, match="'phnes' is unknown"):
        OrchestrationEnv("phnes")
    with pytest.raises(InputError, match="expected at most max_machines=2"):
        OrchestrationEnv("phones", max_machines=2)
    with pytest.raises(ValueError, match="'human' is unknown"):
        OrchestrationEnv("phones", render_mode="human")


def test_infeasible_blocks_are_told_and_not_trained(calibrated) -> None:  # type: ignore[no-untyped-def]
    content = calibrated("farm-lte").model_dump(mode="json")
    content["fleet"]["groups"][1]["device"]["memory_mb"] = 1.0
    env = OrchestrationEnv(Scenario.model_validate(content))
    env.reset(seed=0)
    info = env.step(np.ones(17))[4]
    assert info["status"][3:] == ["infeasible"] * 3
    assert info["status"][:3] == ["done"] * 3
    assert (info["telemetry"][3:, c.ENERGY_J] == 0).all()


def test_blocks_have_the_sizes_of_the_shares(calibrated) -> None:  # type: ignore[no-untyped-def]
    env = OrchestrationEnv(calibrated("farm-lte"))
    env.reset(seed=0)
    action = np.full(17, -1.0)
    action[0], action[1] = 1.0, 0.25
    env.step(action)
    whole, half, *rest = env.blocks()
    assert rest == [[]] * 4
    assert len(whole) == len(half) > 0
    for a, b in zip(whole, half, strict=True):
        assert np.array_equal(np.sort(a), np.arange(len(a)))
        assert len(b) == pytest.approx(len(a) / 2, abs=1)
        assert set(b) <= set(a)


@pytest.mark.parametrize("scenario", [None, 3, [], ()])
def test_no_scenario_is_told(scenario: Any) -> None:
    with pytest.raises(InputError, match="expected a name, a path, a Scenario or a sequence of these"):
        OrchestrationEnv(scenario)


def test_an_unknown_reward_is_told_by_who_asks_for_it() -> None:
    content = load("farm-lte").model_dump(mode="json")
    content["reward"]["kind"] = "glory"
    with pytest.raises(InputError, match=r"scenario farm-lte: reward.kind 'glory' is unknown, expected one of .*efficiency"):
        OrchestrationEnv(parse(content, "x"))
    with pytest.raises(InputError, match=r"^reward 'glory' is unknown"):
        OrchestrationEnv("farm-lte", reward="glory")


def test_who_was_away_trained_nothing_whatever_was_asked_of_it() -> None:
    env = OrchestrationEnv("phones")
    observation, info = env.reset(seed=0)
    away = [k for k, there in enumerate(split(observation).machine["available"][: len(info["status"])]) if not there]
    assert away
    asked, spared = copy.deepcopy(env), copy.deepcopy(env)
    action = np.full(17, 0.5, dtype=np.float32)
    one, _, _, _, info = asked.step(action)
    action[away] = -1.0
    other, *_ = spared.step(action)
    assert [info["status"][k] for k in away] == ["away"] * len(away)
    assert split(one).machine["last_share"][away].tolist() == [0.0] * len(away)
    assert (one == other).all()


def test_before_the_first_round_machines_are_ready_or_away() -> None:
    env = gym.make("envs:IntraFed/Orchestration-v0", scenario="phones-commute").unwrapped
    seen = set()
    for seed in range(6):
        observation, info = env.reset(seed=seed)
        present = split(observation).machine["available"][: len(info["status"])] > 0.5
        assert info["status"] == ["ready" if here else "away" for here in present]
        seen |= set(info["status"])
        info = env.step(env.action_space.sample())[-1]
        assert "ready" not in info["status"]
    assert seen == {"ready", "away"}


def test_a_workload_that_no_calibration_was_made_of_is_told() -> None:
    scenario = load("farm-lte")
    other = scenario.model_copy(update={"workload": scenario.workload.model_copy(update={"objective": "vicreg"})})
    for make in (gym.make, gym.make_vec):
        with pytest.warns(UserWarning, match="not made of convnet with vicreg"):
            make("IntraFed/Orchestration-v0", scenario=other)
