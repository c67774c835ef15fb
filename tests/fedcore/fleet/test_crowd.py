"""Many flows over one short link: as few flows are shared, and by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedcore.fleet.crowd import share_crowd
from fedcore.fleet.network import N_WORK, _share_many, _share_one, transfer_until

SEEDS = st.integers(0, 2**32 - 1)


def flows(rng: np.random.Generator, number: int, hasty: bool) -> tuple[np.ndarray, ...]:
    start = rng.choice([0.0, 1.0, 5.0], number) if rng.random() < 0.3 else rng.uniform(0, 10, number)
    stop = start + rng.exponential(8.0, number) if hasty else np.full(number, np.inf)
    return start, rng.lognormal(1.0, 1.0, number), rng.lognormal(0.0, 1.0, number), stop


def crowd(start, bits, own, room, stop) -> tuple[np.ndarray, np.ndarray]:
    left, end = bits.copy(), np.zeros(len(start))
    share_crowd(start, left, own, room, stop, end)
    return end, bits - left


@settings(max_examples=200, deadline=None)
@given(SEEDS, st.integers(1, 80), st.booleans(), st.floats(0.01, 3.0))
def test_a_crowd_is_shared_as_few_flows_are(seed, number, hasty, part):
    start, bits, own, stop = flows(np.random.default_rng(seed), number, hasty)
    room = part * own.sum()
    end, moved = crowd(start, bits, own, room, stop)
    left, expected, on = bits.copy(), np.zeros(number), np.zeros(number)
    _share_one(start, left, own, room, stop, expected, on)
    np.testing.assert_allclose(end, expected, rtol=1e-9)
    np.testing.assert_allclose(moved, bits - left, rtol=1e-9, atol=1e-9)


@settings(max_examples=50, deadline=None)
@given(SEEDS)
def test_a_crowd_is_shared_as_progressive_filling_says(seed):
    start, bits, own, stop = flows(np.random.default_rng(seed), 70, seed % 2 == 0)
    end, moved = crowd(start, bits, own, 0.3 * own.sum(), stop)
    work, filled, went = np.zeros((N_WORK, 70)), np.zeros(70), np.zeros(70)
    work[9] = 1.0
    _share_many(start, bits, own, np.array([0.3 * own.sum()]), np.ones((70, 1), dtype=bool), 1, stop, filled, went, work)
    np.testing.assert_allclose(end, filled, rtol=1e-9)
    np.testing.assert_allclose(moved, went, rtol=1e-9, atol=1e-9)


def test_alike_flows_have_equal_parts_and_one_alone_has_its_own_rate():
    # A hundred at once over 10 bit/s: 0.1 each; the last comes when they are gone and has room for all of its 2 bit/s.
    start, bits, own = np.zeros(101), np.full(101, 3.0), np.full(101, 2.0)
    start[100] = 50.0
    end, moved = crowd(start, bits, own, 10.0, np.full(101, np.inf))
    assert end[:100] == pytest.approx(30.0)
    assert end[100] == pytest.approx(51.5)
    assert moved == pytest.approx(3.0)


def test_large_fleets_come_there_by_themselves_and_bits_are_conserved():
    rng = np.random.default_rng(0)
    start, bits, own, stop = flows(rng, 500, True)
    room = np.array([0.1 * own.sum()])
    end, moved = transfer_until(start, bits, np.ones(500, dtype=bool), own, room, np.ones((500, 1), dtype=bool), stop)
    assert ((moved <= bits * (1 + 1e-12)) & (end >= start)).all()
    assert moved.sum() <= room[0] * (end.max() - start.min()) * (1 + 1e-9)
    assert (moved < bits).any()
    assert (moved == bits).any()


@pytest.mark.parametrize("number", [3, 7, 49, 70, 101])
def test_rates_that_fill_the_link_to_the_last_bit_come_to_an_end(number):
    # A third of 0.3, and the like: sums of equal parts are more than the whole by rounding.
    for room in (0.3, 0.7, 1.1, 1e9 / 3):
        end, _ = crowd(np.zeros(number), np.ones(number), np.full(number, room / number), room, np.full(number, np.inf))
        assert end == pytest.approx(number / room)
