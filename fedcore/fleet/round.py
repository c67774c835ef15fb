"""One round of one fleet: download, H steps, upload; who made it; seconds, joules, bytes."""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

from fedcore.fleet import columns as c
from fedcore.fleet.conditions import DAY_S, advance, link_factor, present
from fedcore.fleet.draws import JITTER, LEAVE, normal, uniform
from fedcore.fleet.network import transfer_end_times


@numba.njit(cache=True)
def play_round(
    parameters: NDArray[np.float64],
    fleet: NDArray[np.float64],
    link_up_bps: NDArray[np.float64],
    link_down_bps: NDArray[np.float64],
    via: NDArray[np.bool_],
    costs: NDArray[np.float64],
    conditions: NDArray[np.float64],
    share_index: NDArray[np.int64],
    steps: int,
    elapsed_s: float,
    key: np.uint64,
    counter: int,
    telemetry: NDArray[np.float64],
    totals: NDArray[np.float64],
) -> None:
    """Play one round and move the fleet's conditions over it.

    Compute time is FLOPs over throughput plus a fixed overhead per step, times background load and jitter. Energy is
    active power x compute seconds + idle power x waiting seconds + energy per bit on both ends. Carbon is energy x PUE
    x grid intensity (Patterson et al. 2021). Conditions hold still within a round and move between rounds.

    Args:
        parameters: (K, N_PARAMETERS).
        fleet: (N_FLEET,).
        link_up_bps: (L,) shared links towards the server.
        link_down_bps: (L,) from the server.
        via: (K, L).
        costs: (GRID + 1, 4) as `costs.cost_table`.
        conditions: (K, N_CONDITIONS), changed.
        share_index: (K,) share x GRID.
        steps: H.
        elapsed_s: since the start of the episode.
        key: of the episode.
        counter: number of the round.
        telemetry: (K, N_TELEMETRY), overwritten.
        totals: (N_TOTALS,), overwritten.
    """
    n = parameters.shape[0]
    here = present(parameters, conditions)
    invited = np.zeros(n, dtype=np.bool_)
    up_bits, down_bits = np.zeros(n), np.zeros(n)
    up_bps, down_bps = np.ones(n), np.ones(n)
    start, compute, leave = np.zeros(n), np.zeros(n), np.full(n, np.inf)
    telemetry[:] = 0.0
    for k in range(n):
        p, t = parameters[k], telemetry[k]
        if p[c.FLOPS_PER_S] <= 0.0:
            t[c.STATUS] = c.ABSENT
        elif not here[k]:
            t[c.STATUS] = c.AWAY
        elif share_index[k] <= 0:
            t[c.STATUS] = c.RESTING
        elif costs[share_index[k], 3] > p[c.MEMORY_BYTES]:
            t[c.STATUS] = c.INFEASIBLE
        else:
            invited[k] = True
            factor = link_factor(conditions[k, c.LINK_X], p[c.LINK_SIGMA])
            up_bps[k], down_bps[k] = p[c.UP_BPS] * factor, p[c.DOWN_BPS] * factor
            cost = costs[share_index[k]]
            up_bits[k], down_bits[k] = 8.0 * cost[1], 8.0 * cost[2]
            slow = p[c.SLOWDOWN] if conditions[k, c.BUSY] > 0.5 else 1.0
            jitter = np.exp(p[c.STEP_JITTER] * normal(key, counter, JITTER, k))
            t[c.STEP_S] = (p[c.STEP_OVERHEAD_S] + cost[0] / p[c.FLOPS_PER_S]) * slow * jitter
            compute[k] = steps * t[c.STEP_S]
            start[k] = p[c.LATENCY_S]
            if p[c.OFF_S] > 0.0:
                leave[k] = -p[c.ON_S] * np.log(uniform(key, counter, LEAVE, k))

    down_end = transfer_end_times(start, down_bits, invited, down_bps, link_down_bps, via)
    ready = down_end + compute
    for k in range(n):
        ready[k] += parameters[k, c.LATENCY_S]
    up_end = transfer_end_times(ready, up_bits, invited, up_bps, link_up_bps, via)

    deadline = fleet[c.DEADLINE_S] if fleet[c.DEADLINE_S] > 0.0 else np.inf
    length = 0.0
    anyone = False
    left = np.zeros(n, dtype=np.bool_)
    for k in range(n):
        if not invited[k]:
            continue
        anyone = True
        p, t = parameters[k], telemetry[k]
        finish = up_end[k]
        status = c.DONE
        if finish > deadline:
            finish, status = deadline, c.LATE
        if leave[k] < finish:
            finish, status = leave[k], c.LEFT
        t[c.STATUS], t[c.FINISH_S] = status, finish
        left[k] = status == c.LEFT
        # Whatever phase it was in when it stopped, it paid for the part that it did.
        t[c.DOWNLOAD_S] = min(down_end[k], finish)
        t[c.COMPUTE_S] = min(max(finish - down_end[k], 0.0), compute[k])
        t[c.UPLOAD_S] = max(finish - ready[k], 0.0)
        download_s, upload_s = down_end[k] - start[k], up_end[k] - ready[k]
        t[c.RECEIVED_BYTES] = down_bits[k] / 8.0 * min(1.0, max(finish - start[k], 0.0) / download_s)
        t[c.SENT_BYTES] = up_bits[k] / 8.0 * (min(1.0, t[c.UPLOAD_S] / upload_s) if upload_s > 0.0 else 0.0)
        t[c.MEASURED_DOWN_BPS] = down_bits[k] / download_s
        t[c.MEASURED_UP_BPS] = up_bits[k] / upload_s if upload_s > 0.0 else up_bps[k]
        length = max(length, finish)
    length = fleet[c.OVERHEAD_S] + (length if anyone else fleet[c.WAIT_S])

    totals[:] = 0.0
    totals[c.ROUND_S] = length
    consumed = np.zeros(n)
    for k in range(n):
        if not invited[k]:
            continue
        p, t = parameters[k], telemetry[k]
        on_s = t[c.FINISH_S] if t[c.STATUS] == c.LEFT else length
        t[c.IDLE_S] = max(on_s - t[c.COMPUTE_S], 0.0)
        radio = 8.0 * (t[c.SENT_BYTES] * p[c.TX_J_PER_BIT] + t[c.RECEIVED_BYTES] * p[c.RX_J_PER_BIT])
        t[c.ENERGY_J] = p[c.ACTIVE_W] * t[c.COMPUTE_S] + p[c.IDLE_W] * t[c.IDLE_S] + radio
        if p[c.BATTERY_J] > 0.0 and t[c.ENERGY_J] > conditions[k, c.CHARGE_J]:
            # It gave what it had; the round is not longer for it, but its block is lost.
            t[c.ENERGY_J] = conditions[k, c.CHARGE_J]
            if t[c.STATUS] == c.DONE:
                t[c.STATUS] = c.FLAT
        consumed[k] = t[c.ENERGY_J]
        moved = t[c.SENT_BYTES] + t[c.RECEIVED_BYTES]
        totals[c.TOTAL_BYTES] += moved
        totals[c.TOTAL_ENERGY_J] += t[c.ENERGY_J] + 8.0 * moved * fleet[c.SERVER_J_PER_BIT]
    totals[c.TOTAL_CO2E_KG] = totals[c.TOTAL_ENERGY_J] * fleet[c.KG_CO2E_PER_J]
    clock = (fleet[c.START_S] + elapsed_s) % DAY_S
    advance(parameters, conditions, consumed, left, telemetry[:, c.FINISH_S], clock, length, key, counter)


@numba.njit(cache=True)
def play_rounds(
    parameters: NDArray[np.float64],
    fleet: NDArray[np.float64],
    link_up_bps: NDArray[np.float64],
    link_down_bps: NDArray[np.float64],
    via: NDArray[np.bool_],
    costs: NDArray[np.float64],
    conditions: NDArray[np.float64],
    share_index: NDArray[np.int64],
    steps: NDArray[np.int64],
    elapsed_s: NDArray[np.float64],
    key: NDArray[np.uint64],
    counter: NDArray[np.int64],
    telemetry: NDArray[np.float64],
    totals: NDArray[np.float64],
) -> None:
    """`play_round` for B fleets side by side: every argument gets a leading dimension B."""
    for b in range(parameters.shape[0]):
        play_round(
            parameters[b],
            fleet[b],
            link_up_bps[b],
            link_down_bps[b],
            via[b],
            costs[b],
            conditions[b],
            share_index[b],
            steps[b],
            elapsed_s[b],
            key[b],
            counter[b],
            telemetry[b],
            totals[b],
        )


