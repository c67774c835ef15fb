"""What an orchestrator remembers of every machine: whether it answered last, its last word on its load and its battery, link
rates as last measured, losses."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedcore.fleet import columns as c
from fedcore.fleet.compile import Fleets
from fedcore.fleet.conditions import is_present, slowdown
from fedcore.kernel import kernel

Floats = NDArray[np.float64]

# Columns of what is remembered: (machines, N_HEARD).
SLOW, UP_BPS, DOWN_BPS, AGE, LOST, CHARGE, HERE = range(7)
N_HEARD = 7


@kernel()
def forget(fleets: Fleets, w: int, heard: Floats, b: int) -> None:
    """Start episode b: links and batteries are as advertised, nobody has been heard yet; arguments as `listen`."""
    p = fleets.parameters
    for k in range(heard.shape[1]):
        heard[b, k, SLOW], heard[b, k, AGE], heard[b, k, LOST], heard[b, k, HERE] = 1.0, 0.0, 0.0, 0.0
        heard[b, k, CHARGE] = p[w, k, c.BATTERY_START]
        heard[b, k, UP_BPS] = max(p[w, k, c.UP_BPS], 1.0)
        heard[b, k, DOWN_BPS] = max(p[w, k, c.DOWN_BPS], 1.0)


@kernel()
def listen(fleets: Fleets, w: int, conditions: Floats, elapsed_s: float, heard: Floats, b: int) -> None:
    """What the heartbeat reports now: machines that answer tell their load and their battery, as any operating system knows
    them; the others' last word stands.

    Args:
        fleets: stacked.
        w: which of them.
        conditions: (B, K, N_CONDITIONS).
        elapsed_s: since the episode's start.
        heard: (B, K, N_HEARD), changed.
        b: the episode.
    """
    p, start_s, windows = fleets.parameters, fleets.fleet[w, c.START_S], fleets.windows
    for k in range(int(fleets.fleet[w, c.MACHINES])):
        heard[b, k, HERE] = 1.0 if is_present(p, w, k, conditions, b, windows, start_s, elapsed_s) else 0.0
        if heard[b, k, HERE] > 0.0:
            heard[b, k, SLOW] = slowdown(p, w, k, conditions, b)
            if p[w, k, c.BATTERY_J] > 0.0:
                heard[b, k, CHARGE] = conditions[b, k, c.CHARGE_J] / p[w, k, c.BATTERY_J]


@kernel()
def remember(fleets: Fleets, w: int, telemetry: Floats, heard: Floats, b: int) -> None:
    """Keep what a round has measured: the link rates of those who came back, and who was lost; arguments as `listen`, with
    the round's telemetry (B, K, N_TELEMETRY)."""
    for k in range(int(fleets.fleet[w, c.MACHINES])):
        status = telemetry[b, k, c.STATUS]
        if status == c.DONE:
            heard[b, k, UP_BPS] = telemetry[b, k, c.MEASURED_UP_BPS]
            heard[b, k, DOWN_BPS] = telemetry[b, k, c.MEASURED_DOWN_BPS]
            heard[b, k, AGE] = 0.0
        else:
            heard[b, k, AGE] += 1.0
            if status == c.LEFT or status == c.FLAT:
                heard[b, k, LOST] += 1.0
