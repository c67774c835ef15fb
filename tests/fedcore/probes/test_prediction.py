import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kendalltau, spearmanr

from fedcore.probes.intervals import resamples
from fedcore.probes.prediction import BETTER, Run, correlate, predict_quality, weighted_kendall, weighted_spearman


@settings(max_examples=40, deadline=None)
@given(n=st.integers(3, 20), levels=st.integers(2, 30), seed=st.integers(0, 9999))
def test_weighted_correlations_are_scipys_on_the_repeated_points(n, levels, seed):
    rng = np.random.default_rng(seed)
    x, y = rng.integers(0, levels, (2, n)).astype(float)
    weights = np.concatenate([np.ones((1, n)), *resamples(n, seed, count=4)])
    for row, rho, tau in zip(
        weights.astype(int), weighted_spearman(weights, x, y), weighted_kendall(weights, x, y), strict=True
    ):
        a, b = np.repeat(x, row), np.repeat(y, row)
        if np.ptp(a) == 0 or np.ptp(b) == 0:
            assert np.isnan(rho)
            assert np.isnan(tau)
        else:
            assert rho == pytest.approx(spearmanr(a, b).statistic)
            assert tau == pytest.approx(kendalltau(a, b).statistic)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(-100, 100), min_size=3, max_size=15, unique=True))
def test_monotone_data_correlate_perfectly_whatever_the_shape(values):
    x = [float(v) for v in values]
    for turn in (1, -1):
        told = correlate([x], [[turn * np.arctan(v) for v in x]])
        for estimate in (told.spearman_within, told.kendall_within, told.spearman_pooled, told.kendall_pooled):
            assert (estimate.value, estimate.low, estimate.high) == pytest.approx((turn, turn, turn))


def test_within_and_pooled_differ_where_runs_differ():
    # Inside each run the signal foretells the quality; over the runs it misleads.
    signals = [list(np.arange(5.0) + 100 * r) for r in range(4)]
    qualities = [list(np.arange(5.0) - 100 * r) for r in range(4)]
    told = correlate(signals, qualities)
    assert told.spearman_within.value == pytest.approx(1.0)
    assert told.spearman_pooled.value == pytest.approx(spearmanr(np.ravel(signals), np.ravel(qualities)).statistic)
    assert told.spearman_pooled.value < -0.5
    assert told.kendall_pooled.value == pytest.approx(kendalltau(np.ravel(signals), np.ravel(qualities)).statistic)
    assert (told.runs, told.checkpoints, told.unit) == (4, 20, "run")
    assert told.spearman_within.low == pytest.approx(1.0)


def test_within_is_the_mean_over_runs_that_have_a_correlation():
    up, down, flat = [1.0, 2, 3, 4], [4.0, 3, 2, 1], [1.0, 1, 1, 1]
    told = correlate([up, up, up, up], [up, up, down, flat])
    assert told.spearman_within.value == pytest.approx(1 / 3)
    assert told.kendall_within.value == pytest.approx(1 / 3)
    assert told.spearman_within.low == pytest.approx(-1.0)
    assert told.spearman_within.high == pytest.approx(1.0)


def test_signals_are_turned_so_that_better_goes_up():
    quality = [0.1, 0.2, 0.25, 0.4]
    checkpoints = [{"infonce": 5 - q, "effective_rank": q, "round": 3.0, "quality": q} for q in quality]
    told = predict_quality([Run.of(checkpoints)] * 2)
    assert list(told) == ["infonce", "effective_rank"]
    assert all(c.spearman_pooled.value == pytest.approx(1.0) and c.unit == "checkpoint" for c in told.values())
    misled = predict_quality([Run(dict.fromkeys(BETTER, quality), quality)])
    assert {name: round(c.kendall_within.value) for name, c in misled.items()} == BETTER


def test_noise_correlates_with_nothing_and_the_intervals_mostly_say_so():
    covered = np.zeros(4)
    for seed in range(60):
        told = correlate(*np.random.default_rng(seed).normal(size=(2, 8, 12)).tolist())
        estimates = told.spearman_within, told.kendall_within, told.spearman_pooled, told.kendall_pooled
        covered += [e.low < 0 < e.high for e in estimates]
        assert max(abs(e.value) for e in estimates) < 0.4
    assert covered.min() >= 51


@pytest.mark.parametrize(
    ("signals", "qualities"), [([], []), ([[1.0, 2]], [[1.0, 2]]), ([[1.0, 2, 3]], [[1.0, 2, 3, 4]]), ([[1.0, 2, 3]], [])]
)
def test_too_little_is_refused(signals, qualities):
    with pytest.raises(ValueError, match="expected"):
        correlate(signals, qualities)


def test_unknown_signals_and_empty_runs_are_refused():
    with pytest.raises(ValueError, match="signal 'loss' is not known"):
        predict_quality([Run({"loss": [1, 2, 3]}, [1, 2, 3])])
    with pytest.raises(ValueError, match="no checkpoints"):
        Run.of([])
