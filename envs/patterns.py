"""Share patterns: sensible ways to spread neurons over the machines, computed from an observation.

The Discrete menu offers them and the heuristics are made of them. All work on one observation or on batches.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from envs.observation import TEACHES_ALL, View

Floats = NDArray[np.floating]
SMALLEST = 0.05
TURNS = 3
"""A machine that comes in every so manyth round still counts nearly in full for what the fleet learns from."""
SURE = 1.15
"""How much further than the target a crew that is to be sure of it is predicted to lead."""
STUCK = 0.1
"""Time x cost, in the reference's, after which a crew that has not reached the target is not going to."""
ALL = 1_000_000
"""More machines than there are."""


def ready(view: View) -> NDArray[np.bool_]:
    """Machines that can be asked: there, available, and with room for at least the smallest block."""
    m = view.machine
    return (m["exists"] > 0.5) & (m["available"] > 0.5) & (m["max_share"] > 0.0)


def finish_time(view: View, shares: Floats, steps: Floats | float) -> Floats:
    """Predicted seconds until a machine's block is back, in units of the reference's mean round.

    download + H x step time (share-dependent) + upload x share.
    """
    m = view.machine
    step = 10.0 ** m["step_time"] / 10.0
    saving = m["step_saving"]
    per_step = step * (saving + (1.0 - saving) * shares)
    return 10.0 ** m["download_time"] + np.asarray(steps)[..., None] * per_step + 10.0 ** m["upload_time"] * shares


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
    zero, one = np.zeros_like(view.machine["exists"]), np.ones_like(view.machine["exists"])
    start, end = finish_time(view, zero, steps), finish_time(view, one, steps)
    time = np.asarray(time)[..., None]
    # Where products are small, a layer cut in two can take longer than a whole one: all of it, then, or nothing.
    share = np.where(end > start, (time - start) / np.maximum(end - start, 1e-9), time >= end)
    share = np.where(share < SMALLEST, 0.0, np.minimum(share, 1.0))
    return ready(view) * np.minimum(share, view.machine["max_share"])


def balanced(view: View, mean_share: float, steps: Floats | float) -> Floats:
    """Equal finish times: the smallest common deadline whose shares sum to a mean share of the ready machines."""
    wanted = mean_share * ready(view).sum(axis=-1)
    low = np.zeros(wanted.shape)
    high = np.where(ready(view), finish_time(view, np.ones_like(view.machine["exists"]), steps), 0.0).max(axis=-1)
    for _ in range(20):
        middle = 0.5 * (low + high)
        enough = within(view, middle, steps).sum(axis=-1) >= wanted
        low, high = np.where(enough, low, middle), np.where(enough, middle, high)
    return within(view, high, steps)


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


def prospect(view: View, steps: Floats | float, usual_share: float = 0.5) -> tuple[Floats, Floats, Floats]:
    """What a round at the largest share promises of each machine.

    Args:
        view: of one observation or of a batch.
        steps: H.
        usual_share: the reference policy's.

    Returns:
        Seconds in the reference's mean rounds, cost (energy and bytes, weighted) in the same, and how much of the round's
        work is expected to come back, by how often machines of its kind have been seen to leave; (..., K_max) each.
    """
    m, f = view.machine, {name: np.asarray(value)[..., None] for name, value in view.fleet.items()}
    share, steps = m["max_share"], np.asarray(steps)
    time = finish_time(view, share, steps)
    idle = 10.0 ** m["idle_energy"] * finish_time(view, share, np.zeros(steps.shape))
    energy, traffic = round_energy(view, share, steps) + idle, (1.0 + share) / (1.0 + usual_share)
    cost = f["energy_weight"] * energy + (1.0 - f["energy_weight"]) * traffic
    elapsed = np.maximum(f["time_vs_reference"] * 10.0 ** (2.0 * f["reference_rounds"]), 1.0)
    losses = 2.0 * np.arctanh(np.minimum(m["leaves"], 0.999))
    return time, cost, share * np.exp(-np.minimum(losses / elapsed * time, 5.0))


