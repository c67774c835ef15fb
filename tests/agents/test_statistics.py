"""Aggregates against hand-computed figures, and intervals that cover what they should."""

import numpy as np
import pytest
from scipy.stats import mannwhitneyu, trim_mean

from agents.statistics import (
    improvement,
    iqm,
    paired_iqm,
    pareto,
    pooled_iqm,
    probability_of_improvement,
    profile,
    profile_band,
)


def test_iqm_by_hand() -> None:
    assert iqm(np.array([100.0, 1.0, 2.0, 3.0, 4.0, -50.0, 5.0, 6.0])) == pytest.approx(3.5)  # of 2, 3, 4, 5
    assert iqm(np.array([7.0])) == 7.0
    assert iqm(np.array([1.0, 2.0, 9.0])) == pytest.approx(4.0)  # too few to cut
    with pytest.raises(ValueError, match="no scores"):
        iqm(np.zeros(0))


@pytest.mark.parametrize("n", [2, 4, 5, 30, 101])
def test_iqm_is_scipys_trimmed_mean(n: int) -> None:
    scores = np.random.default_rng(n).normal(size=(3, n))
    assert iqm(scores) == pytest.approx(trim_mean(scores, 0.25, axis=1))


def test_one_wild_run_hardly_moves_it() -> None:
    scores = [np.random.default_rng(i).normal(size=30) for i in range(4)]
    wild = [scores[0].copy(), *scores[1:]]
    wild[0][wild[0].argmax()] = 1e9
    assert pooled_iqm(wild).value == pooled_iqm(scores).value


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng, hits = np.random.default_rng(3), 0
    shifts = (-4.0, 0.0, 4.0)
    truth = pooled_iqm([s + rng.normal(size=20_000) for s in shifts], draws=2).value
    for trial in range(150):
        found = pooled_iqm([s + rng.normal(size=30) for s in shifts], draws=300, seed=trial)
        assert found.low <= found.value <= found.high
        hits += found.low <= truth <= found.high
    assert 0.86 < hits / 150 < 0.995


def test_seeds_are_drawn_within_their_scenario() -> None:
    # Every seed of a scenario alike: nothing to draw, however far the scenarios lie apart.
    found = pooled_iqm([np.full(10, -3.0), np.full(10, 5.0)])
    assert found.low == found.high == found.value == 1.0


def test_pairs_take_out_what_both_share() -> None:
    rng = np.random.default_rng(0)
    hard = [rng.normal(scale=5.0, size=30) for _ in range(3)]
    gained = paired_iqm([h + 0.5 for h in hard], hard)
    assert (gained.value, gained.low, gained.high) == pytest.approx((0.5, 0.5, 0.5))


def test_probability_of_improvement() -> None:
    rng = np.random.default_rng(1)
    x, y = [rng.normal(size=20), rng.normal(size=25)], [rng.normal(size=15), rng.normal(size=25)]
    same = probability_of_improvement(x, x)
    assert same.value == pytest.approx(0.5)
    assert same.low < 0.5 < same.high
    assert probability_of_improvement([x[0] + 99], [y[0]]).value == 1.0
    assert probability_of_improvement([x[0]], [y[0] + 99]).value == 0.0
    there, back = probability_of_improvement(x, y).value, probability_of_improvement(y, x).value
    assert there + back == pytest.approx(1.0)
    assert improvement(x[0], y[0]) == pytest.approx(mannwhitneyu(x[0], y[0]).statistic / (20 * 15))
    assert improvement(np.array([1.0, 2.0]), np.array([1.0, 1.0])) == pytest.approx(0.75)  # a tie counts half


def test_profile_falls_from_one_to_nothing_and_weighs_scenarios_alike() -> None:
    scenarios = [np.array([0.0, 1.0]), np.array([2.0] * 8)]
    assert profile(scenarios, np.array([-1.0, 0.0, 0.5, 1.5, 2.0])) == pytest.approx([1.0, 0.75, 0.75, 0.5, 0.0])
    low, high = profile_band(scenarios, np.array([-1.0, 0.5, 2.0]))
    assert low == pytest.approx([1.0, 0.5, 0.0])
    assert high == pytest.approx([1.0, 1.0, 0.0])


def test_pareto_keeps_what_nothing_undercuts() -> None:
    costs = np.array([[1.0, 9.0], [9.0, 1.0], [5.0, 5.0], [6.0, 5.0], [5.0, 5.0]])
    assert pareto(costs).tolist() == [True, True, True, False, True]
