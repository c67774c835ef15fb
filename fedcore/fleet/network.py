"""Transfers over shared links: flows share every link max-min fairly, and rates change whenever a flow starts or ends."""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray


@numba.njit(cache=True)
def max_min_rates(
    active: NDArray[np.bool_], own_bps: NDArray[np.float64], link_bps: NDArray[np.float64], via: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Max-min fair rates by progressive filling (Bertsekas and Gallager, Data Networks, 6.5.2).

    Args:
        active: (K,) flows that want to send.
        own_bps: (K,) rate of each flow's own access link.
        link_bps: (L,) capacity of each shared link.
        via: (K, L) whether a flow crosses a link.

    Returns:
        (K,) bit/s, 0 for inactive flows.
    """
    n, n_links = via.shape
    rate = np.zeros(n)
    open_ = active.copy()
    left = link_bps.copy()
    remaining = 0
    for k in range(n):
        if open_[k]:
            remaining += 1
    while remaining > 0:
        # The tightest constraint over all open flows: an own link, or an equal part of a shared one.
        level = np.inf
        for k in range(n):
            if open_[k] and own_bps[k] < level:
                level = own_bps[k]
        bottleneck = -1
        for j in range(n_links):
            users = 0
            for k in range(n):
                if open_[k] and via[k, j]:
                    users += 1
            if users > 0 and max(left[j], 0.0) / users < level:
                level = max(left[j], 0.0) / users
                bottleneck = j
        for k in range(n):
            if open_[k] and ((bottleneck >= 0 and via[k, bottleneck]) or (bottleneck < 0 and own_bps[k] <= level)):
                rate[k] = level
                open_[k] = False
                remaining -= 1
                for j in range(n_links):
                    if via[k, j]:
                        left[j] -= level
    return rate


@numba.njit(cache=True)
def transfer_end_times(
    start_s: NDArray[np.float64],
    bits: NDArray[np.float64],
    active: NDArray[np.bool_],
    own_bps: NDArray[np.float64],
    link_bps: NDArray[np.float64],
    via: NDArray[np.bool_],
) -> NDArray[np.float64]:
    """When each transfer ends, exactly: fluid flows between the moments at which one starts or ends.

    Args:
        start_s: (K,) when each flow starts.
        bits: (K,) its size.
        active: (K,) which flows there are.
        own_bps: (K,) rate of the flow's own link.
        link_bps: (L,) capacity of shared links.
        via: (K, L) whether a flow crosses a link.

    Returns:
        (K,) end times in seconds; the start time for flows that are not there.
    """
    n, n_links = via.shape
    end = start_s.copy()
    contended = False
    for j in range(n_links):
        wanted = 0.0
        for k in range(n):
            if active[k] and via[k, j]:
                wanted += own_bps[k]
        if wanted > link_bps[j]:
            contended = True
    if not contended:
        for k in range(n):
            if active[k]:
                end[k] = start_s[k] + bits[k] / own_bps[k]
        return end
    left = bits.copy()
    waiting = active.copy()
    running = np.zeros(n, dtype=np.bool_)
    now = np.inf
    for k in range(n):
        if active[k] and start_s[k] < now:
            now = start_s[k]
    # Every pass starts or ends at least one flow.
    for _ in range(2 * n + 1):
        any_left = False
        for k in range(n):
            if waiting[k] and start_s[k] <= now:
                waiting[k] = False
                running[k] = True
            any_left = any_left or waiting[k] or running[k]
        if not any_left:
            break
        rate = max_min_rates(running, own_bps, link_bps, via)
        step = np.inf
        for k in range(n):
            if running[k] and left[k] / rate[k] < step:
                step = left[k] / rate[k]
            if waiting[k] and start_s[k] - now < step:
                step = start_s[k] - now
        for k in range(n):
            if running[k]:
                # The flow that set the step ends exactly here, whatever rounding says.
                done = left[k] / rate[k] <= step
                left[k] -= rate[k] * step
                if done:
                    running[k] = False
                    end[k] = now + step
        now += step
    return end
