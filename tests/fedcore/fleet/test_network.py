"""Shared links: hand-computed rates and end times, and laws that hold for every fleet."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fedcore.fleet.draws import HOLES_UP, of_round, uniform
from fedcore.fleet.network import (
    FLOWS,
    HOLES_APART,
    N_WORK,
    _share_many,
    broken_s,
    carried,
    max_min_rates,
    replayed_s,
    transfer_until,
)

Floats = NDArray[np.float64]


def transfer_end_times(*flows: NDArray[Any]) -> Floats:
    """Of flows none of which gives up."""
    return transfer_until(*flows)[0]


def rates(own: list[float], links: list[float], via: list[list[int]], active: list[bool] | None = None) -> Floats:
    on = np.array(active if active is not None else [True] * len(own))
    return max_min_rates(on, np.array(own, float), np.array(links, float), np.array(via, dtype=np.bool_))


def ends(start: list[float], bits: list[float], own: list[float], links: list[float], via: list[list[int]]) -> Floats:
    n = len(own)
    return transfer_end_times(
        np.array(start, float), np.array(bits, float), np.ones(n, dtype=np.bool_), np.array(own, float), np.array(links, float),
        np.array(via, dtype=np.bool_),
    )  # fmt: skip


def test_one_link_is_shared_equally() -> None:
    assert rates([10, 10, 10], [9], [[1], [1], [1]]) == pytest.approx([3, 3, 3])


def test_what_a_slow_own_link_leaves_goes_to_the_others() -> None:
    assert rates([1, 10, 10], [9], [[1], [1], [1]]) == pytest.approx([1, 4, 4])


def test_two_links_in_series() -> None:
    # The second link binds flows 1 and 2 at 2 each; the first one's rest is flow 0's.
    assert rates([100, 100, 100], [10, 4], [[1, 0], [1, 1], [0, 1]]) == pytest.approx([8, 2, 2])


def test_flows_that_are_not_there_or_cross_no_link() -> None:
    assert rates([5, 5, 7], [4], [[1], [1], [0]], [True, False, True]) == pytest.approx([4, 0, 7])
    assert rates([5], [np.inf], [[1]]) == pytest.approx([5])


def test_rates_rise_when_a_flow_ends() -> None:
    # 1 bit/s each until 10; then 1.5 each until the second one's last 10 bits are through; then 3.
    assert ends([0, 0, 0], [10, 20, 30], [100] * 3, [3], [[1]] * 3) == pytest.approx([10, 10 + 20 / 3, 20])


def test_rates_fall_when_a_flow_starts() -> None:
    # Alone at 10 until 5, then 5 each: flow 0 ends at 15, flow 1 sends its other 50 alone by 20.
    assert ends([0, 5], [100, 100], [100, 100], [10], [[1], [1]]) == pytest.approx([15, 20])


def test_a_gap_between_transfers_is_waited_out() -> None:
    assert ends([0, 50], [100, 100], [100, 100], [10], [[1], [1]]) == pytest.approx([10, 60])


def test_uncontended_links_leave_every_flow_its_own_rate() -> None:
    assert ends([0, 1], [10, 30], [2, 3], [5], [[1], [1]]) == pytest.approx([5, 11])


def test_absent_flows_end_where_they_start_and_take_nothing() -> None:
    got = transfer_end_times(
        np.array([1.0, 2.0]), np.array([10.0, 10.0]), np.array([True, False]), np.array([10.0, 10.0]),
        np.array([5.0]), np.ones((2, 1), dtype=np.bool_),
    )  # fmt: skip
    assert got == pytest.approx([3.0, 2.0])


@st.composite
def networks(draw: st.DrawFn) -> tuple[Floats, Floats, NDArray[np.bool_], NDArray[np.bool_], Floats, Floats]:
    n, links = draw(st.integers(1, 8)), draw(st.integers(1, 4))
    speed = st.floats(0.01, 1000.0)
    own = np.array(draw(st.lists(speed, min_size=n, max_size=n)))
    capacity = np.array(draw(st.lists(st.one_of(speed, st.just(np.inf)), min_size=links, max_size=links)))
    via = np.array(draw(st.lists(st.lists(st.booleans(), min_size=links, max_size=links), min_size=n, max_size=n)))
    active = np.array(draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    start = np.array(draw(st.lists(st.one_of(st.just(0.02), st.floats(0, 100)), min_size=n, max_size=n)))
    bits = np.array(draw(st.lists(st.floats(0.1, 1e4), min_size=n, max_size=n)))
    return own, capacity, via, active, start, bits


@settings(max_examples=150, deadline=None)
@given(networks())
def test_rates_are_feasible_and_max_min_fair(case) -> None:  # type: ignore[no-untyped-def]
    own, capacity, via, active, _, _ = case
    rate = max_min_rates(active, own, capacity, via)
    load = (rate[:, None] * via).sum(axis=0)
    assert (load <= capacity * (1 + 1e-9)).all()
    assert (rate <= own * (1 + 1e-12)).all()
    assert (rate[~active] == 0).all()
    full = load >= capacity * (1 - 1e-9)
    for k in np.flatnonzero(active):
        # The certificate: own link full, or a full link on which nobody is faster.
        fastest = [full[j] and rate[k] >= rate[via[:, j]].max() * (1 - 1e-9) for j in np.flatnonzero(via[k])]
        assert rate[k] >= own[k] * (1 - 1e-9) or any(fastest)


@settings(max_examples=150, deadline=None)
@given(networks())
def test_all_bits_arrive_and_no_link_carries_more_than_it_can(case) -> None:  # type: ignore[no-untyped-def]
    own, capacity, via, active, start, bits = case
    end = transfer_end_times(start, bits, active, own, capacity, via)
    assert (end[~active] == start[~active]).all()
    moments = np.unique(np.concatenate([start[active], end[active]]))
    moved = np.zeros(len(own))
    for a, b in pairwise(moments):
        middle = 0.5 * (a + b)
        rate = max_min_rates(active & (start < middle) & (end > middle), own, capacity, via)
        moved += rate * (b - a)
    assert moved[active] == pytest.approx(bits[active], rel=1e-6, abs=1e-6 * own.max())
    for j in range(len(capacity)):
        users = active & via[:, j]
        if users.any() and np.isfinite(capacity[j]):
            busy_s = end[users].max() - start[users].min()
            assert bits[users].sum() <= capacity[j] * busy_s * (1 + 1e-6) + 1e-6 * capacity[j]


def test_many_random_starts_never_lose_a_flow() -> None:
    # Starts that rounding can miss by an ulp: every flow must still end after its start, the link never idle.
    rng = np.random.default_rng(0)
    for _ in range(3000):
        n = int(rng.integers(2, 12))
        start, bits = rng.uniform(0, 3, n) * 10.0 ** rng.integers(-6, 3), rng.uniform(50, 60, n)
        end = transfer_end_times(
            start, bits, np.ones(n, dtype=np.bool_), np.full(n, 50.0), np.array([7.0]), np.ones((n, 1), dtype=np.bool_)
        )
        assert (end > start + bits / 50.0 * (1 - 1e-9)).all()
        assert end.max() - start.min() >= bits.sum() / 7.0 * (1 - 1e-9)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 12), st.floats(0.2, 3.0))
def test_one_short_link_agrees_with_the_general_rule(seed: int, flows: int, room: float) -> None:
    rng = np.random.default_rng(seed)
    start, bits, own = rng.uniform(0, 3, flows).round(1), rng.uniform(1, 5, flows), rng.uniform(0.5, 2, flows).round(2)
    via = rng.random((flows, 2)) < 0.7
    via[:, 1] = False  # a link that nobody crosses
    link, active = np.array([room, 1.0]), rng.random(flows) < 0.9
    fast = transfer_end_times(start, bits, active, own, link, via)
    general, work = np.zeros(flows), np.zeros((N_WORK, max(flows, 2)))
    work[FLOWS, :flows] = active
    _share_many(start, bits, own, link, via, 2, np.full(flows, np.inf), general, np.zeros(flows), work)
    assert fast[active] == pytest.approx(general[active], rel=1e-9)
    assert (fast[~active] == start[~active]).all()


def test_who_gives_up_leaves_its_room_to_others() -> None:
    start, bits, own = np.zeros(3), np.array([10.0, 10.0, 10.0]), np.full(3, 100.0)
    via, stop = np.ones((3, 1), dtype=bool), np.array([2.0, np.inf, 0.0])
    end, moved = transfer_until(start, bits, np.ones(3, dtype=bool), own, np.array([2.0]), via, stop)
    # One bit/s each until 2 s, then 2 bit/s for the 8 that are left; the third never begins.
    assert end == pytest.approx([2.0, 6.0, 0.0])
    assert moved == pytest.approx([2.0, 10.0, 0.0])


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 10), st.integers(1, 3))
def test_links_carry_what_they_can_however_flows_give_up(seed: int, flows: int, links: int) -> None:
    rng = np.random.default_rng(seed)
    start, bits, own = rng.uniform(0, 3, flows).round(1), rng.uniform(1, 5, flows), rng.uniform(0.5, 2, flows).round(2)
    via, room, active = rng.random((flows, links)) < 0.7, rng.uniform(0.3, 3.0, links), rng.random(flows) < 0.9
    stop = np.where(rng.random(flows) < 0.5, start + rng.uniform(-1, 4, flows).round(1), np.inf)
    end, moved = transfer_until(start, bits, active, own, room, via, stop)
    flow = active & (stop > start)
    assert (moved[~flow] == 0).all()
    assert (end[flow] <= stop[flow]).all()
    assert (moved[flow] <= np.minimum(bits, own * (end - start))[flow] * (1 + 1e-9)).all()
    cut = flow & (moved < bits)
    assert (end[cut] == stop[cut]).all()
    # No flow is slowed down by another's giving up, and over any stretch from its first start a link carries at most its room.
    patient = transfer_end_times(start, bits, active, own, room, via)
    assert (end[flow] <= patient[flow] * (1 + 1e-9)).all() or links > 1
    for j in range(links):
        mine = flow & via[:, j]
        if mine.any():
            assert moved[mine].sum() <= room[j] * (end[mine].max() - start[mine].min()) * (1 + 1e-9)
    # Cutting everybody at one time is the same flows, seen until then: the link has carried at most its room by then.
    once = 2.0
    _, seen = transfer_until(start, bits, active, own, room, via, np.full(flows, once))
    for j in range(links):
        mine = active & via[:, j] & (start < once)
        if mine.any():
            assert seen[mine].sum() <= room[j] * (once - start[mine].min()) * (1 + 1e-9)


def test_short_links_without_a_common_flow_are_shared_apart() -> None:
    together = ends([0, 0, 0, 0], [10, 20, 10, 20], [100] * 4, [2, 4], [[1, 0], [1, 0], [0, 1], [0, 1]])
    assert together == pytest.approx([10, 15, 5, 7.5])


def test_recorded_links_carry_what_they_carried() -> None:
    bits = np.array([0.0, 2.0, 2.0, 6.0])  # 2, 0 and 4 bit/s, over and over again
    assert [carried(bits, 0, 3, t) for t in (0.0, 0.5, 1.0, 2.0, 2.5, 3.0, 7.0)] == [0, 1, 2, 2, 4, 6, 14]
    for begins, size, seconds in ((0, 1, 0.5), (0.5, 1, 0.5), (0.5, 2, 1.75), (2.75, 3, 1.25), (1, 12, 6)):
        assert replayed_s(bits, 0, 3, float(begins), float(size)) == pytest.approx(seconds)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10_000), st.floats(0, 50), st.floats(0.01, 200))
def test_replayed_transfers_end_when_their_bits_are_through(seed: int, begins: float, size: float) -> None:
    rates = np.random.default_rng(seed).integers(0, 4, 7).astype(float)
    rates[3] = 2.0
    bits = np.concatenate([[9.0], [0.0], np.cumsum(rates)])  # another trace comes before
    lasts = replayed_s(bits, 1, 8, begins, size)
    assert carried(bits, 1, 8, begins + lasts) - carried(bits, 1, 8, begins) == pytest.approx(size, rel=1e-6)
    assert lasts > 0


def broken(size: float, out: bool, run: int, up_s: float = 50.0, down_s: float = 5.0, fraction: float = 0.01) -> float:
    return broken_s(size, 1.0, out, fraction, up_s, down_s, np.uint64(of_round(np.uint64(9), run)), HOLES_UP, 3)


def test_outages_within_a_transfer_by_hand() -> None:
    u = [uniform(np.uint64(of_round(np.uint64(9), 0)), HOLES_UP, 3 + HOLES_APART * i) for i in range(3)]
    stays = [-50.0 * np.log(u[0]), -5.0 * np.log(u[1]), -50.0 * np.log(u[2])]
    assert broken(0.9 * stays[0], False, 0) == pytest.approx(0.9 * stays[0])
    size = stays[0] + 0.01 * stays[1] + 0.5 * stays[2]
    assert broken(size, False, 0) == pytest.approx(stays[0] + stays[1] + 0.5 * stays[2])


def test_machines_of_large_fleets_have_outages_of_their_own() -> None:
    def lasts(machine: int) -> float:
        return broken_s(100.0, 1.0, True, 0.01, 50.0, 5.0, np.uint64(of_round(np.uint64(9), 0)), HOLES_UP, machine)

    assert len({lasts(k) for k in range(256)}) == 256


@pytest.mark.parametrize("out", [False, True])
def test_outages_cost_their_own_length_and_no_more(out: bool) -> None:
    seconds = np.array([broken(100.0, out, run) for run in range(4000)])
    # Alone it takes 100 s; about two holes of 5 s fall into it, and one more where it starts in one.
    assert seconds.min() >= 100.0 - 1e-9
    assert seconds.mean() == pytest.approx(100.0 + 10.0 + 5.0 * out, abs=0.8)
    # Thousands of holes average out: the link's long-run rate.
    assert broken(1e6, out, 0) == pytest.approx(1e6 * 55.0 / 50.05, rel=0.01)
