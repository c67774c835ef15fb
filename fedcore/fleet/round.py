"""One round of one fleet: download, H steps, upload; who made it; seconds, joules, bytes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedcore.fleet import columns as c
from fedcore.fleet.compile import DAY_S, HOUR_S, Fleets
from fedcore.fleet.conditions import advance, is_present, rate_factor, slowdown, stays_s
from fedcore.fleet.draws import HOLES_DOWN, HOLES_UP, JITTER, LEAVE, normal, of_round, uniform
from fedcore.fleet.network import N_WORK, broken_s, replayed_s, transfer
from fedcore.kernel import kernel

Floats = NDArray[np.float64]

INVITED, START, COMPUTE, STOP_S, FLAT_S, UP_BITS, DOWN_BITS, UP_BPS, DOWN_BPS = range(9)
DOWN_END, READY, UP_END, RECEIVED, SENT = range(9, 14)
N_SCRATCH = 14
BEFORE_COMPUTING, BEFORE_UPLOAD, WHOLE = 2, 4, 5
"""How many phases of a round there are by then: latency, download, computing, latency, upload."""


def scratch_shape(machines: int, links: int) -> tuple[int, int]:
    """Of `play_round`'s working memory, for rounds one after the other of fleets padded to so many machines and links."""
    return N_SCRATCH + N_WORK, max(machines, links)


