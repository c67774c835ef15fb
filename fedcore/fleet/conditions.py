"""How a fleet's hidden conditions move with time: link rates, load, heat, presence, batteries and clouds.

Array code: machines are addressed as `parameters[w, k]` (of fleet w) and `conditions[b, k]` (of episode b) without making
views of them, which would cost as much as the arithmetic. What is called for every machine is put in its caller's place
(`inline`): a call copies the description of every array that it is given, which costs twice as much.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedcore.fleet import columns as c
from fedcore.fleet.compile import DAY_S, HOUR_S, Fleets
from fedcore.fleet.draws import (
    BUSY_SWITCH,
    CLOUD,
    LINK,
    LINK_LEVEL,
    ON_SWITCH,
    OUTAGE,
    TRACE_PHASE,
    normal,
    of_round,
    uniform,
)
from fedcore.kernel import kernel

Floats = NDArray[np.float64]

CLOUD_SPREAD = 1.5
CLOUD_ODDS = (1.0 + np.pi * CLOUD_SPREAD**2 / 8.0) ** 0.5
HOT_FROM = 0.5
"""Heat from which a device slows down; its slowdown is in full at heat 1."""


@kernel()
def begin(fleets: Fleets, w: int, key: np.uint64, conditions: Floats, b: int) -> None:
    """Draw the conditions at the start of an episode from their stationary laws.

    Args:
        fleets: stacked.
        w: which of them.
        key: of the episode.
        conditions: (B, K, N_CONDITIONS); row b is overwritten.
        b: the episode.
    """
    p, hashed = fleets.parameters, of_round(key, -1)
    for k in range(conditions.shape[1]):
        for i in range(c.N_CONDITIONS):
            conditions[b, k, i] = 0.0
        conditions[b, k, c.LINK_X] = normal(hashed, LINK, k)
        conditions[b, k, c.LINK_MEAN] = link_factor(normal(hashed, LINK_LEVEL, k), p[w, k, c.LINK_SPREAD])
        if p[w, k, c.OUTAGE_FACTOR] < 1.0:
            down = p[w, k, c.OUTAGE_DOWN_S] / (p[w, k, c.OUTAGE_UP_S] + p[w, k, c.OUTAGE_DOWN_S])
            conditions[b, k, c.OUT] = 1.0 if uniform(hashed, OUTAGE, k) < down else 0.0
        if p[w, k, c.TRACE] >= 0.0:
            trace = int(p[w, k, c.TRACE])
            seconds = fleets.trace_at[trace + 1] - fleets.trace_at[trace] - 1
            conditions[b, k, c.TRACE_S] = seconds * uniform(hashed, TRACE_PHASE, k)
        if p[w, k, c.SLOWDOWN] > 1.0:
            busy = p[w, k, c.BUSY_S] / (p[w, k, c.BUSY_S] + p[w, k, c.FREE_S])
            conditions[b, k, c.BUSY] = 1.0 if uniform(hashed, BUSY_SWITCH, k) < busy else 0.0
        on_s, off_s = p[w, k, c.ON_S], p[w, k, c.OFF_S]
        on = on_s / (on_s + off_s) if off_s > 0.0 else 1.0
        conditions[b, k, c.ON] = 1.0 if uniform(hashed, ON_SWITCH, k) < on else 0.0
        conditions[b, k, c.CHARGE_J] = p[w, k, c.BATTERY_START] * p[w, k, c.BATTERY_J]
        conditions[b, k, c.CLOUD_X] = normal(hashed, CLOUD, k)


@kernel()
def begin_rows(
    fleets: Fleets, world: NDArray[np.int64], key: NDArray[np.uint64], which: NDArray[np.int64], conditions: Floats
) -> None:
    """`begin` for the episodes `which` of a batch; `world` and `key` are (B,)."""
    for b in which:
        begin(fleets, world[b], key[b], conditions, b)


@kernel(inline="always")
def link_factor(x: float, sigma: float) -> float:
    """Rate over its mean: log-normal with mean 1."""
    return np.exp(sigma * x - 0.5 * sigma * sigma) if sigma > 0.0 else 1.0


@kernel(inline="always")
def rate_factor(parameters: Floats, w: int, k: int, conditions: Floats, b: int) -> float:
    """Rate of a machine's link now over what the scenario says, without traces and outages."""
    return conditions[b, k, c.LINK_MEAN] * link_factor(conditions[b, k, c.LINK_X], parameters[w, k, c.LINK_SIGMA])


