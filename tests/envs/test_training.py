"""The real tier: the same face as the fast one, and training that really happens."""

import copy
import pickle
import re
import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as check_env_sb3

import envs  # noqa: F401 - registers
from envs.observation import split
from envs.orchestration import OrchestrationEnv
from envs.training import TrainingEnv
from fedcore.data.loading import load_images
from fedcore.fleet import columns as c
from fedcore.methods.private import spent_epsilon
from fedcore.workload import prepare_data, target_holds
from scenarios import InputError, Scenario, load
from scenarios.schema import Privacy, Workload

pytestmark = pytest.mark.usefixtures("cache")
ID = "IntraFed/Training-v0"
HALF = np.zeros(17, dtype=np.float32)
NOBODY = np.full(17, -1.0, dtype=np.float32)


@pytest.fixture
def env(tiny: Scenario, cache: Path) -> TrainingEnv:
    return TrainingEnv(tiny)


def weights(env: TrainingEnv) -> dict[str, Any]:
    training = env.learner.training
    assert training is not None
    return {name: value.clone().numpy() for name, value in training.state.items()}


def play(env: TrainingEnv, seed: int | None, actions: list[Any]) -> list[Any]:
    observation, _ = env.reset(seed=seed)
    out = [observation.tobytes()]
    for action in actions:
        observation, reward, _, _, info = env.step(action)
        out.append((observation.tobytes(), reward, info["infonce"], sorted(info["losses"].items())))
    return out


ACTIONS = list(np.random.default_rng(0).uniform(-1, 1, (3, 17)))


def test_gymnasium_and_sb3_accept_it_without_a_warning(tiny: Scenario) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        made = gym.make(ID, scenario=tiny, disable_env_checker=True).unwrapped
        check_env(made)
        check_env_sb3(made)
    assert [str(w.message) for w in caught] == []


def test_spaces_and_first_observation_are_the_fast_tiers(env: TrainingEnv, tiny: Scenario) -> None:
    fast = OrchestrationEnv(tiny)
    assert env.observation_space == fast.observation_space
    assert env.action_space == fast.action_space
    assert np.array_equal(env.reset(seed=3)[0], fast.reset(seed=3)[0])
    # The fleet is the same too: only what becomes of progress differs.
    real, simulated = env.step(HALF)[4], fast.step(HALF)[4]
    for key in ("time_s", "energy_j", "bytes", "status"):
        assert real[key] == simulated[key]
    assert real["progress"] != simulated["progress"]


def test_same_seed_and_actions_same_training(env: TrainingEnv, tiny: Scenario) -> None:
    first = play(env, 5, ACTIONS)
    assert play(env, 5, ACTIONS) == first
    assert play(TrainingEnv(tiny), 5, ACTIONS) == first
    assert play(env, 6, ACTIONS) != first


def test_every_episode_starts_with_new_weights_at_progress_zero(env: TrainingEnv) -> None:
    assert env.reset(seed=1)[1]["progress"] == 0.0
    first = weights(env)
    env.step(HALF)
    assert env.reset()[1]["progress"] == 0.0
    second = weights(env)
    assert any(not np.array_equal(first[name], second[name]) for name in first)
    env.reset(seed=1)
    assert all(np.array_equal(first[name], value) for name, value in weights(env).items())


def test_a_step_trains_and_progress_is_the_measured_infonce(env: TrainingEnv) -> None:
    env.reset(seed=1)
    before = weights(env)
    info = env.step(HALF)[4]
    after = weights(env)
    assert any(not np.array_equal(before[name], after[name]) for name in before)
    training = env.learner.training
    assert training is not None
    target = env.core.world().calibration.target_infonce
    assert info["progress"] == pytest.approx((training.untrained - info["infonce"]) / (training.untrained - target))
    assert all(np.isfinite(loss) for loss in info["losses"].values())
    assert set(info["losses"]) == set(env.core.world().arrays.names)
    assert info["refused"] == []
    assert info["feature_std"] > 0
    assert info["effective_rank"] >= 1
    assert isinstance(info["collapsed"], bool)


def test_when_nobody_trains_nothing_moves(env: TrainingEnv) -> None:
    env.reset(seed=1)
    before = weights(env)
    info = env.step(NOBODY)[4]
    assert info["progress"] == 0.0
    assert info["energy_j"] == 0.0
    assert info["losses"] == {}
    assert all(np.array_equal(before[name], value) for name, value in weights(env).items())


def test_lost_blocks_are_not_trained(tiny: Scenario) -> None:
    content = tiny.model_dump(mode="json")
    content["fleet"]["groups"][0]["device"]["memory_mb"] = 0.001
    env = TrainingEnv(Scenario.model_validate(content))
    env.reset(seed=1)
    info = env.step(HALF)[4]
    assert info["status"] == ["infeasible", "done"]
    assert list(info["losses"]) == [env.core.world().arrays.names[1]]


