import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedcore.probes import intervals
from fedcore.probes.intervals import Estimate, bootstrap, percentile_interval, resamples, tail_of


def mean_of(values: np.ndarray):
    return lambda weights: (weights @ values / weights.sum(1))[:, None]


@settings(max_examples=40, deadline=None)
@given(n=st.integers(1, 30), seed=st.integers(0, 2**32), groups=st.integers(1, 6), chunk=st.sampled_from([1, 40, 2**22]))
def test_every_resample_draws_as_many_units_as_there_are_whole(n, seed, groups, chunk):
    group = np.random.default_rng(seed).integers(0, groups, n) * 7 - 3
    before, intervals.CHUNK = intervals.CHUNK, chunk
    try:
        single, whole = (np.concatenate(list(resamples(n, seed, g, 50))) for g in (None, group))
    finally:
        intervals.CHUNK = before
    assert single.shape == whole.shape == (50, n)
    assert (single.sum(1) == n).all()
    for value in np.unique(group):
        own = whole[:, group == value]
        assert (own == own[:, :1]).all()
    first = [np.flatnonzero(group == value)[0] for value in np.unique(group)]
    assert (whole[:, first].sum(1) == len(first)).all()


def test_the_interval_of_a_mean_is_that_of_the_normal_approximation():
    values = np.random.default_rng(0).normal(3, 2, 400)
    (estimate,) = bootstrap(mean_of(values), 400, seed=1, count=4000)
    error = values.std() / 20
    assert estimate.value == pytest.approx(values.mean())
    assert estimate.low == pytest.approx(values.mean() - 1.96 * error, abs=0.1 * error)
    assert estimate.high == pytest.approx(values.mean() + 1.96 * error, abs=0.1 * error)


def test_the_interval_covers_the_truth_about_95_times_in_100():
    rng = np.random.default_rng(5)
    covered = 0
    for trial in range(300):
        right = (rng.random(150) < 0.7).astype(float)
        (estimate,) = bootstrap(mean_of(right), 150, seed=trial, count=300)
        covered += estimate.low <= 0.7 <= estimate.high
    # Binomial(300, 0.95) within 3.2 standard deviations.
    assert 273 <= covered <= 297


def test_groups_that_are_alike_within_widen_it_to_what_covers():
    rng = np.random.default_rng(6)
    covered = {"images": 0, "groups": 0}
    group = np.repeat(np.arange(30), 10)
    for trial in range(200):
        values = np.repeat(rng.normal(size=30), 10) + 0.1 * rng.normal(size=300)
        for name, unit in (("images", None), ("groups", group)):
            (estimate,) = bootstrap(mean_of(values), 300, trial, unit, count=300)
            covered[name] += estimate.low <= 0 <= estimate.high
    assert covered["groups"] >= 175
    assert covered["images"] < 120


@pytest.mark.parametrize("units", [4, 6, 10])
def test_few_groups_are_covered_too(units):
    rng = np.random.default_rng(units)
    group = np.repeat(np.arange(units), 5)
    usual = wide = 0
    for trial in range(400):
        values = np.repeat(rng.normal(size=units), 5)
        samples = np.concatenate([w @ values for w in resamples(5 * units, trial, group, 400)]) / (5 * units)
        for tail in (0.025, tail_of(units)):
            estimate = percentile_interval(values.mean(), samples, tail)
            if tail == 0.025:
                usual += estimate.low <= 0 <= estimate.high
            else:
                wide += estimate.low <= 0 <= estimate.high
    assert usual < 375
    assert wide >= 355
    assert wide > usual


def test_tails_by_hand():
    # t of 5 degrees of freedom is 2.571; Phi(-2.571 * sqrt(6 / 5)) = Phi(-2.816).
    assert tail_of(6) == pytest.approx(0.00243, abs=2e-5)
    assert tail_of(1) == 0.0
    assert tail_of(10**6) == pytest.approx(0.025, rel=1e-4)


def test_one_seed_is_one_result_whatever_the_chunks(monkeypatch):
    values = np.random.default_rng(0).random(20)
    one = bootstrap(mean_of(values), 20, 3)
    assert one == bootstrap(mean_of(values), 20, 3)
    assert one != bootstrap(mean_of(values), 20, 4)
    rows = np.concatenate(list(resamples(20, 3, count=30)))
    monkeypatch.setattr(intervals, "CHUNK", 100)
    np.testing.assert_array_equal(rows, np.concatenate(list(resamples(20, 3, count=30))))


def test_undefined_resamples_are_left_out():
    estimate = percentile_interval(0.5, np.array([np.nan, *np.linspace(0, 1, 101)]))
    assert estimate == Estimate(0.5, pytest.approx(0.025), pytest.approx(0.975))
    assert str(estimate) == "0.500 (0.025 .. 0.975)"
    assert np.isnan(percentile_interval(0.5, np.full(3, np.nan)).low)