@kernel(inline="always")
def slowdown(parameters: Floats, w: int, k: int, conditions: Floats, b: int) -> float:
    """By how much background load and heat slow a machine's steps down now, at least 1."""
    busy = parameters[w, k, c.SLOWDOWN] if conditions[b, k, c.BUSY] > 0.5 else 1.0
    throttle, heat = parameters[w, k, c.THROTTLE], conditions[b, k, c.HEAT]
    if throttle > 1.0 and heat > HOT_FROM:
        return busy * (1.0 + (throttle - 1.0) * (heat - HOT_FROM) / (1.0 - HOT_FROM))
    return busy


@kernel()
def daylight(seconds: float) -> float:
    """Half-sine day curve from 6 h to 18 h, peak 1."""
    return max(0.0, np.sin(2.0 * np.pi * (seconds / DAY_S - 0.25)))


@kernel()
def mean_daylight(start_s: float, dt_s: float) -> float:
    """Mean of `daylight` over a stretch that may be longer than a day."""
    return (_light_until(start_s + dt_s) - _light_until(start_s)) / dt_s


@kernel()
def _light_until(seconds: float) -> float:
    """Integral of `daylight` from the first midnight: DAY_S / pi a day."""
    days = np.floor(seconds / DAY_S)
    hour = min(max((seconds - days * DAY_S) / DAY_S, 0.25), 0.75)
    return DAY_S / np.pi * (days + 0.5 * (1.0 - np.cos(2.0 * np.pi * (hour - 0.25))))


@kernel(inline="always")
def stays_s(parameters: Floats, w: int, k: int, windows: Floats, start_s: float, elapsed_s: float) -> float:
    """How long a machine is yet there by its timetable: 0 where it is not there now, infinite where nothing ends it.

    Args:
        parameters: `Fleets.parameters`.
        w: fleet.
        k: machine.
        windows: `Fleets.windows`.
        start_s: time of day at the episode's start.
        elapsed_s: since then.
    """
    if elapsed_s < parameters[w, k, c.JOIN_S]:
        return 0.0
    count = int(parameters[w, k, c.N_WINDOWS])
    if count == 0:
        return np.inf
    first, period = int(parameters[w, k, c.WINDOWS]), parameters[w, k, c.PERIOD_S]
    now = elapsed_s + start_s if parameters[w, k, c.WINDOWS_BY_CLOCK] > 0.0 else elapsed_s
    longest = 0.0
    for i in range(first, first + count):
        length = windows[i, 1] - windows[i, 0]
        into = (now - windows[i, 0]) % period
        if into < length:
            longest = max(longest, length - into)
    return longest


@kernel(inline="always")
def is_present(
    parameters: Floats, w: int, k: int, conditions: Floats, b: int, windows: Floats, start_s: float, elapsed_s: float
) -> bool:
    """Whether a machine answers the heartbeat: it exists, is on by chance and timetable, and its battery is above the
    reserve; arguments as `stays_s`, with the conditions of episode b."""
    if parameters[w, k, c.FLOPS_PER_S] <= 0.0 or conditions[b, k, c.ON] < 0.5:
        return False
    battery = parameters[w, k, c.BATTERY_J]
    if battery > 0.0 and conditions[b, k, c.CHARGE_J] <= parameters[w, k, c.BATTERY_RESERVE] * battery:
        return False
    return stays_s(parameters, w, k, windows, start_s, elapsed_s) > 0.0


@kernel(inline="always")
def _switch(state: float, to_one_s: float, to_zero_s: float, forgotten: float, u: float) -> float:
    """Two-state Markov chain, given the mean times spent in 0 (before going to one) and in 1, and what `_forgets` says."""
    stationary = to_zero_s / (to_one_s + to_zero_s)
    return 1.0 if u < stationary + (state - stationary) * forgotten else 0.0


@kernel(inline="always")
def _forgets(to_one_s: float, to_zero_s: float, dt_s: float) -> float:
    """How much of its state a two-state chain remembers after dt."""
    return np.exp(-(1.0 / to_one_s + 1.0 / to_zero_s) * dt_s)