def crew(
    view: View, steps: Floats | float, most: int | None = None, turns: int = 1, more: int = 0, margin: float = 1.0
) -> Floats:
    """Whole models for the machines of the least time x cost whose data suffice together, everyone if nobody's do.

    Those whose data are too few to be missed are left out. A crew that has cost as much as `STUCK` says does not suffice,
    whatever was predicted: everyone then, in turns.

    Args:
        view: of one observation or of a batch.
        steps: H.
        most: at most so many machines.
        turns: the round asks a part of them, so many times fewer, rounded up: those that were not asked for longest.
        more: so many machines more than suffice by prediction.
        margin: how many times as far as the target their data must lead.
    """
    m, able = view.machine, ready(view)
    time, cost, back = prospect(view, steps)
    product = np.where(able, time * cost / np.maximum(back, 1e-6) ** 2, np.inf)
    order = np.argsort(product, axis=-1, kind="stable")
    data, alone = (np.take_along_axis(np.where(able, m[name], 0.0), order, axis=-1) for name in ("data", "teaches"))
    reach = np.maximum.accumulate(np.maximum(alone, together(view, data.cumsum(axis=-1))), axis=-1)
    f = view.fleet
    spent = f["energy_weight"] * f["energy_vs_reference"] + (1.0 - f["energy_weight"]) * f["bytes_vs_reference"]
    stuck = np.asarray(f["time_vs_reference"] * spent > STUCK)[..., None]
    wanted = margin / TEACHES_ALL
    short = np.where(stuck, ALL, (reach < wanted).sum(axis=-1, keepdims=True))
    place = np.argsort(order, axis=-1, kind="stable")
    chosen = able & (place <= short + more)
    if most is None:
        idle = _not_missed(view, able & (place <= short) & (short < able.sum(axis=-1, keepdims=True)), wanted)
        chosen &= ~idle
    else:
        chosen &= (place < most) | stuck
    waited = np.where(chosen, m["measurement_age"] - 1e-6 * place, -np.inf)
    turn = np.argsort(np.argsort(-waited, axis=-1, kind="stable"), axis=-1, kind="stable")
    chosen &= turn < np.ceil(chosen.sum(axis=-1, keepdims=True) / np.where(stuck, TURNS, turns))
    return chosen * m["max_share"]


def together(view: View, pooled: Floats) -> Floats:
    """How far so much pooled data lead, in units of the feature `teaches`: between the best machine's and the fleet's, linearly
    in the logarithm of their number; 0 where they are no more than the largest machine's.

    Args:
        view: of one observation or of a batch.
        pooled: (..., N) sums of the feature `data`.
    """
    m = view.machine
    largest, total = (f(m["data"], axis=-1, keepdims=True) for f in (np.max, np.sum))
    best, whole = m["teaches"].max(axis=-1, keepdims=True), np.asarray(view.fleet["teaches"])[..., None]
    part = np.log(np.maximum(pooled, 1e-9) / largest) / np.maximum(np.log(total / largest), 1e-9)
    return np.where(part > 0.0, best + (whole - best) * np.minimum(part, 1.0), 0.0)


def _not_missed(view: View, members: NDArray[np.bool_], wanted: float) -> NDArray[np.bool_]:
    """Which of a crew (..., K_max) can be left out, those of least data first, while the others' data still suffice."""
    m, left = view.machine, members.copy()
    size = int(members.sum(axis=-1).max(initial=0))
    if size < 2:
        return np.zeros_like(members)
    order = np.argsort(np.where(members, m["data"], np.inf), axis=-1, kind="stable")
    for j in range(size):
        without = left.copy()
        np.put_along_axis(without, order[..., j : j + 1], False, axis=-1)
        alone = np.where(without, m["teaches"], 0.0).max(axis=-1, keepdims=True)
        pooled = np.where(without, m["data"], 0.0).sum(axis=-1, keepdims=True)
        left = np.where(np.maximum(alone, together(view, pooled)) >= wanted, without, left)
    return members & ~left


PATTERNS: dict[str, Callable[[View, Floats | float], Floats]] = {
    "whole": lambda view, steps: uniform(view, 1.0),
    "half": lambda view, steps: uniform(view, 0.5),
    "quarter": lambda view, steps: uniform(view, 0.25),
    "tenth": lambda view, steps: uniform(view, 0.1),
    "speed": lambda view, steps: by_speed(view),
    "balanced-half": lambda view, steps: balanced(view, 0.5, steps),
    "balanced-quarter": lambda view, steps: balanced(view, 0.25, steps),
    "fastest-half": lambda view, steps: fastest_half(view, 0.5, steps),
    "fastest-quarter": lambda view, steps: fastest_half(view, 0.25, steps),
    "thrifty-half": lambda view, steps: thriftiest_half(view, 0.5, steps),
    "thrifty-quarter": lambda view, steps: thriftiest_half(view, 0.25, steps),
    "crew": lambda view, steps: crew(view, steps),
    "crew-turns": lambda view, steps: crew(view, steps, turns=TURNS),
    "crew-pairs": lambda view, steps: crew(view, steps, turns=2),
    "crew-singly": lambda view, steps: crew(view, steps, turns=ALL),
    "crew-more": lambda view, steps: crew(view, steps, turns=TURNS, more=1),
    "sure-pairs": lambda view, steps: crew(view, steps, turns=2, margin=SURE),
    "sure-singly": lambda view, steps: crew(view, steps, turns=ALL, margin=SURE),
    "best": lambda view, steps: crew(view, steps, most=1),
    "two": lambda view, steps: crew(view, steps, most=2),
    "singly": lambda view, steps: crew(view, steps, turns=ALL, more=ALL),
}
"""Name -> shares (..., K_max) from a view and H; a new pattern is one line.

Of the crew all are asked in a round, every third, every other or one ("singly"); with "more", of one machine more than the
crew; "sure" is a crew with a margin; "singly" alone is every machine that can be asked, one a round."""
