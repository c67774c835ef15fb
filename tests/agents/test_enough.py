"""`enough` on hand-made observations: whom it asks, and for how long."""

import numpy as np
import pytest

import scenarios
from agents.heuristics.enough import Enough
from envs.observation import FLEET_FEATURES, MACHINE_FEATURES
from envs.spaces import decode

MENU = np.array(scenarios.load("farm-lte").decision.sync_intervals)
MACHINE = {
    "exists": 1.0, "available": 1.0, "step_time": -0.5, "upload_time": -1.0, "download_time": -1.5, "step_energy": -0.5,
    "radio_energy": -1.0, "idle_energy": -0.5, "charge": 1.0, "data": 0.5, "max_share": 1.0, "step_saving": 0.7,
    "teaches": 0.75,
}  # fmt: skip
FLEET = {"energy_weight": 0.5, "reference_rounds": 0.75, "teaches": 0.8}
FAST, FASTER, FASTEST = {"step_time": -0.7}, {"step_time": -0.9}, {"step_time": -1.1}
TOO_FEW = {"teaches": 0.4}


def observe(machines: list[dict[str, float]], fleet: dict[str, float] = FLEET, max_machines: int = 6) -> np.ndarray:
    rows = np.zeros((max_machines, len(MACHINE_FEATURES)))
    rows[: len(machines)] = [[(MACHINE | m).get(name, 0.0) for name in MACHINE_FEATURES] for m in machines]
    tail = [(FLEET | fleet).get(name, 0.0) for name in FLEET_FEATURES]
    return np.concatenate([rows.ravel(), tail]).astype(np.float32)


def agent() -> Enough:
    enough = Enough()
    enough.begin(scenarios.load("farm-lte"))
    return enough


def answer(enough: Enough, observation: np.ndarray) -> tuple[list[int], int]:
    """Who is asked, and H."""
    shares, level = decode(enough.decide(observation)[None], np.array([len(MENU)]))
    return np.flatnonzero(shares[0]).tolist(), int(MENU[level[0]])


def later(**fleet: float) -> dict[str, float]:
    """A round after the first, of an episode that goes as the reference does."""
    usual = {
        "last_gain": 0.3,
        "last_steps": 1.0,
        "time_vs_reference": 0.3,
        "energy_vs_reference": 0.3,
        "bytes_vs_reference": 0.3,
    }
    return {**usual, "progress": 0.3, **fleet}


@pytest.mark.parametrize("max_machines", [4, 6, 16, 40])
def test_the_fastest_alone_where_its_data_suffice(max_machines: int) -> None:
    assert answer(agent(), observe([{}, FAST, FASTEST, FASTER], max_machines=max_machines)) == ([2], 40)


@pytest.mark.parametrize(
    "trouble", [{"step_time": 0.0}, {"available": 0.0}, {"charge": 0.02}, {"max_share": 0.0}, {"leaves": 0.99}]
)
def test_it_passes_over_who_is_loaded_away_empty_too_small_or_leaves(trouble: dict[str, float]) -> None:
    enough = agent()
    assert answer(enough, observe([{}, FAST, FASTEST, FASTER]))[0] == [2]
    assert answer(enough, observe([{}, FAST, FASTEST | trouble, FASTER], later()))[0] == [3]


def test_it_passes_over_whose_rounds_come_out_below_expectation() -> None:
    machines = [{}, FAST, FASTEST, FASTER]
    assert answer(agent(), observe([*machines[:2], FASTEST | {"surplus": -1.0}, FASTER], later()))[0] == [3]
    deaf = agent()
    deaf.proven = 0.0
    assert answer(deaf, observe([*machines[:2], FASTEST | {"surplus": -1.0}, FASTER], later()))[0] == [2]


def test_an_almost_empty_machine_is_better_than_none() -> None:
    assert answer(agent(), observe([{"charge": 0.02}, {"available": 0.0}]))[0] == [0]


def test_machines_are_added_until_their_pooled_data_suffice_and_take_turns() -> None:
    # ln samples from 1 of 6 to 6 of 6, 0.4 to 0.8: the target's 0.667 takes 3.3 machines' samples.
    speeds = [-0.5, -1.1, -0.6, -0.9, -1.0, -0.8]
    observation = observe([TOO_FEW | {"step_time": t} for t in speeds])
    enough = agent()
    rounds = [answer(enough, observation)[0] for _ in range(4)]
    assert rounds == [[1, 4], [3, 5], [1, 4], [3, 5]]
    alone = agent()
    alone.every = 1
    assert answer(alone, observation)[0] == [1, 3, 4, 5]


