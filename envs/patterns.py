"""Share patterns: sensible ways to spread neurons over the machines, computed from an observation.

The Discrete menu offers them and the heuristics are made of them. All work on one observation or on batches.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from envs.observation import View

Floats = NDArray[np.floating]
SMALLEST = 0.05


def ready(view: View) -> NDArray[np.bool_]:
    """Machines that can be asked: there, available, and with room for at least the smallest block."""
    m = view.machine
    return (m["exists"] > 0.5) & (m["available"] > 0.5) & (m["max_share"] > 0.0)


def finish_time(view: View, shares: Floats, steps: Floats | float) -> Floats:
    """Predicted seconds until a machine's block is back, in units of the reference's mean round.

    download + H x step time (share-dependent) + upload x share.
    """
    download, per_step, upload = round_parts(view, shares)
    return download + np.asarray(steps)[..., None] * per_step + upload


def round_parts(view: View, shares: Floats) -> tuple[Floats, Floats, Floats]:
    """Download, one step and upload of a machine's round, as `finish_time`."""
    m = view.machine
    step = 10.0 ** m["step_time"] / 10.0
    saving = m["step_saving"]
    return 10.0 ** m["download_time"], step * (saving + (1.0 - saving) * shares), 10.0 ** m["upload_time"] * shares


def round_energy(view: View, shares: Floats, steps: Floats | float) -> Floats:
    """Predicted joules of a machine's round, in units of the reference's per machine and round."""
    m = view.machine
    saving = m["step_saving"]
    work = 10.0 ** m["step_energy"] / 10.0 * (saving + (1.0 - saving) * shares)
    return np.asarray(steps)[..., None] * work + 10.0 ** m["radio_energy"] * (0.5 + 0.5 * shares)


def uniform(view: View, share: float) -> Floats:
    """The same share for every machine that is ready."""
    return ready(view) * np.minimum(share, view.machine["max_share"])


def by_speed(view: View) -> Floats:
    """Shares proportional to measured speed, the fastest trains everything."""
    speed = np.where(ready(view), 10.0 ** -view.machine["step_time"], 0.0)
    fastest = np.maximum(speed.max(axis=-1, keepdims=True), 1e-12)
    return np.minimum(np.where(ready(view), np.maximum(speed / fastest, SMALLEST), 0.0), view.machine["max_share"])


def within(view: View, time: Floats, steps: Floats | float) -> Floats:
    """Largest shares that finish within a time (reference rounds); machines that cannot finish any block rest."""
    return _within(view, ready(view), *_span(view, steps), time)


def _span(view: View, steps: Floats | float) -> tuple[Floats, Floats]:
    """When a machine would be back with nothing to train, and with everything."""
    zero, one = np.zeros_like(view.machine["exists"]), np.ones_like(view.machine["exists"])
    return finish_time(view, zero, steps), finish_time(view, one, steps)


def _within(view: View, able: NDArray[np.bool_], start: Floats, end: Floats, time: Floats) -> Floats:
    """`within`, of machines that are `able`, given their `_span`."""
    time = np.asarray(time)[..., None]
    # Where products are small, a layer cut in two can take longer than a whole one: all of it, then, or nothing.
    share = np.where(end > start, (time - start) / np.maximum(end - start, 1e-9), time >= end)
    share = np.where(share < SMALLEST, 0.0, np.minimum(share, 1.0))
    return able * np.minimum(share, view.machine["max_share"])


def balanced(view: View, mean_share: float, steps: Floats | float) -> Floats:
    """Equal finish times: the smallest common deadline whose shares sum to a mean share of the ready machines."""
    able, (start, end) = ready(view), _span(view, steps)
    wanted = mean_share * able.sum(axis=-1)
    low, high = np.zeros(wanted.shape), np.where(able, end, 0.0).max(axis=-1)
    for _ in range(20):
        middle = 0.5 * (low + high)
        enough = _within(view, able, start, end, middle).sum(axis=-1) >= wanted
        low, high = np.where(enough, low, middle), np.where(enough, middle, high)
    return _within(view, able, start, end, high)


def best_half(view: View, cost: Floats, share: float) -> Floats:
    """One share for the cheaper half (rounded up) of the ready machines, by any cost per machine."""
    able = ready(view)
    keep = np.ceil(able.sum(axis=-1) / 2.0)
    rank = np.argsort(np.argsort(np.where(able, cost, np.inf), axis=-1, kind="stable"), axis=-1, kind="stable")
    return (able & (rank < keep[..., None])) * np.minimum(share, view.machine["max_share"])


def fastest_half(view: View, share: float, steps: Floats | float) -> Floats:
    """One share for the half of the machines that would be back first."""
    return best_half(view, finish_time(view, np.full_like(view.machine["exists"], share), steps), share)


def thriftiest_half(view: View, share: float, steps: Floats | float) -> Floats:
    """One share for the half of the machines that would use least energy, fullest batteries first among equals."""
    cost = round_energy(view, np.full_like(view.machine["exists"], share), steps) - 0.01 * view.machine["charge"]
    return best_half(view, cost, share)
