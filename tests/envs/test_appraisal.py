from dataclasses import astuple, replace

import numpy as np
import pytest

from envs.appraisal import TO_ALL, TO_MACHINES, appraise
from envs.core import Core, SimulatedLearner
from envs.observation import split
from fedcore.dynamics import N_WORTH, teaching
from fedcore.freshness import FRESH_STEPS
from fedcore.world import World, compile_world


@pytest.fixture
def world(calibrated) -> World:  # type: ignore[no-untyped-def]
    return compile_world(calibrated("farm-lte"))


def round_of(
    world: World, shares: list[float], came_back: list[bool], progress: float, standing: float, surplus: list[float],
    last_part: list[float] | None = None,
):  # fmt: skip
    """`teaching` and `appraise` on one episode: (standing, surplus of the first machines)."""
    k, n = len(world.samples), len(shares)
    held, done, kept = np.zeros((1, k)), np.zeros((1, k), dtype=np.bool_), np.zeros((1, k))
    held[0, :n], done[0, :n], kept[0, :n] = shares, came_back, surplus
    at, part = np.array([standing]), np.zeros((1, k))
    if last_part is not None:
        part[0, :n] = last_part
    table = np.array([astuple(world.dynamics)])
    taught, worth, memory = np.full((1, k), np.nan), np.full((1, N_WORTH), np.nan), np.full(k, np.nan)
    one = np.zeros(1, dtype=np.int64)
    teaching(world.samples[None], one, done, held, np.array([10]), table, part, taught, worth, memory)
    appraise(table, taught, worth, np.array([progress]), at, kept)
    return float(at[0]), kept[0, :n].tolist()


def test_what_is_beyond_expectation_is_put_down_to_whoever_trained(world: World) -> None:
    d, data = world.dynamics, world.samples / world.samples.sum()
    work = d.work(np.array([1.0]), data[:1], np.array([10.0]))
    expected = float(d.advance(np.array([0.2]), np.zeros(1), work)[0][0])
    standing, surplus = round_of(world, [1.0, 0.0], [True, False], expected + 0.1, 0.2, [0.0, 0.03])
    assert standing == pytest.approx(expected + 0.1 * TO_ALL)
    assert surplus == pytest.approx([0.1 * TO_MACHINES, 0.03])
    # What is known of a machine is expected of it.
    again = round_of(world, [1.0, 0.0], [True, False], expected + 0.1, 0.2, [0.1, 0.03])
    assert again == (pytest.approx(expected), pytest.approx([0.1, 0.03]))


def test_more_is_expected_where_several_have_been_teaching(world: World) -> None:
    varied = replace(world.calibration.dynamics, variety_power=0.3, onset=1.5, variety_later=0.2)
    world = replace(world, calibration=replace(world.calibration, dynamics=varied))
    d, data = world.dynamics, world.samples / world.samples.sum()
    left = np.exp(-10.0 / FRESH_STEPS)
    parts = np.array([1.0 - 0.5 * left, 0.5 * left])
    work = d.work(np.array([1.0]), data[:1], np.array([10.0]))
    expected = float(d.advance(np.array([0.2]), np.zeros(1), work, variety=1.0 / np.square(parts).sum())[0][0])
    standing, _ = round_of(world, [1.0, 0.0], [True, False], expected, 0.2, [0.0, 0.0], [0.5, 0.5])
    assert standing == pytest.approx(expected)
    alone, _ = round_of(world, [1.0, 0.0], [True, False], expected, 0.2, [0.0, 0.0])
    assert alone < standing


def test_a_round_that_brought_nothing_back_tells_nothing(world: World) -> None:
    assert round_of(world, [1.0, 0.5], [False, False], 0.7, 0.2, [0.01, 0.02]) == (0.2, [0.01, 0.02])


def test_machines_that_tilt_are_told_apart(calibrated) -> None:  # type: ignore[no-untyped-def]
    world = compile_world(calibrated("farm-lte"))
    dynamics = replace(world.dynamics, rate=0.02, noise=0.0, run_spread=0.0, machine_spread=0.0, tilt_spread=0.1)
    learner = SimulatedLearner()
    core = Core([world], 200, learner, "efficiency")
    core._by_world["dynamics_table"] = np.array([astuple(dynamics)])
    core.reset(np.arange(200), [np.random.default_rng(i) for i in range(200)])
    n = world.arrays.machines
    for r in range(4 * n):
        actions = np.full((200, len(world.samples) + 1), -1.0, dtype=np.float32)
        actions[:, r % n], actions[:, -1] = 1.0, 1.0
        core.step(actions)
    told = split(core.observe()).machine["surplus"][:, :n]
    true = learner.leaning[:, :n]
    assert np.corrcoef(told.ravel(), (true - true.mean(axis=1, keepdims=True)).ravel())[0, 1] > 0.8
    assert told == pytest.approx(10.0 * core.surplus[:, :n].clip(-0.5, 0.5), abs=1e-6)


def test_what_it_remembers_is_what_learning_goes_by_and_is_forgotten_at_a_reset(calibrated) -> None:  # type: ignore[no-untyped-def]
    world = compile_world(calibrated("farm-lte"))
    learner = SimulatedLearner()
    core = Core([world], 3, learner, "efficiency")
    core.reset(np.arange(3), [np.random.default_rng(i) for i in range(3)])
    n = world.arrays.machines
    rng = np.random.default_rng(0)
    for _ in range(4):
        actions = np.full((3, len(world.samples) + 1), -1.0, dtype=np.float32)
        actions[:, :n] = rng.uniform(-1.0, 1.0, size=(3, n))
        core.step(actions)
    assert core.last_part.sum(axis=1) == pytest.approx(np.ones(3))
    before = core.last_part.copy()
    core.reset(np.array([1]), [np.random.default_rng(9)])
    assert (core.last_part[1] == 0.0).all()
    assert core.last_part[[0, 2]].tolist() == before[[0, 2]].tolist()