def test_a_fast_machine_without_data_is_no_part_of_the_crew() -> None:
    machines = [FASTEST | {"data": 0.01, "teaches": 0.05}, {"teaches": 0.7}, FAST | {"teaches": 0.7}]
    assert answer(agent(), observe(machines))[0] == [2]


def test_everyone_where_nobody_suffices_and_where_progress_stalls() -> None:
    poor = [TOO_FEW, TOO_FEW | FAST, TOO_FEW | {"available": 0.0}]
    assert answer(agent(), observe(poor))[0] == [0, 1]
    enough, machines = agent(), [{}, FAST, FASTEST | {"last_share": 1.0}]
    assert answer(enough, observe(machines))[0] == [2]
    asked = [answer(enough, observe(machines, later(last_gain=gain)))[0] for gain in [0.3, *[-0.2, 0.2] * 5]]
    assert asked == 10 * [[2]] + [[0, 1, 2]]
    assert answer(enough, observe(machines, later(progress=0.4)))[0] == [2]


def test_rounds_in_which_nobody_could_be_asked_are_no_stall() -> None:
    enough, machines, away = agent(), [{}, FAST, FASTEST], [{"available": 0.0}] * 3
    assert answer(enough, observe(machines))[0] == [2]
    for _ in range(30):
        assert answer(enough, observe(away, later(last_gain=0.0)))[0] == []
    assert answer(enough, observe(machines, later(last_gain=0.0)))[0] == [2]


def test_nobody_is_asked_where_nobody_is_there() -> None:
    assert answer(agent(), observe([{"available": 0.0}, {"available": 0.0}]))[0] == []


def test_shares_fit_memory() -> None:
    shares, _ = decode(agent().decide(observe([{"max_share": 0.4}]))[None], np.array([len(MENU)]))
    assert shares[0, 0] == pytest.approx(0.4, abs=1e-6)


def test_the_interval_falls_where_machines_leave() -> None:
    slow = {"step_time": 0.5}
    intervals = []
    for leaves in (0.0, 0.46, 0.76):  # never, once, twice
        enough = agent()
        answer(enough, observe([slow]))
        intervals.append(answer(enough, observe([slow | {"leaves": leaves}], later()))[1])
    assert intervals[0] > intervals[1] > intervals[2]


def test_the_interval_falls_after_a_late_block_to_one_that_meets_the_deadline() -> None:
    enough, slow = agent(), {"step_time": -0.3}  # 40 steps take 2 of the reference's rounds, 20 take 1
    assert answer(enough, observe([slow]))[1] == 40
    late = slow | {"last_outcome": -1.0}
    assert (
        answer(enough, observe([late], later(last_gain=0.0, last_steps=np.log10(40), last_round_time=np.log10(1.5))))[1] == 20
    )
    assert answer(enough, observe([slow], later(last_round_time=np.log10(1.2))))[1] == 20  # and it remembers


def test_the_last_round_is_short() -> None:
    enough = agent()
    answer(enough, observe([{}]))
    near = later(progress=0.98, last_gain=0.3, last_steps=1.0)
    assert answer(enough, observe([{}], near))[1] < 40


def test_it_is_permutation_equivariant() -> None:
    rng = np.random.default_rng(0)
    machines = [
        {"step_time": t, "step_energy": e, "data": d, "teaches": 0.5 + 0.2 * d, "leaves": 0.1 * d}
        for t, e, d in rng.uniform([-1.5, -1.0, 0.1], [0.0, 0.0, 0.9], (6, 3))
    ]
    order = rng.permutation(6)
    one, other = agent(), agent()
    start: dict[str, float] = {}
    for fleet in (start, later(), later(progress=0.5), later(last_gain=0.1, progress=0.7)):
        asked, steps = answer(one, observe(machines, fleet))
        again, same = answer(other, observe([machines[k] for k in order], fleet))
        assert sorted(order[again].tolist()) == asked
        assert same == steps