@kernel()
def play_round(
    fleets: Fleets,
    costs: Floats,
    w: int,
    conditions: Floats,
    share_index: NDArray[np.int64],
    steps: int,
    elapsed_s: float,
    round_hash: np.uint64,
    telemetry: Floats,
    totals: Floats,
    b: int,
    scratch: Floats,
) -> None:
    """Play one round of episode b and move its fleet's conditions over it.

    A step takes FLOPs over throughput (with what small products waste) plus a fixed overhead, times background load, heat
    and jitter. Energy is active power x compute seconds + idle power x waiting seconds + energy per bit on both ends.
    Carbon is energy x PUE x grid intensity (Patterson et al. 2021). Conditions hold still within a round and move between
    rounds, except that recorded links and outages move by the second: a transfer gets the mean rate that it would have alone.
    Whoever leaves, is past the deadline or runs out of charge stops there and then, and leaves its part of links to others.

    Args:
        fleets: stacked.
        costs: (W, G, 5), each fleet's `costs.cost_table`.
        w: which of the fleets.
        conditions: (B, K, N_CONDITIONS), changed.
        share_index: (B, K) row of the cost table that each machine is given; 0 rests.
        steps: H.
        elapsed_s: since the start of the episode.
        round_hash: `draws.of_round` of the episode's key and the round's number.
        telemetry: (B, K, N_TELEMETRY), overwritten for the machines that there are; 0, which is ABSENT, beyond.
        totals: (B, N_TOTALS), overwritten.
        b: the episode.
        scratch: working memory of `scratch_shape`.
    """
    # Taken out of `fleets` once: every look into it from a loop costs as much as the arithmetic.
    p, t, s, fleet, windows = fleets.parameters, telemetry, scratch, fleets.fleet[w], fleets.windows
    n, start_s = int(fleet[c.MACHINES]), fleet[c.START_S]
    deadline_s = fleet[c.DEADLINE_S] if fleet[c.DEADLINE_S] > 0.0 else np.inf
    for k in range(n):
        for i in range(c.N_TELEMETRY):
            t[b, k, i] = 0.0
        s[INVITED, k], s[START, k], s[COMPUTE, k] = 0.0, 0.0, 0.0
        index = share_index[b, k]
        if not is_present(p, w, k, conditions, b, windows, start_s, elapsed_s):
            t[b, k, c.STATUS] = c.AWAY
        elif index <= 0:
            t[b, k, c.STATUS] = c.RESTING
        elif index > p[w, k, c.MOST]:
            t[b, k, c.STATUS] = c.INFEASIBLE
        else:
            s[INVITED, k], s[START, k] = 1.0, p[w, k, c.LATENCY_S]
            s[UP_BITS, k], s[DOWN_BITS, k] = 8.0 * costs[w, index, 1], 8.0 * costs[w, index, 2]
            factor = rate_factor(p, w, k, conditions, b)
            s[UP_BPS, k], s[DOWN_BPS, k] = p[w, k, c.UP_BPS] * factor, p[w, k, c.DOWN_BPS] * factor
            if _moves(p, w, k):
                s[DOWN_BPS, k] = _mean_bps(
                    fleets, w, k, conditions, b, 1, s[DOWN_BPS, k], factor, s[DOWN_BITS, k], elapsed_s + s[START, k], round_hash
                )
            jitter = np.exp(p[w, k, c.STEP_JITTER] * normal(round_hash, JITTER, k)) if p[w, k, c.STEP_JITTER] > 0.0 else 1.0
            flops = p[w, k, c.OF_BATCH] * (costs[w, index, 0] + p[w, k, c.HALF_ROWS] * costs[w, index, 4])
            step_s = p[w, k, c.STEP_OVERHEAD_S] + flops / p[w, k, c.FLOPS_PER_S]
            t[b, k, c.STEP_S] = step_s * slowdown(p, w, k, conditions, b) * jitter
            s[COMPUTE, k] = steps * t[b, k, c.STEP_S]
            s[STOP_S, k], s[FLAT_S, k] = min(stays_s(p, w, k, windows, start_s, elapsed_s), deadline_s), np.inf
            if p[w, k, c.OFF_S] > 0.0:
                s[STOP_S, k] = min(s[STOP_S, k], -p[w, k, c.ON_S] * np.log(uniform(round_hash, LEAVE, k)))

    via, links, work = fleets.via[w], int(fleet[c.LINKS]), s[N_SCRATCH:]
    for again in range(2):  # once more where somebody's charge does not last: the others get its part
        transfer(
            s[START, :n], s[DOWN_BITS, :n], s[INVITED, :n], s[DOWN_BPS, :n], fleets.link_down_bps[w], via, links,
            s[STOP_S, :n], s[DOWN_END, :n], s[RECEIVED, :n], work,
        )  # fmt: skip
        if again or not _run_flat(p, w, conditions, b, s, n, BEFORE_COMPUTING):
            break
    for k in range(n):
        s[READY, k] = s[DOWN_END, k] + s[COMPUTE, k] + p[w, k, c.LATENCY_S]
        if s[INVITED, k] > 0.0 and _moves(p, w, k):
            factor = s[UP_BPS, k] / p[w, k, c.UP_BPS]
            s[UP_BPS, k] = _mean_bps(
                fleets, w, k, conditions, b, 0, s[UP_BPS, k], factor, s[UP_BITS, k], elapsed_s + s[READY, k], round_hash
            )
    _run_flat(p, w, conditions, b, s, n, BEFORE_UPLOAD)
    for again in range(2):
        transfer(
            s[READY, :n], s[UP_BITS, :n], s[INVITED, :n], s[UP_BPS, :n], fleets.link_up_bps[w], via, links, s[STOP_S, :n],
            s[UP_END, :n], s[SENT, :n], work,
        )  # fmt: skip
        if again or not _run_flat(p, w, conditions, b, s, n, WHOLE):
            break

    length = -1.0
    for k in range(n):
        if s[INVITED, k] <= 0.0:
            continue
        start, down_end, ready, stop = s[START, k], s[DOWN_END, k], s[READY, k], s[STOP_S, k]
        finish, status = s[UP_END, k], c.DONE
        if stop < ready or s[SENT, k] < s[UP_BITS, k]:
            finish, status = stop, c.LATE if stop == deadline_s else c.FLAT if stop == s[FLAT_S, k] else c.LEFT
        t[b, k, c.STATUS], t[b, k, c.FINISH_S] = status, finish
        # Whatever phase it was in when it stopped, it paid for the part that it did.
        t[b, k, c.DOWNLOAD_S] = min(down_end, finish)
        t[b, k, c.COMPUTE_S] = min(max(finish - down_end, 0.0), s[COMPUTE, k])
        t[b, k, c.UPLOAD_S] = max(finish - ready, 0.0)
        t[b, k, c.RECEIVED_BYTES], t[b, k, c.SENT_BYTES] = 0.125 * s[RECEIVED, k], 0.125 * s[SENT, k]
        # Who moved nothing has measured nothing: the rate of the moment.
        t[b, k, c.MEASURED_DOWN_BPS] = s[RECEIVED, k] / (down_end - start) if s[RECEIVED, k] > 0.0 else s[DOWN_BPS, k]
        t[b, k, c.MEASURED_UP_BPS] = s[SENT, k] / (s[UP_END, k] - ready) if s[SENT, k] > 0.0 else s[UP_BPS, k]
        length = max(length, finish)
    length = fleet[c.OVERHEAD_S] + (length if length >= 0.0 else fleet[c.WAIT_S])

    energy_j, moved_bytes = 0.0, 0.0
    for k in range(n):
        if s[INVITED, k] <= 0.0:
            continue
        gone = t[b, k, c.STATUS] == c.LEFT or t[b, k, c.STATUS] == c.FLAT
        on_s = t[b, k, c.FINISH_S] if gone else length
        t[b, k, c.IDLE_S] = max(on_s - t[b, k, c.COMPUTE_S], 0.0)
        sent, received = t[b, k, c.SENT_BYTES], t[b, k, c.RECEIVED_BYTES]
        radio_j = 8.0 * (sent * p[w, k, c.TX_J_PER_BIT] + received * p[w, k, c.RX_J_PER_BIT])
        own_j = p[w, k, c.ACTIVE_W] * t[b, k, c.COMPUTE_S] + p[w, k, c.IDLE_W] * t[b, k, c.IDLE_S] + radio_j
        if p[w, k, c.BATTERY_J] > 0.0 and (own_j > conditions[b, k, c.CHARGE_J] or t[b, k, c.STATUS] == c.FLAT):
            own_j = conditions[b, k, c.CHARGE_J]  # it gave what it had, perhaps while it waited for others
        t[b, k, c.ENERGY_J] = own_j
        moved_bytes += sent + received
        energy_j += own_j + 8.0 * (sent + received) * fleet[c.SERVER_J_PER_BIT]
    totals[b, c.ROUND_S], totals[b, c.TOTAL_ENERGY_J], totals[b, c.TOTAL_BYTES] = length, energy_j, moved_bytes
    totals[b, c.TOTAL_CO2E_KG] = energy_j * _mean_intensity(fleet, start_s + elapsed_s, length)
    advance(fleets, w, conditions, b, telemetry, elapsed_s, length, round_hash)


