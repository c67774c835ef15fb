"""Transfers over shared links: flows share every link max-min fairly, and rates change whenever a flow starts or ends."""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

from fedcore.fleet.crowd import CROWD, share_crowd
from fedcore.fleet.draws import of_round, uniform
from fedcore.kernel import kernel

WAITING, RUNNING, ENDED = 0.0, 1.0, 2.0
MOST_HOLES, HOLES_APART = 32, 64
"""Outages of one transfer that are played one by one; machines of a fleet whose draws lie beside each other."""
LEFT, STATE, RATE, ROOM, START, OWN, END, STOP, INDEX, FLOWS = range(10)
N_WORK = 10
"""Rows of working memory that a transfer needs."""
Floats = NDArray[np.float64]
VECTORS = {"nnan", "nsz", "reassoc", "contract"}
"""Freedoms of arithmetic that let loops over flows run in vectors; the same on every call on one machine."""


@numba.njit(cache=True, error_model="numpy")
def max_min_rates(
    active: NDArray[np.bool_], own_bps: Floats, link_bps: Floats, via: NDArray[np.bool_]
) -> Floats:
    """Max-min fair rates by progressive filling (Bertsekas and Gallager, Data Networks, 6.5.2).

    Args:
        active: (K,) flows that want to send.
        own_bps: (K,) rate of each flow's own access link.
        link_bps: (L,) capacity of each shared link.
        via: (K, L) whether a flow crosses a link.

    Returns:
        (K,) bit/s, 0 for inactive flows.
    """
    work = np.zeros((N_WORK, max(via.shape)))
    for k in range(len(active)):
        work[STATE, k] = RUNNING if active[k] else ENDED
    _fill(own_bps, link_bps, via, len(link_bps), work)
    return work[RATE, : len(active)].copy()


@kernel()
def _fill(
    own_bps: Floats, link_bps: Floats, via: NDArray[np.bool_], n_links: int, work: Floats
) -> None:
    """Rates of the running flows, into `work[RATE]`."""
    n = len(own_bps)
    remaining = 0
    for k in range(n):
        work[RATE, k] = 0.0
        if work[STATE, k] == RUNNING:
            work[RATE, k] = -1.0  # not settled yet
            remaining += 1
    for j in range(n_links):
        work[ROOM, j] = link_bps[j]
    while remaining > 0:
        # The tightest constraint over all open flows: an own link, or an equal part of a shared one.
        level = np.inf
        for k in range(n):
            if work[RATE, k] < 0.0 and own_bps[k] < level:
                level = own_bps[k]
        bottleneck = -1
        for j in range(n_links):
            users = 0
            for k in range(n):
                if work[RATE, k] < 0.0 and via[k, j]:
                    users += 1
            if users > 0 and max(work[ROOM, j], 0.0) / users < level:
                level = max(work[ROOM, j], 0.0) / users
                bottleneck = j
        for k in range(n):
            if work[RATE, k] >= 0.0:
                continue
            if (bottleneck >= 0 and via[k, bottleneck]) or (bottleneck < 0 and own_bps[k] <= level):
                work[RATE, k] = level
                remaining -= 1
                for j in range(n_links):
                    if via[k, j]:
                        work[ROOM, j] -= level


@kernel()
def transfer(
    start_s: Floats,
    bits: Floats,
    active: Floats,
    own_bps: Floats,
    link_bps: Floats,
    via: NDArray[np.bool_],
    n_links: int,
    stop_s: Floats,
    end_s: Floats,
    moved: Floats,
    work: Floats,
) -> None:
    """When each transfer ends, exactly: fluid flows between the moments at which one starts, ends or is given up.

    Args:
        start_s: (K,) when each flow starts.
        bits: (K,) its size.
        active: (K,) above 0 for the flows that there are.
        own_bps: (K,) rate of the flow's own link.
        link_bps: (L,) capacity of shared links.
        via: (K, L) whether a flow crosses a link.
        n_links: links that are in use; the others are not looked at.
        stop_s: (K,) when each flow gives up, whatever it has moved by then, and leaves its room to others; infinite: never.
        end_s: (K,) overwritten: seconds at which it ended or gave up; its start for flows that are not there or never began.
        moved: (K,) overwritten: bits, `bits` itself for those that ended.
        work: (N_WORK, max(K, L)) working memory.
    """
    n = len(start_s)
    for k in range(n):
        work[STATE, k], end_s[k], moved[k] = 0.0, start_s[k], 0.0
        work[FLOWS, k] = 1.0 if active[k] > 0.0 and stop_s[k] > start_s[k] else 0.0
        if active[k] > 0.0 and stop_s[k] >= start_s[k]:
            end_s[k], moved[k] = start_s[k] + bits[k] / own_bps[k], bits[k]
            if stop_s[k] < end_s[k]:
                end_s[k], moved[k] = stop_s[k], own_bps[k] * (stop_s[k] - start_s[k])
    over, apart = False, True
    for j in range(n_links):
        wanted = 0.0
        for k in range(n):
            wanted += own_bps[k] if work[FLOWS, k] > 0.0 and via[k, j] else 0.0
        work[ROOM, j] = wanted - link_bps[j]
        if work[ROOM, j] > 0.0:
            m = _crossing(start_s, bits, own_bps, via, j, stop_s, end_s, work)
            over = over or _over(work[START, :m], work[END, :m], work[OWN, :m], link_bps[j])
            for i in range(m):
                k = int(work[INDEX, i])
                apart = apart and work[STATE, k] == 0.0
                work[STATE, k] = 1.0
    if not over:
        return
    if not apart:  # a flow crosses two links that may be short
        _share_many(start_s, bits, own_bps, link_bps, via, n_links, stop_s, end_s, moved, work)
        return
    for j in range(n_links):
        if work[ROOM, j] > 0.0:
            m = _crossing(start_s, bits, own_bps, via, j, stop_s, end_s, work)
            start, left, own, stop, end = work[START, :m], work[LEFT, :m], work[OWN, :m], work[STOP, :m], work[END, :m]
            if m > CROWD:
                share_crowd(start, left, own, link_bps[j], stop, end)
            else:
                _share_one(start, left, own, link_bps[j], stop, end, work[STATE, :m])
            for i in range(m):
                k = int(work[INDEX, i])
                end_s[k], moved[k] = work[END, i], bits[k] - work[LEFT, i]


