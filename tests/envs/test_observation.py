"""The observation: split and assembled, in bounds, blind to what nobody can know, and the same in any order."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from envs.core import Core, SimulatedLearner
from envs.memory import SLOW, UP_BPS, listen
from envs.observation import (
    FLEET_FEATURES,
    LIMIT,
    MACHINE_FEATURES,
    N_FLEET,
    N_MACHINE,
    fleet_rows,
    machines_of,
    observation_space,
    split,
    write_machines,
)
from envs.orchestration import OrchestrationEnv
from envs.vector import OrchestrationVectorEnv
from fedcore.fleet import columns as c
from scenarios import Scenario, names, random_scenario


def test_names_are_unique_and_sizes_agree() -> None:
    assert len(set(MACHINE_FEATURES)) == N_MACHINE == 20
    assert len(set(FLEET_FEATURES)) == N_FLEET == 24
    assert observation_space(16).shape == (16 * 20 + 24,)
    assert machines_of(16 * 20 + 24) == 16
    for size in (24, 16 * 20 + 23, 5):
        with pytest.raises(ValueError, match="fits no K_max"):
            machines_of(size)


def test_split_takes_features_apart_by_name() -> None:
    rng = np.random.default_rng(0)
    machine, fleet = rng.uniform(-4, 4, (3, 5, N_MACHINE)), rng.uniform(-4, 4, (3, N_FLEET))
    packed = np.concatenate([machine.reshape(3, -1), fleet], axis=1).astype(np.float32)
    for view, at in ((split(packed), slice(None)), (split(packed[1]), 1)):
        for i, name in enumerate(MACHINE_FEATURES):
            assert view.machine[name] == pytest.approx(machine[at, ..., i], rel=1e-6)
        for i, name in enumerate(FLEET_FEATURES):
            assert view.fleet[name] == pytest.approx(fleet[at, ..., i], rel=1e-6)


def test_fleet_features_are_clipped(calibrated) -> None:  # type: ignore[no-untyped-def]
    env = OrchestrationEnv(calibrated())
    env.reset(seed=0)
    core = env.core
    core.round[0], core.gain[0], core.trend[0] = 3, -9.0, 9.0
    core.totals[0] = [0.0, 0.0, 1e300, 0.0]
    fleet = split(core.observe()[0]).fleet
    assert (fleet["last_gain"], fleet["gain_trend"]) == (-LIMIT, LIMIT)
    assert (fleet["last_round_time"], fleet["last_round_bytes"]) == (-LIMIT, LIMIT)
    assert fleet["last_round_energy"] == pytest.approx(-4.0)


def look(core: Core) -> NDArray[np.float32]:
    """The machines' part of what the episodes show, written anew from where they stand."""
    out = np.full_like(core.observed, np.nan)
    for b in range(core.num_envs):
        write_machines(
            core.fleets, core.machine_constants, core.world_index[b], core.telemetry, core.totals, core.shares, core.heard,
            out, b,
        )  # fmt: skip
    fleet_rows(
        core.fleet, core.reference, core.budgets, core.menu, core.energy_weight, core.context, core.teaches, core.round,
        core.progress, core.gain, core.trend, core.steps, core.spent, core.totals, core.surplus, out,
    )  # fmt: skip
    return out[:, :-N_FLEET]


def test_padding_is_zero_and_the_rest_is_clipped(calibrated) -> None:  # type: ignore[no-untyped-def]
    env = OrchestrationEnv(calibrated())
    env.reset(seed=0)
    env.core.heard[0, :6, UP_BPS] = 1e-30
    env.core.heard[0, :6, SLOW] = 1e30
    seen = look(env.core)[0].reshape(16, N_MACHINE)
    assert (seen[6:] == 0.0).all()
    assert (seen[:6, MACHINE_FEATURES.index("upload_time")] == LIMIT).all()
    assert (seen[:6, MACHINE_FEATURES.index("slowdown")] == LIMIT).all()


