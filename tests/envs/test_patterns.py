"""Share patterns do what they are named for."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from envs.menu import PATTERNS
from envs.observation import View, split
from envs.patterns import (
    SMALLEST,
    balanced,
    best_half,
    by_speed,
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

Hand = Callable[..., View]


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


def test_finish_time_and_energy_by_hand(hand: Hand) -> None:
    one = hand(step_time=[1.0], download_time=[-1.0], upload_time=[np.log10(0.4)], step_saving=[0.6])
    # 0.1 + H (0.6 + 0.4 s) + 0.4 s
    assert finish_time(one, np.array([0.5]), 10.0) == pytest.approx([0.1 + 10 * 0.8 + 0.2])
    energy = hand(step_energy=[0.0], radio_energy=[np.log10(0.3)], step_saving=[0.6])
    assert round_energy(energy, np.array([0.5]), 10.0) == pytest.approx([10 * 0.08 + 0.3 * 0.75])


def test_a_block_that_takes_longer_than_the_whole_layer_is_not_asked_for(hand: Hand) -> None:
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


def test_uniform_and_speed(hand: Hand) -> None:
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


def test_balanced_reaches_its_mean_share_where_memory_lets_it(hand: Hand) -> None:
    seen = hand(step_time=[0.0, 0.3, 0.6, 0.9], upload_time=[-0.5] * 4, download_time=[-1.0] * 4)
    shares = balanced(seen, 0.5, 10.0)
    assert shares.sum() == pytest.approx(2.0, abs=0.05)
    assert (np.diff(shares) <= 0).all()
    tight = hand(step_time=[0.0, 0.3], max_share=[0.2, 0.1])
    assert balanced(tight, 0.5, 10.0) == pytest.approx([0.2, 0.1])


@pytest.mark.parametrize("count", range(1, 7))
def test_best_half_picks_the_cheaper_half_rounded_up(count: int, hand: Hand) -> None:
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


def test_halves_rank_by_time_and_by_energy(hand: Hand) -> None:
    seen = hand(step_time=[0.5, 0.0, 0.2, 0.9], step_energy=[0.0, 0.9, 0.2, 0.5])
    assert np.flatnonzero(fastest_half(seen, 0.5, 10.0)).tolist() == [1, 2]
    assert np.flatnonzero(thriftiest_half(seen, 0.5, 10.0)).tolist() == [0, 2]
    fuller = hand(charge=[0.1, 0.9, 0.2, 0.8])
    assert np.flatnonzero(thriftiest_half(fuller, 0.5, 10.0)).tolist() == [1, 3]


def test_nobody_ready_means_nobody_asked(hand: Hand) -> None:
    for name, pattern in PATTERNS.items():
        assert not pattern(hand(available=[0.0, 0.0, 0.0]), 10.0).any(), name
