"""Counter-based draws: right laws, and nothing depends on who else draws."""

import numpy as np
import pytest
from scipy import stats

from fedcore.fleet import draws
from fedcore.fleet.draws import normal, normal_quantile, of_round, uniform

KEY = np.uint64(0x1234_5678_9ABC_DEF0)


def many(law, stream: int = draws.JITTER, key: np.uint64 = KEY, machines: int = 16, rounds: int = 1500):  # type: ignore[no-untyped-def]
    hashes = [np.uint64(of_round(key, r)) for r in range(-1, rounds - 1)]
    return np.array([[law(h, stream, k) for k in range(machines)] for h in hashes])


def test_uniform_is_uniform() -> None:
    u = many(uniform).ravel()
    assert u.min() > 0
    assert u.max() < 1
    assert u.mean() == pytest.approx(0.5, abs=0.01)
    assert u.var() == pytest.approx(1 / 12, abs=0.003)
    assert stats.kstest(u, "uniform").pvalue > 1e-3


def test_normal_is_standard_normal() -> None:
    z = many(normal).ravel()
    assert z.mean() == pytest.approx(0.0, abs=0.03)
    assert z.var() == pytest.approx(1.0, abs=0.05)
    assert stats.skew(z) == pytest.approx(0.0, abs=0.08)
    assert stats.kurtosis(z) == pytest.approx(0.0, abs=0.15)
    assert stats.kstest(z, "norm").pvalue > 1e-3


def test_draws_do_not_correlate_across_machines_rounds_streams_or_keys() -> None:
    z = many(normal)
    limit = 5 / np.sqrt(len(z))
    correlation = np.corrcoef(z.T) - np.eye(z.shape[1])
    assert np.abs(correlation).max() < limit
    assert abs(np.corrcoef(z[1:].ravel(), z[:-1].ravel())[0, 1]) < limit
    streams = (draws.JITTER, draws.LINK, draws.BUSY_SWITCH, draws.ON_SWITCH, draws.LEAVE, draws.CLOUD, draws.PROGRESS)
    assert len(set(streams)) == len(streams)
    others = np.array([[normal(np.uint64(of_round(KEY, r)), s, 0) for s in streams] for r in range(1500)])
    assert np.abs(np.corrcoef(others.T) - np.eye(len(streams))).max() < limit
    neighbour = many(normal, key=np.uint64(int(KEY) + 1))
    assert abs(np.corrcoef(z.ravel(), neighbour.ravel())[0, 1]) < limit


def test_a_draw_is_a_function_of_its_address_alone() -> None:
    hashes = [np.uint64(of_round(KEY, r)) for r in range(4)]
    first = [uniform(h, s, k) for h in hashes for s in range(7) for k in range(16)]
    backwards = [uniform(h, s, k) for h in hashes[::-1] for s in range(6, -1, -1) for k in range(15, -1, -1)]
    assert first == backwards[::-1]
    assert len(set(first)) == len(first)


def test_the_quantile_is_the_normal_laws() -> None:
    u = np.concatenate([np.linspace(1e-6, 1 - 1e-6, 2001), 10.0 ** -np.arange(1.0, 17.0), 1 - 10.0 ** -np.arange(1.0, 15.0)])
    assert [normal_quantile(v) for v in u] == pytest.approx(stats.norm.ppf(u), rel=1e-13, abs=1e-13)