def test_in_bounds_over_random_episodes_of_all_scenarios(calibrated) -> None:  # type: ignore[no-untyped-def]
    many = [calibrated(name) for name in names()]
    for seed in range(6):
        many += [calibrated(random_scenario(np.random.default_rng(seed), split)) for split in ("train", "ood")]
    env = OrchestrationVectorEnv(len(many) * 2, many)
    space, rng = env.single_observation_space, np.random.default_rng(0)
    observation, _ = env.reset(seed=0)
    seen = set()
    for _ in range(40):
        seen |= set(env.core.world_index.tolist())
        assert observation.dtype == np.float32
        assert np.isfinite(observation).all()
        assert (observation >= space.low).all()
        assert (observation <= space.high).all()
        view = split(observation)
        padding = view.machine["exists"] == 0
        for name in MACHINE_FEATURES:
            assert (view.machine[name][padding] == 0).all()
        count = (~padding).sum(axis=1)
        assert count.tolist() == [env.core.world(b).arrays.machines for b in range(env.num_envs)]
        observation = env.step(rng.uniform(-1, 1, env.action_space.shape).astype(np.float32))[0]
    assert len(seen) > 12


def test_features_are_rarely_clipped(calibrated) -> None:  # type: ignore[no-untyped-def]
    env = OrchestrationVectorEnv(24, [calibrated(name) for name in names()])
    rng = np.random.default_rng(0)
    env.reset(seed=0)
    frames = [env.step(rng.uniform(-1, 1, env.action_space.shape).astype(np.float32))[0] for _ in range(15)]
    assert (np.abs(np.stack(frames)) >= LIMIT).mean() < 0.01


def steady(calibrated, order: list[int], folder: Path) -> Scenario:  # type: ignore[no-untyped-def]
    """farm-lte with three unlike groups, free of chance, in an order."""
    content = calibrated().model_dump(mode="json")
    calibration = json.loads(Path(content["workload"]["calibration"]).read_text())
    calibration["dynamics"] |= {"machine_spread": 0.0, "tilt_spread": 0.0}
    (folder / "steady.json").write_text(json.dumps(calibration))
    content["workload"]["calibration"] = str(folder / "steady.json")
    first, second = content["fleet"]["groups"]
    groups = [{**first, "count": 2}, {**second, "count": 1}, {**second, "count": 3, "name": "third", "images": 90}]
    for i, group in enumerate(groups):
        group["load"] = None
        group["device"] = {**group["device"], "step_jitter": 0.0, "throughput_gflops": 5.0 + 7 * i}
        group["link"] = {**group["link"], "variability": 0.0, "uplink_mbps": 1.0 + i}
    content["fleet"]["groups"] = [groups[i] for i in order]
    return Scenario.model_validate(content)


