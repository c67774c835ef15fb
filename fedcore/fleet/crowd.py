"""Many flows over one link that is short: as `network._share_one`, at the cost of those that run at a time, not of all."""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

from fedcore.kernel import kernel

Floats = NDArray[np.float64]
CROWD = 64
"""Flows over one link from which on it pays."""


@numba.njit(cache=True, error_model="numpy", _nrt=True)  # it makes room for the crowd, where `kernel` makes none
def share_crowd(
    start_s: Floats, left: Floats, own_bps: Floats, room_bps: float, stop_s: Floats, end_s: Floats
) -> None:
    """Arguments as `network._share_one`, without its working memory."""
    m, order = len(start_s), np.argsort(start_s)
    # Those that run, side by side: bits left, own rate, when each gives up, and whose they are.
    bits, own, stop, who = np.empty(m), np.empty(m), np.empty(m), np.empty(m, dtype=np.int64)
    running, begun, now, level = 0, 0, start_s[order[0]], 0.0
    while running > 0 or begun < m:
        if running == 0:
            now = max(now, start_s[order[begun]])
        while begun < m and start_s[order[begun]] <= now:
            k = order[begun]
            bits[running], own[running], stop[running], who[running] = left[k], own_bps[k], stop_s[k], k
            running, begun = running + 1, begun + 1
        level = _level(own[:running], room_bps, level)
        step = _shortest(bits[:running], own[:running], stop[:running], level, now)
        if begun < m:
            step = min(step, start_s[order[begun]] - now)
        i = 0
        while i < running:
            sent, k = min(own[i], level) * step, who[i]
            # The flow that set the step ends exactly here, whatever rounding says.
            if bits[i] <= sent * (1.0 + 1e-15):
                end_s[k], left[k] = now + step, 0.0
            elif stop[i] - now <= step:
                end_s[k], left[k] = stop[i], bits[i] - sent
            else:
                bits[i] -= sent
                i += 1
                continue
            running -= 1
            bits[i], own[i], stop[i], who[i] = bits[running], own[running], stop[running], who[running]
        now += step


@kernel(fastmath={"nnan", "nsz", "reassoc", "contract"})
def _level(own_bps: Floats, room_bps: float, last: float) -> float:
    """The common level of those whose own rate is not below it; infinite where all have room for their own.

    What flows take is concave in the level: from above it, where the last one may lie, one look leads below it, and from there
    every look leads further up.
    """
    running, level = len(own_bps), max(last, room_bps / len(own_bps))
    falls = last > room_bps / running
    while True:
        taken, below = 0.0, 0.0
        for k in range(running):
            taken += own_bps[k] if own_bps[k] <= level else 0.0
            below += 1.0 if own_bps[k] <= level else 0.0
        if below >= running:
            if taken <= room_bps or not falls:  # from below, more than there is room for is rounding
                return np.inf
            level, falls = room_bps / running, False
            continue
        found = (room_bps - taken) / (running - below)
        if not falls and found <= level * (1.0 + 1e-12):
            return level
        level, falls = max(found, room_bps / running), False


@kernel(fastmath={"nsz", "reassoc", "contract"})
def _shortest(bits: Floats, own_bps: Floats, stop_s: Floats, level: float, now: float) -> float:
    """Seconds until the first of those that run ends or gives up."""
    step = np.inf
    for k in range(len(bits)):
        step = min(step, min(bits[k] / min(own_bps[k], level), stop_s[k] - now))
    return step