@kernel()
def _crossing(
    start_s: Floats, bits: Floats, own_bps: Floats, via: NDArray[np.bool_], link: int, stop_s: Floats, end_s: Floats,
    work: Floats,
) -> int:  # fmt: skip
    """Gather the flows that cross a link, side by side; how many they are."""
    m = 0
    for k in range(len(start_s)):
        if work[FLOWS, k] > 0.0 and via[k, link]:
            work[START, m], work[LEFT, m], work[OWN, m], work[END, m] = start_s[k], bits[k], own_bps[k], end_s[k]
            work[STOP, m], work[INDEX, m] = stop_s[k], k
            m += 1
    return m


@kernel(fastmath=VECTORS)
def _over(start_s: Floats, end_s: Floats, own_bps: Floats, room_bps: float) -> bool:
    """Whether flows at their own rates ever want more than a link carries: demand is highest when one of them starts."""
    for k in range(len(start_s)):
        now, wanted = start_s[k], 0.0
        for j in range(len(start_s)):
            wanted += own_bps[j] if start_s[j] <= now and end_s[j] > now else 0.0
        if wanted > room_bps:
            return True
    return False


@kernel(fastmath=VECTORS)
def _share_one(
    start_s: Floats, left: Floats, own_bps: Floats, room_bps: float, stop_s: Floats, end_s: Floats, on: Floats
) -> None:
    """`transfer` where one link alone is short: those that cross it get their own rate or one common level.

    Args:
        start_s: (M,) of the flows that cross it.
        left: (M,) bits, used up; what stays is what was given up.
        own_bps: (M,).
        room_bps: of the link.
        stop_s: (M,) after `start_s`.
        end_s: (M,), overwritten.
        on: (M,), working memory.
    """
    m = len(start_s)
    waiting, running, now = m, 0, np.inf
    for k in range(m):
        on[k], end_s[k] = 0.0, -1.0
        now = min(now, start_s[k])
    next_s = now
    while waiting + running > 0:
        if waiting > 0 and next_s <= now:
            next_s = np.inf
            for k in range(m):
                if on[k] == 0.0 and end_s[k] < 0.0:
                    if start_s[k] <= now:
                        on[k] = 1.0
                        waiting, running = waiting - 1, running + 1
                    else:
                        next_s = min(next_s, start_s[k])
        if running == 0:
            now = next_s
            continue
        # Raise the level until whoever is below it by its own rate no longer changes.
        level = room_bps / running
        while True:
            taken, below = 0.0, 0.0
            for k in range(m):
                taken += on[k] * own_bps[k] if own_bps[k] <= level else 0.0
                below += on[k] if own_bps[k] <= level else 0.0
            higher = (room_bps - taken) / (running - below) if below < running else np.inf
            if below >= running or higher <= level * (1.0 + 1e-12):
                break
            level = higher
        step = next_s - now
        for k in range(m):
            step = min(step, min(left[k] / min(own_bps[k], level), stop_s[k] - now) if on[k] > 0.0 else np.inf)
        for k in range(m):
            if on[k] > 0.0:
                sent = min(own_bps[k], level) * step
                # The flow that set the step ends exactly here, whatever rounding says.
                if left[k] <= sent * (1.0 + 1e-15):
                    on[k], end_s[k], left[k] = 0.0, now + step, 0.0
                    running -= 1
                else:
                    left[k] -= sent
                    if stop_s[k] - now <= step:
                        on[k], end_s[k] = 0.0, stop_s[k]
                        running -= 1
        now += step


