"""How a fleet's hidden conditions move with time: link rates, background load, presence, batteries and clouds."""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

from fedcore.fleet import columns as c
from fedcore.fleet.draws import BUSY_SWITCH, CLOUD, LINK, ON_SWITCH, normal, uniform

DAY_S = 86_400.0


@numba.njit(cache=True)
def initial(parameters: NDArray[np.float64], key: np.uint64) -> NDArray[np.float64]:
    """Conditions at the start of an episode, drawn from their stationary laws; (K, N_CONDITIONS)."""
    n = parameters.shape[0]
    out = np.zeros((n, c.N_CONDITIONS))
    for k in range(n):
        p = parameters[k]
        out[k, c.LINK_X] = normal(key, -1, LINK, k)
        if p[c.SLOWDOWN] > 1.0:
            busy = p[c.BUSY_S] / (p[c.BUSY_S] + p[c.FREE_S])
            out[k, c.BUSY] = 1.0 if uniform(key, -1, BUSY_SWITCH, k) < busy else 0.0
        on = p[c.ON_S] / (p[c.ON_S] + p[c.OFF_S]) if p[c.OFF_S] > 0.0 else 1.0
        out[k, c.ON] = 1.0 if uniform(key, -1, ON_SWITCH, k) < on else 0.0
        out[k, c.CHARGE_J] = p[c.BATTERY_START] * p[c.BATTERY_J]
        out[k, c.CLOUD_X] = normal(key, -1, CLOUD, k)
    return out


@numba.njit(cache=True)
def _switch(state: float, to_one_s: float, to_zero_s: float, dt_s: float, u: float) -> float:
    """Two-state Markov chain after dt, given the mean times spent in 0 (before going to one) and in 1."""
    up, down = 1.0 / to_one_s, 1.0 / to_zero_s
    stationary = up / (up + down)
    one = stationary + (state - stationary) * np.exp(-(up + down) * dt_s)
    return 1.0 if u < one else 0.0


@numba.njit(cache=True)
def _mean_revert(x: float, tau_s: float, dt_s: float, z: float) -> float:
    """Unit-variance Ornstein-Uhlenbeck process after dt."""
    rho = np.exp(-dt_s / tau_s)
    return rho * x + np.sqrt(max(0.0, 1.0 - rho * rho)) * z


@numba.njit(cache=True)
def link_factor(x: float, sigma: float) -> float:
    """Rate over its mean: log-normal with mean 1."""
    return np.exp(sigma * x - 0.5 * sigma * sigma)


@numba.njit(cache=True)
def daylight(seconds: float) -> float:
    """Half-sine day curve from 6 h to 18 h, peak 1."""
    return max(0.0, np.sin(2.0 * np.pi * (seconds / DAY_S - 0.25)))


@numba.njit(cache=True)
def advance(
    parameters: NDArray[np.float64],
    conditions: NDArray[np.float64],
    consumed_j: NDArray[np.float64],
    left: NDArray[np.bool_],
    known_s: NDArray[np.float64],
    clock_s: float,
    dt_s: float,
    key: np.uint64,
    counter: int,
) -> None:
    """Move the conditions over one round, in place.

    Args:
        parameters: (K, N_PARAMETERS).
        conditions: (K, N_CONDITIONS), changed.
        consumed_j: (K,) what each machine's battery gave in this round.
        left: (K,) machines that went off during the round, `known_s` after its start.
        known_s: (K,) for how long the round itself already decided who is on; presence moves over the rest.
        clock_s: time of day at its start.
        dt_s: its length.
        key: of the episode.
        counter: number of the round.
    """
    sun = daylight(clock_s + 0.5 * dt_s)
    for k in range(parameters.shape[0]):
        p, x = parameters[k], conditions[k]
        if p[c.LINK_SIGMA] > 0.0:
            x[c.LINK_X] = _mean_revert(x[c.LINK_X], p[c.LINK_TAU_S], dt_s, normal(key, counter, LINK, k))
        if p[c.SLOWDOWN] > 1.0:
            x[c.BUSY] = _switch(x[c.BUSY], p[c.FREE_S], p[c.BUSY_S], dt_s, uniform(key, counter, BUSY_SWITCH, k))
        if left[k]:
            x[c.ON] = 0.0
        if p[c.OFF_S] > 0.0:
            rest_s = dt_s - known_s[k]
            x[c.ON] = _switch(x[c.ON], p[c.OFF_S], p[c.ON_S], rest_s, uniform(key, counter, ON_SWITCH, k))
        if p[c.BATTERY_J] > 0.0:
            x[c.CLOUD_X] = _mean_revert(x[c.CLOUD_X], p[c.CLOUD_TAU_S], dt_s, normal(key, counter, CLOUD, k))
            # A logistic of the cloud state: mean near `cloudiness`, never outside [0, 1].
            odds = np.log(max(p[c.CLOUDINESS], 1e-6) / max(1.0 - p[c.CLOUDINESS], 1e-6))
            cloud = 1.0 / (1.0 + np.exp(-(odds + 1.5 * x[c.CLOUD_X])))
            charge = x[c.CHARGE_J] - consumed_j[k] + p[c.SOLAR_W] * sun * (1.0 - cloud) * dt_s
            x[c.CHARGE_J] = min(max(charge, 0.0), p[c.BATTERY_J])


@numba.njit(cache=True)
def present(parameters: NDArray[np.float64], conditions: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which machines answer the heartbeat: they exist, are on, and their battery is above its reserve; (K,)."""
    n = parameters.shape[0]
    out = np.zeros(n, dtype=np.bool_)
    for k in range(n):
        p, x = parameters[k], conditions[k]
        charged = p[c.BATTERY_J] <= 0.0 or x[c.CHARGE_J] > p[c.BATTERY_RESERVE] * p[c.BATTERY_J]
        out[k] = p[c.FLOPS_PER_S] > 0.0 and x[c.ON] > 0.5 and charged
    return out


@numba.njit(cache=True)
def present_all(parameters: NDArray[np.float64], conditions: NDArray[np.float64]) -> NDArray[np.bool_]:
    """`present` for B fleets, (B, K)."""
    out = np.zeros(parameters.shape[:2], dtype=np.bool_)
    for b in range(parameters.shape[0]):
        out[b] = present(parameters[b], conditions[b])
    return out
