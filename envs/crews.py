"""Share patterns that train with few machines at a time: crews whose data suffice together, and machines in turn.

All work on one observation or on batches. Where memory holds less than a whole model, two or three machines are asked at
once if their blocks cover the neurons.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from envs.observation import TEACHES_ALL, View
from envs.patterns import Floats, ready, round_energy, round_parts

TURNS = 3
"""A machine that comes in every so manyth round still counts nearly in full for what the fleet learns from."""
SURE = 1.15
"""How much further than the target a crew that is to be sure of it is predicted to lead."""
STUCK = 0.1
"""Time x cost, in the reference's, after which a crew that has not reached the target is not going to."""
ALL = 1_000_000
"""More machines than there are."""
COVERED, FEW = 0.6, 3
"""Part of the neurons that a round trains at least, if so few machines hold it: where memory holds less of a model, another
machine's block is worth more than it costs, by 1 / (time x cost) with rounds as the neurons trained; small ones are not."""

WEIGHTS = {
    "most-data": (0.0, 1.0, 0.0, 0.0),
    "turns": (2.0, 0.0, 0.0, 0.0),
    "turns-data": (0.5, 1.0, 0.0, 0.0),
    "turns-teaches": (1.0, 0.0, 1.0, 0.0),
    "proven": (0.0, 0.0, 0.0, 1.5),
    "turns-proven": (1.0, 0.0, 0.5, 1.5),
    "proven-teaches": (0.0, 0.0, 2.0, 1.5),
    "proven-in-turn": (0.5, 0.0, 1.0, 1.5),
    "proven-only": (0.0, 0.0, 1.0, 3.0),
}
"""Patterns that are made with `in_turn`: their exponents of waiting, of data, of what they teach, and of e to the surplus."""


def prospect(view: View, steps: Floats | float, usual_share: float = 0.5) -> tuple[Floats, Floats, Floats]:
    """What a round at the largest share promises of each machine.

    Args:
        view: of one observation or of a batch.
        steps: H.
        usual_share: the reference policy's.

    Returns:
        Seconds in the reference's mean rounds, cost (energy and bytes, weighted) in the same, and how much of the round's
        work is expected to come back, by how often it has been seen to leave; (..., K_max) each.
    """
    m, share = view.machine, view.machine["max_share"]
    names = ("energy_weight", "time_vs_reference", "reference_rounds")
    energy_weight, time_used, rounds = (np.asarray(view.fleet[name])[..., None] for name in names)
    download, per_step, upload = round_parts(view, share)
    time = download + np.asarray(steps)[..., None] * per_step + upload
    idle = 10.0 ** m["idle_energy"] * (np.asarray(download, dtype=np.float64) + upload)
    energy, traffic = round_energy(view, share, steps) + idle, (1.0 + share) / (1.0 + usual_share)
    cost = energy_weight * energy + (1.0 - energy_weight) * traffic
    elapsed = np.maximum(time_used * 10.0 ** (2.0 * rounds), 1.0)
    losses = 2.0 * np.arctanh(np.minimum(m["leaves"], 0.999))
    return time, cost, share * np.exp(-np.minimum(losses / elapsed * time, 5.0))