@kernel()
def _share_many(
    start_s: Floats,
    bits: Floats,
    own_bps: Floats,
    link_bps: Floats,
    via: NDArray[np.bool_],
    n_links: int,
    stop_s: Floats,
    end_s: Floats,
    moved: Floats,
    work: Floats,
) -> None:
    """`transfer` where several links are short."""
    n, now = len(start_s), np.inf
    waiting, running = 0, 0
    for k in range(n):
        work[STATE, k] = ENDED
        if work[FLOWS, k] > 0.0:
            work[LEFT, k], work[STATE, k], moved[k] = bits[k], WAITING, bits[k]
            waiting += 1
            now = min(now, start_s[k])
    # Every pass starts, ends or stops at least one flow.
    while waiting + running > 0:
        step = np.inf
        for k in range(n):
            if work[STATE, k] == WAITING:
                if start_s[k] <= now:
                    work[STATE, k] = RUNNING
                    waiting, running = waiting - 1, running + 1
                else:
                    step = min(step, start_s[k] - now)
        if running > 0:
            _fill(own_bps, link_bps, via, n_links, work)
            for k in range(n):
                if work[STATE, k] == RUNNING:
                    step = min(step, min(work[LEFT, k] / work[RATE, k], stop_s[k] - now))
            for k in range(n):
                if work[STATE, k] == RUNNING:
                    sent = work[RATE, k] * step
                    if work[LEFT, k] <= sent * (1.0 + 1e-15):
                        work[STATE, k], end_s[k] = ENDED, now + step
                        running -= 1
                    else:
                        work[LEFT, k] -= sent
                        if stop_s[k] - now <= step:
                            work[STATE, k], end_s[k], moved[k] = ENDED, stop_s[k], bits[k] - work[LEFT, k]
                            running -= 1
        now += step


def transfer_until(
    start_s: Floats,
    bits: Floats,
    active: NDArray[np.bool_],
    own_bps: Floats,
    link_bps: Floats,
    via: NDArray[np.bool_],
    stop_s: Floats | None = None,
) -> tuple[Floats, Floats]:
    """As `transfer`, with its own memory: (K,) end times in seconds and (K,) bits moved; nobody gives up by default."""
    end_s, moved = np.zeros(len(start_s)), np.zeros(len(start_s))
    transfer(
        start_s, bits, active.astype(np.float64), own_bps, link_bps, via, len(link_bps),
        np.full(len(start_s), np.inf) if stop_s is None else stop_s, end_s, moved, np.zeros((N_WORK, max(via.shape))),
    )  # fmt: skip
    return end_s, moved


@kernel()
def broken_s(
    size_bits: float, bps: float, out: bool, fraction: float, up_s: float, down_s: float, round_hash: np.uint64, stream: int,
    item: int,
) -> float:  # fmt: skip
    """Seconds that a transfer takes alone on a link that fails now and then, second by second: outages are often shorter
    than a round.

    Args:
        size_bits: of the transfer.
        bps: rate outside outages.
        out: whether one is on at its start; what is left of it is as long as a whole one, stays being exponential.
        fraction: of the rate that is left in an outage.
        up_s: mean time between outages.
        down_s: mean length of one.
        round_hash: from `draws.of_round`.
        stream: of the draws.
        item: machine.
    """
    left, seconds = size_bits, 0.0
    if item >= HOLES_APART:  # further machines draw apart, or one's second outage would be another's first
        round_hash, item = of_round(round_hash, item // HOLES_APART), item % HOLES_APART
    for i in range(MOST_HOLES):
        rate = bps * fraction if out else bps
        stay = -(down_s if out else up_s) * np.log(uniform(round_hash, stream, item + HOLES_APART * i))
        if left <= rate * stay:
            return seconds + left / rate
        left -= rate * stay
        seconds += stay
        out = not out
    # So many holes within one transfer average out.
    mean = bps * (up_s + down_s * fraction) / (up_s + down_s)
    return seconds + left / mean


@kernel()
def carried(bits: Floats, first: int, last: int, t_s: float) -> float:
    """Bits that a recorded link could have carried from its start until a time beyond it: it repeats itself.

    Args:
        bits: (S,) cumulative bits by second, of all traces.
        first: where the trace starts.
        last: its last entry.
        t_s: at least 0.
    """
    length = last - first
    turns = np.floor(t_s / length)
    rest = t_s - turns * length
    i = min(int(rest), length - 1)
    inner = bits[first + i] + (rest - i) * (bits[first + i + 1] - bits[first + i])
    return turns * bits[last] + inner


@kernel()
def replayed_s(bits: Floats, first: int, last: int, t_s: float, size_bits: float) -> float:
    """Seconds that a transfer takes alone on a recorded link; arguments as `carried`, the transfer starts at `t_s`."""
    goal = carried(bits, first, last, t_s) + size_bits
    total = bits[last]
    turns = np.floor(goal / total)
    rest = goal - turns * total
    # The first second by whose end that much has been carried.
    low, high = first, last
    while low < high:
        middle = (low + high) // 2
        if bits[middle] < rest:
            low = middle + 1
        else:
            high = middle
    if low == first:
        end = 0.0
    else:
        end = (low - 1 - first) + (rest - bits[low - 1]) / (bits[low] - bits[low - 1])
    return max(turns * (last - first) + end - t_s, 1e-9)