def test_swapping_groups_permutes_features(calibrated, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    a, b = (OrchestrationEnv(steady(calibrated, order, tmp_path)) for order in ([0, 1, 2], [2, 0, 1]))
    # Machines of b in the order of a: a has 2 + 1 + 3, b has 3 + 2 + 1.
    permutation = [3, 4, 5, 0, 1, 2]
    rng = np.random.default_rng(0)
    left, right = a.reset(seed=4)[0], b.reset(seed=4)[0]
    for _ in range(8):
        one, other = split(left), split(right)
        for name in MACHINE_FEATURES:
            assert one.machine[name][:6] == pytest.approx(other.machine[name][permutation], abs=1e-4), name
        for name in FLEET_FEATURES:
            assert one.fleet[name] == pytest.approx(other.fleet[name], abs=1e-4), name
        assert len(np.unique(one.machine["step_time"][:6].round(3))) == 3
        action = rng.uniform(-1, 1, 17).astype(np.float32)
        moved = action.copy()
        moved[permutation] = action[:6]
        left, right = a.step(action)[0], b.step(moved)[0]


def test_hidden_conditions_are_not_seen(calibrated) -> None:  # type: ignore[no-untyped-def]
    env = OrchestrationEnv(calibrated())
    env.reset(seed=1)
    seen = env.step(np.zeros(17))[0]
    env.core.conditions[:, :, c.LINK_X] += 2.0
    env.core.conditions[:, :, c.BUSY] = 1.0 - env.core.conditions[:, :, c.BUSY]
    env.core.conditions[:, :, c.CLOUD_X] -= 1.0
    env.core.key += np.uint64(1)
    assert np.array_equal(look(env.core)[0], seen[:-N_FLEET])
    env.core.conditions[:, 0, c.ON] = 0.0  # a heartbeat that fails is seen
    listen(env.core.fleets, 0, env.core.conditions, float(env.core.spent[0, 0]), env.core.heard, 0)
    assert look(env.core)[0, MACHINE_FEATURES.index("available")] == 0.0


def test_the_battery_of_a_machine_that_does_not_answer_stays_as_it_last_said(calibrated) -> None:  # type: ignore[no-untyped-def]
    env = OrchestrationEnv(calibrated("solar-field"))
    at, here = MACHINE_FEATURES.index("charge"), MACHINE_FEATURES.index("available")
    away = moved = 0
    for seed in range(6):
        before, ended = env.reset(seed=seed)[0], False
        while not ended:
            now, _, ended, _, _ = env.step(np.full(17, 1.0))
            machines = (np.reshape(seen[:-N_FLEET], (16, -1))[:8] for seen in (before, now))
            was, is_ = machines
            gone = is_[:, here] == 0.0
            assert np.array_equal(is_[gone, at], was[gone, at])
            away, moved = away + gone.sum(), moved + (is_[~gone, at] != was[~gone, at]).sum()
            before = now
    assert away > 0
    assert moved > 0


def test_observations_do_not_depend_on_padding(calibrated) -> None:  # type: ignore[no-untyped-def]
    small, large = (OrchestrationEnv(calibrated("phones"), max_machines=k) for k in (16, 40))
    a, b = (env.reset(seed=2)[0] for env in (small, large))
    assert np.array_equal(a[-N_FLEET:], b[-N_FLEET:])
    assert np.array_equal(a[:-N_FLEET], b[: len(a) - N_FLEET])


def test_features_are_what_was_measured_and_reported(calibrated) -> None:  # type: ignore[no-untyped-def]
    env = OrchestrationEnv(calibrated())
    env.reset(seed=1)
    action = np.full(17, -1.0)
    action[0] = 0.625
    observation, _, _, _, info = env.step(action)
    view = split(observation).machine
    assert info["status"] == ["done"] + ["resting"] * 5
    assert view["last_share"][:6].tolist() == [0.75] + [0.0] * 5
    assert view["last_outcome"][:6].tolist() == [1.0] + [0.0] * 5
    assert view["measurement_age"][:2] == pytest.approx([0.0, np.tanh(0.1)])
    # The heartbeat reports every present machine's load of this moment.
    busy = env.core.conditions[0, :6, c.BUSY] > 0.5
    load = np.where(busy, env.core.parameters[0, :6, c.SLOWDOWN], 1.0)
    assert view["slowdown"][:6] == pytest.approx(np.log10(load), abs=1e-5)
    # Link rates are known only where they were measured; the others stand as advertised.
    round_s = env.core.reference[0, 0] / env.core.reference[0, 3]
    model_bits = 8.0 * env.core.costs[0, -1, 1]
    rates = env.core.parameters[0, :6, c.UP_BPS].copy()
    rates[0] = info["telemetry"][0, c.MEASURED_UP_BPS]
    assert view["upload_time"][:6] == pytest.approx(np.log10(model_bits / rates / round_s), abs=1e-5)


def test_a_core_refuses_worlds_that_do_not_fit_together(calibrated) -> None:  # type: ignore[no-untyped-def]
    from fedcore.world import compile_world

    worlds = [compile_world(calibrated(), 16), compile_world(calibrated("lab-lan"), 12)]
    with pytest.raises(ValueError, match="same max_machines"):
        Core(worlds, 1, SimulatedLearner())
    with pytest.raises(ValueError, match="is unknown, expected one of efficiency"):
        Core(worlds[:1], 1, SimulatedLearner(), "speed")
    paid_otherwise = compile_world(calibrated("lab-lan", reward={"kind": "ratio"}), 16)
    with pytest.raises(ValueError, match="different rewards"):
        Core([worlds[0], paid_otherwise], 1, SimulatedLearner())


def test_observations_need_no_running_normalisation(calibrated: Any) -> None:
    """What a network reads is of order one in every shipped scenario and hardly ever clipped: policies keep no statistics."""
    env = OrchestrationVectorEnv(70, [calibrated(name) for name in names()])
    rng = np.random.default_rng(0)
    seen = [env.reset(seed=0)[0]] + [env.step(rng.uniform(-1, 1, (70, 17)).astype(np.float32))[0] for _ in range(40)]
    view = split(np.concatenate(seen))
    there = view.machine["exists"] > 0.5
    features = {name: values[there] for name, values in view.machine.items()} | view.fleet
    for name, values in features.items():
        assert (np.abs(values) >= LIMIT).mean() < 0.02, name
        assert np.abs(values.mean()) < 3, name
        assert values.std() < 2, name