def test_blocks_are_those_that_trained(env: TrainingEnv) -> None:
    env.reset(seed=1)
    assert env.blocks() == [[], []]
    action = NOBODY.copy()
    action[1] = 1.0
    env.step(action)
    none, whole = env.blocks()
    assert none == []
    assert all(np.array_equal(np.sort(layer), np.arange(len(layer))) for layer in whole)


def test_pickle_and_deepcopy_make_the_same_environment(env: TrainingEnv) -> None:
    expected = play(env, 2, ACTIONS[:1])
    for other in (pickle.loads(pickle.dumps(env)), copy.deepcopy(env)):
        assert other is not env
        assert play(other, 2, ACTIONS[:1]) == expected


def test_get_state_and_set_state_restore_training_exactly(env: TrainingEnv) -> None:
    env.reset(seed=4)
    env.step(ACTIONS[0])
    state = env.get_state()

    def rest() -> list[Any]:
        out = []
        for action in ACTIONS[1:]:
            observation, reward, _, _, info = env.step(action)
            blocks = [[layer.tolist() for layer in block] for block in env.blocks()]
            out.append((observation.tobytes(), reward, info["infonce"], sorted(info["losses"].items()), blocks))
        return out

    first = rest()
    env.reset(seed=9)
    env.set_state(state)
    assert rest() == first
    env.set_state(state)
    assert rest() == first


def test_it_needs_a_reset_and_actions_that_mean_something(tiny: Scenario) -> None:
    env = TrainingEnv(tiny, render_mode="ansi")
    for call in (lambda: env.step(HALF), env.render):
        with pytest.raises(gym.error.ResetNeeded):
            call()
    env.reset(seed=0)
    assert "tiny" in str(env.render()) or tiny.title in str(env.render())
    before = weights(env)
    for bad in (np.full(17, np.nan), np.zeros(3)):
        with pytest.raises(ValueError, match="actions"):
            env.step(bad)
    assert all(np.array_equal(before[name], value) for name, value in weights(env).items())
    env.step(HALF)
    assert str(env.render())


def test_efficiency_rewards_sum_to_the_score_here_too(tiny: Scenario) -> None:
    content = tiny.model_dump(mode="json")
    content["budgets"]["rounds"] = 3
    env = TrainingEnv(Scenario.model_validate(content))
    env.reset(seed=0)
    total, ended = 0.0, False
    while not ended:
        _, reward, ended, _, info = env.step(HALF)
        total += reward
    assert info["round"] == 3
    assert total == pytest.approx(info["log_efficiency"])


def test_images_that_a_user_brings(tiny: Scenario) -> None:
    dataset = prepare_data(tiny).dataset
    env = TrainingEnv(tiny, dataset=dataset, target_infonce=2.0, reference_rounds=7.0)
    env.reset(seed=0)
    assert env.core.world().reference.rounds == 7.0
    assert env.core.reference[0, 3] == 7.0
    info = env.step(HALF)[4]
    training = env.learner.training
    assert training is not None
    assert training.scale.target == 2.0
    assert info["progress"] == pytest.approx((training.untrained - info["infonce"]) / (training.untrained - 2.0))
    assert env.core.telemetry[0, 0, c.STATUS] == c.DONE


def test_embedded_sites_are_dealt_anew_and_files_once(tiny: Scenario, tmp_path: Path) -> None:
    def dealt(env: TrainingEnv, seed: int) -> Any:
        env.reset(seed=seed)
        return env.learner.data

    env = TrainingEnv(tiny)
    first, other, again = (dealt(env, seed) for seed in (0, 1, 0))
    assert any(not np.array_equal(a, b) for a, b in zip(first.clients, other.clients, strict=True))
    assert all(np.array_equal(a, b) for a, b in zip(first.clients, again.clients, strict=True))
    path = tmp_path / "own.npz"
    px = tiny.workload.image_px
    np.savez(path, x=np.random.default_rng(0).integers(0, 256, (160, px, px), dtype=np.uint8))
    own = tiny.model_copy(update={"workload": tiny.workload.model_copy(update={"data": str(path)})})
    env = TrainingEnv(own, target_infonce=1.0)
    assert dealt(env, 0) is dealt(env, 1)


def test_what_was_dealt_is_what_agents_are_told(tiny: Scenario, tmp_path: Path) -> None:
    """Two machines get a group each, of unequal size, whatever the scenario says of their images."""
    px = tiny.workload.image_px
    images = np.random.default_rng(0).integers(0, 256, (280, px, px), dtype=np.uint8)
    machines = len(tiny.fleet.machines)
    np.savez(tmp_path / "own.npz", x=images, group=np.repeat([0, 1], [80, 200]))
    own = tiny.model_copy(update={"workload": tiny.workload.model_copy(update={"data": str(tmp_path / "own.npz")})})
    env = TrainingEnv(own, target_infonce=1.0)
    observation, _ = env.reset(seed=0)
    assert env.learner.data is not None
    dealt = np.array([len(client) for client in env.learner.data.clients])
    assert len(set(dealt)) == machines == 2
    np.testing.assert_array_equal(env.core.samples[0], [*dealt, *[0] * 14])
    told = split(observation).machine["data"][:2]
    assert told[0] / told[1] == pytest.approx(dealt[0] / dealt[1], rel=1e-5)


