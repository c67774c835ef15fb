import numpy as np
import pytest

from envs import rows
from fedcore.kernel import kernel


@kernel()
def _sums(factors, values, out, scratch):
    for b in range(len(values)):
        total = 0.0
        for k in range(len(scratch)):
            scratch[k] = factors[k] * values[b, k]
        for k in range(len(scratch)):
            total += scratch[k]
        out[b] = total


@pytest.mark.parametrize(("threads", "count"), [(1, 50), (2, 50), (2, 3), (3, 50)])
def test_rows_are_the_same_on_any_number_of_threads_each_with_memory_of_its_own(monkeypatch, threads, count):
    monkeypatch.setattr(rows, "_threads", lambda: threads)
    rows._pool.cache_clear()
    values, factors = np.random.default_rng(0).normal(size=(count, 4)), np.array([1.0, -1.0, 2.0, 0.5])
    out = np.full(count, np.nan)
    rows.in_rows(_sums, (factors,), (values, out), scratch=(4,), least=2)
    assert out == pytest.approx(values @ factors)
    rows._pool.cache_clear()


def test_no_rows_are_no_work():
    out = np.zeros(0)
    rows.in_rows(_sums, (np.ones(4),), (np.zeros((0, 4)), out), scratch=(4,))
    assert not len(out)