@kernel()
def advance(
    fleets: Fleets,
    w: int,
    conditions: Floats,
    b: int,
    telemetry: Floats,
    elapsed_s: float,
    dt_s: float,
    round_hash: np.uint64,
) -> None:
    """Move the conditions of episode b over one round, in place.

    Args:
        fleets: stacked.
        w: which of them.
        conditions: (B, K, N_CONDITIONS), changed.
        b: the episode.
        telemetry: (B, K, N_TELEMETRY) of the round: how long each machine computed, what it consumed, when it was done or
            left; until then the round itself has decided who is on, and chance moves presence over the rest.
        elapsed_s: at the round's start, from the episode's.
        dt_s: its length.
        round_hash: from `draws.of_round`.
    """
    p, x, t, start_s = fleets.parameters, conditions, telemetry, fleets.fleet[w, c.START_S]
    sun = -1.0  # not asked for yet
    # Machines of one group have the same time constants: exponentials are taken once for each.
    tau_s, rho, fresh = -1.0, 0.0, 0.0
    busy_s, free_s, forgotten = -1.0, -1.0, 0.0
    for k in range(int(fleets.fleet[w, c.MACHINES])):
        if p[w, k, c.LINK_SIGMA] > 0.0:
            if p[w, k, c.LINK_TAU_S] != tau_s:
                tau_s = p[w, k, c.LINK_TAU_S]
                rho = np.exp(-dt_s / tau_s)
                fresh = np.sqrt(max(0.0, 1.0 - rho * rho))
            x[b, k, c.LINK_X] = rho * x[b, k, c.LINK_X] + fresh * normal(round_hash, LINK, k)
        if p[w, k, c.OUTAGE_FACTOR] < 1.0:
            up_s, down_s = p[w, k, c.OUTAGE_UP_S], p[w, k, c.OUTAGE_DOWN_S]
            u = uniform(round_hash, OUTAGE, k)
            x[b, k, c.OUT] = _switch(x[b, k, c.OUT], up_s, down_s, _forgets(up_s, down_s, dt_s), u)
        if p[w, k, c.SLOWDOWN] > 1.0:
            if p[w, k, c.BUSY_S] != busy_s or p[w, k, c.FREE_S] != free_s:
                busy_s, free_s = p[w, k, c.BUSY_S], p[w, k, c.FREE_S]
                forgotten = _forgets(free_s, busy_s, dt_s)
            x[b, k, c.BUSY] = _switch(x[b, k, c.BUSY], free_s, busy_s, forgotten, uniform(round_hash, BUSY_SWITCH, k))
        if p[w, k, c.THROTTLE] > 1.0:
            worked = min(t[b, k, c.COMPUTE_S], dt_s)
            hot = 1.0 - (1.0 - x[b, k, c.HEAT]) * np.exp(-worked / p[w, k, c.HEAT_S])
            x[b, k, c.HEAT] = hot * np.exp(-(dt_s - worked) / p[w, k, c.COOL_S])
        if p[w, k, c.OFF_S] > 0.0:
            done_s, on_s, off_s = t[b, k, c.FINISH_S], p[w, k, c.ON_S], p[w, k, c.OFF_S]
            # Who left by its timetable is not off by chance.
            if t[b, k, c.STATUS] == c.LEFT and stays_s(p, w, k, fleets.windows, start_s, elapsed_s) > done_s:
                x[b, k, c.ON] = 0.0
            u = uniform(round_hash, ON_SWITCH, k)
            x[b, k, c.ON] = _switch(x[b, k, c.ON], off_s, on_s, _forgets(off_s, on_s, dt_s - done_s), u)
        if p[w, k, c.BATTERY_J] > 0.0:
            if sun < 0.0:
                # The middle of a short round is its mean to a third of a per cent.
                now = (start_s + elapsed_s) % DAY_S
                sun = daylight(now + 0.5 * dt_s) if dt_s <= HOUR_S else mean_daylight(now, dt_s)
            rho_cloud = np.exp(-dt_s / p[w, k, c.CLOUD_TAU_S])
            fresh_cloud = np.sqrt(max(0.0, 1.0 - rho_cloud * rho_cloud))
            x[b, k, c.CLOUD_X] = rho_cloud * x[b, k, c.CLOUD_X] + fresh_cloud * normal(round_hash, CLOUD, k)
            # A logistic of the cloud state, never outside [0, 1]; the factor keeps its mean near `cloudiness` (MacKay 1992).
            cloudiness = p[w, k, c.CLOUDINESS]
            odds = np.log(max(cloudiness, 1e-6) / max(1.0 - cloudiness, 1e-6)) * CLOUD_ODDS
            cloud = 1.0 / (1.0 + np.exp(-(odds + CLOUD_SPREAD * x[b, k, c.CLOUD_X])))
            charge = x[b, k, c.CHARGE_J] - t[b, k, c.ENERGY_J] + p[w, k, c.SOLAR_W] * sun * (1.0 - cloud) * dt_s
            x[b, k, c.CHARGE_J] = min(max(charge, 0.0), p[w, k, c.BATTERY_J])