@kernel()
def _mean_intensity(fleet: Floats, begin_s: float, length_s: float) -> float:
    """Mean kg of CO2e per joule over a round, whose energy counts evenly: the grid's intensity changes by the hour.

    Args:
        fleet: (N_FLEET,) parameters.
        begin_s: time of day, or beyond.
        length_s: above 0; of whole days only the rest is looked at hour by hour.
    """
    days = np.floor(length_s / DAY_S)
    total = days * HOUR_S * fleet[c.KG_CO2E_PER_J : c.KG_CO2E_PER_J + 24].sum() if days > 0.0 else 0.0
    now, left = begin_s % DAY_S, length_s - days * DAY_S
    while left > 0.0:
        hour = min(int(now / HOUR_S), 23)
        stretch = min((hour + 1) * HOUR_S - now, left)
        total, left = total + stretch * fleet[c.KG_CO2E_PER_J + hour], left - stretch
        now = 0.0 if hour == 23 else (hour + 1) * HOUR_S
    return total / length_s


@kernel()
def _run_flat(
    parameters: Floats, w: int, conditions: Floats, b: int, scratch: Floats, machines: int, phases: int
) -> bool:
    """Stop machines whose charge does not last; whether any was.

    A machine that waits or transfers takes its idle power, and what its radio takes beside, evenly over each transfer; one that
    computes takes its active power. What the sun brings in a round is there for the next one.

    Args:
        parameters: `Fleets.parameters`.
        w: fleet.
        conditions: (B, K, N_CONDITIONS).
        b: the episode.
        scratch: of the round, whose rows STOP_S and FLAT_S change.
        machines: how many.
        phases: of the round that are known: `BEFORE_COMPUTING`, `BEFORE_UPLOAD` or `WHOLE`.
    """
    p, s, found = parameters, scratch, False
    for k in range(machines):
        if s[INVITED, k] <= 0.0 or p[w, k, c.BATTERY_J] <= 0.0:
            continue
        left, now, flat = conditions[b, k, c.CHARGE_J], 0.0, np.inf
        for phase in range(phases):
            until, power = s[START, k], p[w, k, c.IDLE_W]
            if phase == 1:
                until = s[DOWN_END, k]
                power += p[w, k, c.RX_J_PER_BIT] * s[RECEIVED, k] / (until - now) if until > now else 0.0
            elif phase == 2:
                until, power = s[DOWN_END, k] + s[COMPUTE, k], p[w, k, c.ACTIVE_W]
            elif phase == 3:
                until = s[READY, k]
            elif phase == 4:
                until = s[UP_END, k]
                power += p[w, k, c.TX_J_PER_BIT] * s[SENT, k] / (until - now) if until > now else 0.0
            if power * (until - now) > left:
                flat = now + left / power
                break
            left, now = left - power * (until - now), until
        if flat < s[STOP_S, k]:
            s[STOP_S, k], s[FLAT_S, k], found = flat, flat, True
    return found