def test_data_of_ones_own_need_a_target_of_their_own(tiny: Scenario, tmp_path: Path) -> None:
    px = tiny.workload.image_px
    np.savez(tmp_path / "own.npz", x=np.zeros((160, px, px), dtype=np.uint8))
    others = {"calibration": "soil-mixed-convnet-simclr"}
    tiny = tiny.model_copy(update={"workload": tiny.workload.model_copy(update=others)})
    own = tiny.model_copy(update={"workload": tiny.workload.model_copy(update={"data": str(tmp_path / "own.npz")})})
    with pytest.raises(InputError, match=r"what progress 1 is of data '.*own.npz', image_px .*; expected target_infonce"):
        TrainingEnv(own)
    with pytest.raises(InputError, match=r"does not say what progress 1 is of own; expected target_infonce"):
        TrainingEnv(tiny, dataset=load_images(tmp_path / "own.npz", size_px=px))
    with pytest.raises(InputError, match=rf"workload.image_px is {px}, but own has images of {2 * px} x {2 * px}"):
        TrainingEnv(tiny, dataset=load_images(tmp_path / "own.npz", size_px=2 * px), target_infonce=1.0)


def test_training_that_the_calibration_was_not_made_of_needs_a_target_of_its_own() -> None:
    content = load("farm-lte").model_dump(mode="json")
    assert target_holds(Scenario.model_validate(content).workload)
    # The target of a ConvNet is beyond an MLP: whoever trained one would be told that nobody ever reaches it.
    changes: tuple[dict[str, Any], ...] = (
        {"encoder": "mlp"}, {"objective": "byol"}, {"encoder_options": {"widths": [8, 8, 8]}}, {"image_px": 16}
    )  # fmt: skip
    for change in changes:
        other = Scenario.model_validate(content | {"workload": content["workload"] | change})
        assert not target_holds(other.workload)
        [(field, value)] = change.items()
        with pytest.raises(InputError, match=re.escape(f"does not say what progress 1 is of {field} {value!r}; expected")):
            TrainingEnv(other)
    changes = {"context": 0.5}, {"learning_rate": 0.01}, {"batch_size": 16}, {"selection": "rolling"}
    for change in changes:
        assert target_holds(Scenario.model_validate(content | {"workload": content["workload"] | change}).workload)
    vicreg = {"objective": "vicreg", "calibration": "soil-mixed-convnet-vicreg"}
    assert target_holds(Scenario.model_validate(content | {"workload": content["workload"] | vicreg}).workload)


def test_exactly_one_scenario(tiny: Scenario) -> None:
    with pytest.raises(ValueError, match="expected exactly one"):
        TrainingEnv([tiny, tiny])  # type: ignore[arg-type]
    with pytest.raises(InputError, match="is unknown"):
        TrainingEnv("no-such-fleet")


def test_what_privacy_is_spent_is_told_where_a_scenario_asks_for_it(env: TrainingEnv, tiny: Scenario) -> None:
    private = tiny.model_copy(update={"workload": Workload(**tiny.workload.model_dump() | {"privacy": Privacy()})})
    guarded = TrainingEnv(private)
    guarded.reset(seed=0)
    told = [guarded.step(HALF)[4]["epsilon"] for _ in range(2)]
    assert told == pytest.approx([spent_epsilon(n, 1.0, 1e-5) for n in (1, 2)])
    env.reset(seed=0)
    assert "epsilon" not in env.step(HALF)[4]


def test_blocks_travel_at_the_scenarios_precision_on_both_tiers(tiny: Scenario) -> None:
    ended, moved = {}, {}
    for precision in ("fp32", "int8"):
        decision = tiny.decision.model_copy(update={"wire_precision": precision})
        scenario = tiny.model_copy(update={"decision": decision})
        env, simulated = TrainingEnv(scenario), OrchestrationEnv(scenario)
        for tier in (env, simulated):
            tier.reset(seed=1)
            _, _, _, _, info = tier.step(HALF)
            moved.setdefault(precision, set()).add(info["round_bytes"])
        env.step(HALF)
        ended[precision] = weights(env)
    # The same on both tiers, which draw the same conditions; what goes up takes a quarter, and scales.
    assert all(len(both) == 1 for both in moved.values())
    [plain], [rounded] = moved["fp32"], moved["int8"]
    assert 0.5 < rounded / plain < 0.9
    change = {name: np.abs(ended["int8"][name] - value).max() for name, value in ended["fp32"].items()}
    assert 0.0 < max(change.values()) < 0.01