def crew(
    view: View, steps: Floats | float, most: int | None = None, turns: int = 1, more: int = 0, margin: float = 1.0
) -> Floats:
    """Whole models for the machines of the least time x cost whose data suffice together, everyone if nobody's do.

    Where memory holds less than a whole model, a few more whose blocks cover the neurons, at once (`COVERED`, `FEW`). Those
    whose data are too few to be missed are left out. A crew that has cost as much as `STUCK` says does not suffice,
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
    product = np.where(able, _merit(view, steps), np.inf)
    order = np.argsort(product, axis=-1, kind="stable")
    data, alone = (np.take_along_axis(np.where(able, m[name], 0.0), order, axis=-1) for name in ("data", "teaches"))
    reach = np.maximum.accumulate(np.maximum(alone, together(view, data.cumsum(axis=-1))), axis=-1)
    f = view.fleet
    spent = f["energy_weight"] * f["energy_vs_reference"] + (1.0 - f["energy_weight"]) * f["bytes_vs_reference"]
    stuck = np.asarray(f["time_vs_reference"] * spent > STUCK)[..., None]
    wanted = margin / TEACHES_ALL
    place = np.argsort(order, axis=-1, kind="stable")
    short = np.maximum((reach < wanted).sum(axis=-1, keepdims=True), _short(m["max_share"] * able, order))
    short = np.where(stuck, ALL, short)
    chosen = able & (place <= short + more)
    if most is None:
        idle = _not_missed(view, able & (place <= short) & (short < able.sum(axis=-1, keepdims=True)), wanted)
        chosen &= ~idle
    else:
        chosen &= (place < most) | stuck
    waited = np.where(chosen, m["measurement_age"] - 1e-6 * place, -np.inf)
    order = np.argsort(-waited, axis=-1, kind="stable")
    part = np.ceil(chosen.sum(axis=-1, keepdims=True) / np.where(stuck, TURNS, turns))
    asked = np.maximum(part, _short(m["max_share"] * chosen, order) + 1)
    return chosen * (np.argsort(order, axis=-1, kind="stable") < asked) * m["max_share"]


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
        held = np.where(without, m["max_share"], 0.0).sum(axis=-1, keepdims=True)
        cover = (held >= COVERED) | (without.sum(axis=-1, keepdims=True) >= FEW)
        left = np.where((np.maximum(alone, together(view, pooled)) >= wanted) & cover, without, left)
    return members & ~left


def _merit(view: View, steps: Floats | float) -> Floats:
    """(..., K_max) time x cost of a machine's round, for what is expected to come back of it; the least is the best."""
    time, cost, back = prospect(view, steps)
    return np.asarray(time * cost / np.maximum(back, 1e-6) ** 2)


def unasked(view: View) -> Floats:
    """(..., K_max) rounds since machines were last asked."""
    return np.asarray(10.0 * np.arctanh(np.minimum(view.machine["measurement_age"], 0.999)))


def in_turn(
    view: View, steps: Floats | float, patience: float, data: float = 0.0, teaches: float = 0.0, surplus: float = 0.0
) -> Floats:
    """A whole model for the machine of the least time x cost, for the data it brings and the rounds that it has waited.

    With patience above 0 nobody is left out for good: who is dearer comes more rarely.

    Args:
        view: of one observation or of a batch.
        steps: H.
        patience: exponent of 1 + the rounds since a machine was last asked; 0 is who is best, again and again.
        data: exponent of the number of its images.
        teaches: exponent of how far they lead alone.
        surplus: by which that feature's exponential counts.
    """
    m, able = view.machine, ready(view)
    worth = (1.0 + unasked(view)) ** patience * np.maximum(m["data"], 1e-6) ** data * np.maximum(m["teaches"], 0.01) ** teaches
    return _first(view, np.where(able, _merit(view, steps) / (worth * np.exp(surplus * m["surplus"])), np.inf))


def thriftiest(view: View, steps: Floats | float) -> Floats:
    """A whole model for the machine that would use least energy."""
    return _first(view, np.where(ready(view), round_energy(view, view.machine["max_share"], steps), np.inf))


def _first(view: View, cost: Floats) -> Floats:
    """The largest share for the machine of the least cost, infinite where it cannot be asked, and for as many as cover."""
    share = view.machine["max_share"] * np.isfinite(cost)
    order = np.argsort(cost, axis=-1, kind="stable")
    return share * (np.argsort(order, axis=-1, kind="stable") <= _short(share, order))


def _short(shares: Floats, order: NDArray[np.intp]) -> NDArray[np.intp]:
    """(..., 1) how many machines of an order do not hold enough of the neurons yet; 0 where `FEW` do not either."""
    held = np.take_along_axis(shares, order, axis=-1).cumsum(axis=-1)[..., :FEW]
    return np.asarray(np.where(held[..., -1:] >= COVERED, (held < COVERED).sum(axis=-1, keepdims=True), 0))
