"""Share patterns do what they are named for."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from envs.observation import View, split
from envs.patterns import (
    PATTERNS,
    SMALLEST,
    balanced,
    best_half,
    by_speed,
    crew,
    fastest_half,
    finish_time,
    ready,
    round_energy,
    thriftiest_half,
    uniform,
    within,
)
from envs.vector import OrchestrationVectorEnv
from scenarios import names, random_scenario


@pytest.fixture(scope="module")
def observations(calibrated: Any) -> NDArray[np.float32]:
    """What random play over the library and random fleets shows, (B, size)."""
    many = [calibrated(name) for name in names()]
    many += [calibrated(random_scenario(np.random.default_rng(i))) for i in range(4)]
    env = OrchestrationVectorEnv(30, many)
    rng = np.random.default_rng(0)
    frames = [env.reset(seed=0)[0]]
    frames += [env.step(rng.uniform(-1, 1, (30, 17)).astype(np.float32))[0] for _ in range(8)]
    return np.concatenate(frames)


@pytest.fixture(scope="module")
def view(observations: NDArray[np.float32]) -> View:
    seen = split(observations)
    # Some machines are there but away, or the tests below would be easier than life.
    assert ((seen.machine["exists"] > 0) & ~ready(seen)).any()
    return seen


def hand(**machine: list[float]) -> View:
    n = len(next(iter(machine.values())))
    ones = ("exists", "available", "max_share", "charge", "teaches")
    neutral = {**dict.fromkeys(ones, 1.0), "step_saving": 0.5, "data": 0.5}
    features = ("step_time", "upload_time", "download_time", "step_energy", "radio_energy", "idle_energy", "leaves",
                "measurement_age")  # fmt: skip
    fleet = {"energy_weight": 0.5, "teaches": 1.0, "reference_rounds": 0.75}
    fleet |= dict.fromkeys(("time_vs_reference", "energy_vs_reference", "bytes_vs_reference"), 0.0)
    return View(
        {
            **{name: np.zeros(n) for name in features},
            **{name: np.full(n, value) for name, value in neutral.items()},
            **{name: np.array(value) for name, value in machine.items()},
        },
        {name: np.array(value) for name, value in fleet.items()},
    )


def test_finish_time_and_energy_by_hand() -> None:
    one = hand(step_time=[1.0], download_time=[-1.0], upload_time=[np.log10(0.4)], step_saving=[0.6])
    # 0.1 + H (0.6 + 0.4 s) + 0.4 s
    assert finish_time(one, np.array([0.5]), 10.0) == pytest.approx([0.1 + 10 * 0.8 + 0.2])
    energy = hand(step_energy=[0.0], radio_energy=[np.log10(0.3)], step_saving=[0.6])
    assert round_energy(energy, np.array([0.5]), 10.0) == pytest.approx([10 * 0.08 + 0.3 * 0.75])


def test_a_block_that_takes_longer_than_the_whole_layer_is_not_asked_for() -> None:
    ones = {name: [1.0] for name in ("exists", "available", "max_share", "step_time")}
    view = hand(**ones, download_time=[-1.0], upload_time=[-1.0], step_saving=[1.5])
    whole = float(finish_time(view, np.ones(1), 10.0)[0])
    assert whole < finish_time(view, np.array([0.5]), 10.0)[0]
    assert within(view, np.array(whole), 10.0).tolist() == [1.0]
    assert within(view, np.array(0.99 * whole), 10.0).tolist() == [0.0]
    assert balanced(view, 0.5, 10.0).tolist() == [1.0]


@pytest.mark.parametrize("name", PATTERNS)
def test_every_pattern_asks_only_who_can_be_asked(name: str, view: View) -> None:
    shares = PATTERNS[name](view, 10.0)
    able = ready(view)
    assert shares.shape == able.shape
    assert np.isfinite(shares).all()
    assert (shares[~able] == 0).all()
    assert (shares >= 0).all()
    assert (shares <= view.machine["max_share"]).all()
    assert (shares > 0).any(axis=1)[able.any(axis=1)].all()


@pytest.mark.parametrize("name", PATTERNS)
def test_a_batch_is_its_views_one_by_one(name: str, observations: NDArray[np.float32]) -> None:
    chosen = observations[::40]
    together = PATTERNS[name](split(chosen), np.full(len(chosen), 5.0))
    alone = [PATTERNS[name](split(o), 5.0) for o in chosen]
    assert together == pytest.approx(np.stack(alone), abs=1e-5)


def test_uniform_and_speed() -> None:
    seen = hand(step_time=[0.0, 1.0, 2.0, 0.5], available=[1.0, 1.0, 1.0, 0.0], max_share=[1.0, 0.3, 1.0, 1.0])
    assert uniform(seen, 0.5).tolist() == [0.5, 0.3, 0.5, 0.0]
    assert by_speed(seen) == pytest.approx([1.0, 0.1, SMALLEST, 0.0])


def test_within_keeps_its_deadline_and_wastes_nothing(view: View) -> None:
    steps = np.full(len(view.machine["exists"]), 10.0)
    for deadline in (0.3, 1.0, 3.0):
        time = np.full(len(steps), deadline)
        shares = within(view, time, steps)
        finish = finish_time(view, shares, steps)
        asked = shares > 0
        assert asked.any()
        assert (finish[asked] <= deadline * (1 + 1e-4)).all()
        # Who could do more is held by the deadline, by a whole model, or by its memory.
        held = asked & (shares < np.minimum(1.0, view.machine["max_share"]) - 1e-6)
        assert finish[held] == pytest.approx(deadline, rel=1e-3)
        # Who rests could not have finished even the smallest block.
        rests = ready(view) & ~asked
        smallest = finish_time(view, np.full_like(shares, SMALLEST), steps)
        assert (smallest[rests] > deadline * (1 - 1e-4)).all()


def test_balanced_gives_equal_finish_times(view: View) -> None:
    steps = np.full(len(view.machine["exists"]), 5.0)
    shares = balanced(view, 0.5, steps)
    finish = finish_time(view, shares, steps)
    free = (shares > 0) & (shares < np.minimum(1.0, view.machine["max_share"]) - 1e-6)
    several = np.flatnonzero(free.sum(axis=1) >= 2)
    assert len(several) > 50
    for b in several:
        times = finish[b][free[b]]
        assert times.max() - times.min() < 2e-3 * times.max()
        assert (finish[b][shares[b] > 0] <= times.max() * (1 + 1e-3)).all()


def test_balanced_reaches_its_mean_share_where_memory_lets_it() -> None:
    seen = hand(step_time=[0.0, 0.3, 0.6, 0.9], upload_time=[-0.5] * 4, download_time=[-1.0] * 4)
    shares = balanced(seen, 0.5, 10.0)
    assert shares.sum() == pytest.approx(2.0, abs=0.05)
    assert (np.diff(shares) <= 0).all()
    tight = hand(step_time=[0.0, 0.3], max_share=[0.2, 0.1])
    assert balanced(tight, 0.5, 10.0) == pytest.approx([0.2, 0.1])


@pytest.mark.parametrize("count", range(1, 7))
def test_best_half_picks_the_cheaper_half_rounded_up(count: int) -> None:
    rng = np.random.default_rng(count)
    available = np.zeros(8)
    available[rng.permutation(8)[:count]] = 1.0
    cost = rng.permutation(8).astype(float)
    shares = best_half(hand(available=available.tolist()), cost, 0.5)
    picked = np.flatnonzero(shares)
    able = np.flatnonzero(available)
    assert len(picked) == (count + 1) // 2
    assert set(picked) == set(able[np.argsort(cost[able])][: (count + 1) // 2])
    assert set(shares[picked]) == {0.5}


def test_halves_rank_by_time_and_by_energy() -> None:
    seen = hand(step_time=[0.5, 0.0, 0.2, 0.9], step_energy=[0.0, 0.9, 0.2, 0.5])
    assert np.flatnonzero(fastest_half(seen, 0.5, 10.0)).tolist() == [1, 2]
    assert np.flatnonzero(thriftiest_half(seen, 0.5, 10.0)).tolist() == [0, 2]
    fuller = hand(charge=[0.1, 0.9, 0.2, 0.8])
    assert np.flatnonzero(thriftiest_half(fuller, 0.5, 10.0)).tolist() == [1, 3]


def test_nobody_ready_means_nobody_asked() -> None:
    for name, pattern in PATTERNS.items():
        assert not pattern(hand(available=[0.0, 0.0, 0.0]), 10.0).any(), name


def test_a_crew_is_the_best_whose_data_suffice_and_takes_turns() -> None:
    alone = hand(step_time=[0.5, 0.0, 0.2, 0.9])
    assert np.flatnonzero(crew(alone, 10.0)).tolist() == [1]
    # One machine leads to half of the target, all four of them to all that there is: two are enough.
    few = hand(step_time=[0.5, 0.0, 0.2, 0.9], teaches=[0.4] * 4, measurement_age=[0.3, 0.1, 0.2, 0.9])
    assert 0.4 + 0.6 * np.log(2) / np.log(4) > 1 / 1.5 > 0.4
    assert np.flatnonzero(crew(few, 10.0)).tolist() == [1, 2]
    assert np.flatnonzero(crew(few, 10.0, turns=3)).tolist() == [2]
    assert np.flatnonzero(crew(few, 10.0, most=1)).tolist() == [1]
    assert np.flatnonzero(crew(few, 10.0, turns=3, more=1)).tolist() == [0]  # of the three it has waited longest
    by_name = {name: np.flatnonzero(pattern(few, 10.0)).tolist() for name, pattern in PATTERNS.items()}
    assert (by_name["crew-pairs"], by_name["crew-singly"], by_name["crew-more"]) == ([2], [2], [0])
    assert (by_name["best"], by_name["two"], by_name["singly"]) == ([1], [1, 2], [3])
    assert np.flatnonzero(crew(few, 10.0, margin=1.2)).tolist() == [0, 1, 2]
    few.fleet.update({name: np.array(0.5) for name in ("time_vs_reference", "energy_vs_reference", "bytes_vs_reference")})
    for pattern in (crew(few, 10.0), crew(few, 10.0, most=1), crew(few, 10.0, turns=3)):
        assert np.flatnonzero(pattern).tolist() == [0, 3]  # it has cost much and not sufficed
    # The fastest has next to no data, and those of the next two suffice without it.
    idle = hand(step_time=[0.0, 0.2, 0.5, 0.9], teaches=[0.05, 0.4, 0.4, 0.4], data=[0.01, 0.5, 0.5, 0.5])
    assert np.flatnonzero(crew(idle, 10.0)).tolist() == [1, 2]
    assert np.flatnonzero(crew(idle, 10.0, more=1)).tolist() == [1, 2, 3]
    hopeless = hand(step_time=[0.5, 0.0, 0.2], teaches=[0.1] * 3, measurement_age=[0.3, 0.1, 0.2])
    hopeless.fleet["teaches"] = np.array(0.2)
    assert np.flatnonzero(crew(hopeless, 10.0)).tolist() == [0, 1, 2]
    assert np.flatnonzero(crew(hopeless, 10.0, turns=3)).tolist() == [0]
    gone = hand(step_time=[0.0, 0.3], leaves=[0.9, 0.0])
    assert np.flatnonzero(crew(gone, 10.0)).tolist() == [1]