@kernel(inline="always")
def _moves(parameters: Floats, w: int, k: int) -> bool:
    """Whether a machine's link changes within a round: it is replayed, or fails now and then."""
    return parameters[w, k, c.TRACE] >= 0.0 or parameters[w, k, c.OUTAGE_FACTOR] < 1.0


@kernel()
def _mean_bps(
    fleets: Fleets,
    w: int,
    k: int,
    conditions: Floats,
    b: int,
    direction: int,
    bps: float,
    factor: float,
    bits: float,
    begins_s: float,
    round_hash: np.uint64,
) -> float:
    """Mean rate that a transfer gets alone on a machine's own link.

    Args:
        fleets: stacked.
        w: which of them.
        k: machine.
        conditions: (B, K, N_CONDITIONS).
        b: the episode.
        direction: 0 is up, 1 down.
        bps: rate of the moment, outside outages and without traces.
        factor: by which a recorded rate is multiplied.
        bits: size of the transfer.
        begins_s: since the episode's start.
        round_hash: from `draws.of_round`.
    """
    p, size = fleets.parameters, max(bits, 1.0)  # where there is nothing to send, the rate of the moment
    if p[w, k, c.TRACE] >= 0.0:
        trace = int(p[w, k, c.TRACE])
        first, last = fleets.trace_at[trace], fleets.trace_at[trace + 1] - 1
        seconds = replayed_s(fleets.trace_bits[direction], first, last, conditions[b, k, c.TRACE_S] + begins_s, size / factor)
        bps = size / seconds
    if p[w, k, c.OUTAGE_FACTOR] < 1.0:
        # Both ways of a link fail together in truth; each transfer plays the outages of its own time.
        bps = size / broken_s(
            size, bps, conditions[b, k, c.OUT] > 0.5, p[w, k, c.OUTAGE_FACTOR], p[w, k, c.OUTAGE_UP_S],
            p[w, k, c.OUTAGE_DOWN_S], round_hash, HOLES_DOWN if direction == 1 else HOLES_UP, k,
        )  # fmt: skip
    return bps


@kernel()
def play_rounds(
    fleets: Fleets,
    costs: Floats,
    world: NDArray[np.int64],
    conditions: Floats,
    share_index: NDArray[np.int64],
    steps: NDArray[np.int64],
    elapsed_s: Floats,
    key: NDArray[np.uint64],
    counter: NDArray[np.int64],
    telemetry: Floats,
    totals: Floats,
    scratch: Floats,
) -> None:
    """`play_round` for B episodes side by side: `world` (B,) says which fleet is whose, `key` and `counter` (B,) are the
    episode's key and the number of the round; `steps` and `elapsed_s` are (B,) too."""
    for b in range(len(world)):
        play_round(
            fleets, costs, world[b], conditions, share_index, steps[b], elapsed_s[b], of_round(key[b], counter[b]),
            telemetry, totals, b, scratch,
        )  # fmt: skip
