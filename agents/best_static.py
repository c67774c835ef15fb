"""best-static: the best decision that never changes, found by search on one scenario; and the same search with less to choose
from, which shows what each part of a decision is worth."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agents.base import Orchestrator
from agents.rollout import play_out
from envs.core import Core, SimulatedLearner
from envs.observation import step_flops
from envs.spaces import encode
from fedcore.costs import GRID
from fedcore.fleet import columns as c
from fedcore.world import World

SEARCH_SEED = 7_000_000  # far from training's and from the held-out episodes'
SHARES = (0.1, 0.25, 0.5, 0.75, 1.0)
COUNTS = 16
FINALISTS = 16
AT_ONCE = 65_536
"""Machines that are simulated side by side: more is no faster, and takes gigabytes where fleets are large."""


class Static(Orchestrator):
    """Always the same decision.

    Args:
        action: (K_max + 1,).
        name: for tables.
    """

    def __init__(self, action: NDArray[np.float32], name: str = "best-static") -> None:
        self.action, self.name = action, name

    def decide(self, observation: NDArray[np.floating]) -> NDArray[np.float32]:
        """See `Orchestrator.decide`."""
        return self.action


@dataclass(frozen=True)
class StaticResult:
    """What the search found.

    Attributes:
        policy: the best decision.
        log_efficiency: its mean over the search's episodes.
        description: in words.
        candidates: how many decisions were tried.
    """

    policy: Static
    log_efficiency: float
    description: str
    candidates: int


def whole_step_s(world: World) -> NDArray[np.float64]:
    """Seconds that a step of the whole model takes on each machine, as advertised, (machines,)."""
    a = world.arrays.parameters[: world.arrays.machines]
    return a[:, c.STEP_OVERHEAD_S] + step_flops(a, world.costs[-1]) / a[:, c.FLOPS_PER_S]


def within_memory(world: World, shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """Shares of the machines that there are, (machines,), no larger than each one's memory holds."""
    return np.minimum(shares, np.maximum(world.max_share_index[: world.arrays.machines], 0) / GRID)


def _counts(machines: int) -> list[int]:
    """Numbers of machines to try: all of them up to `COUNTS`, as many spread evenly over their logarithm in larger fleets."""
    return sorted({round(x) for x in np.geomspace(1, machines, COUNTS)} if machines > COUNTS else range(1, machines + 1))


def share_patterns(world: World, levels: Sequence[float] = SHARES) -> dict[str, NDArray[np.float64]]:
    """Fixed shares to try, from advertised figures alone: every level for any number of the fastest machines, or of the
    thriftiest."""
    n, step = world.arrays.machines, whole_step_s(world)
    out: dict[str, NDArray[np.float64]] = {}
    for name, cost in (("fastest", step), ("thriftiest", step * world.arrays.parameters[:n, c.ACTIVE_W])):
        order = np.argsort(cost, kind="stable")
        # All machines are all machines, in whatever order.
        for keep in _counts(n)[: None if name == "fastest" else -1]:
            picked = np.isin(np.arange(n), order[:keep]).astype(np.float64)
            out |= {f"{'all' if keep == n else f'{name} {keep}'} at {share:g}": picked * share for share in levels}
    return out


def graded_patterns(world: World) -> dict[str, NDArray[np.float64]]:
    """Shares for everyone that fall with a machine's speed."""
    step = whole_step_s(world)
    speed = step.min() / step
    return {f"speed^{p:g} x {share:g}": np.maximum(share * speed**p, 0.05) for share in SHARES for p in (0.5, 1.0)}


Candidate = tuple[str, NDArray[np.float32]]


def _candidates(
    world: World, patterns: Mapping[str, NDArray[np.float64]], levels: Sequence[int] | None = None
) -> list[Candidate]:
    """Every pattern, as far as memory holds it, with these of the menu's sync intervals; None takes all."""
    menu = world.scenario.decision.sync_intervals
    return [
        (f"{name}, H = {menu[level]}", encode(within_memory(world, shares), level, len(menu), len(world.data)))
        for name, shares in patterns.items()
        for level in (range(len(menu)) if levels is None else levels)
    ]


def static_decisions(world: World) -> list[Candidate]:
    """What the search tries: every pattern of shares with every H, in words and as actions (K_max + 1,)."""
    return _candidates(world, share_patterns(world) | graded_patterns(world))


def whole_decisions(world: World) -> list[Candidate]:
    """Whole models only, of all that `static_decisions` has."""
    return _candidates(world, share_patterns(world, (1.0,)))


def _level(world: World) -> int:
    """Of the menu's sync interval that is nearest to the reference's."""
    menu = np.array(world.scenario.decision.sync_intervals)
    return int(np.argmin(np.abs(np.log(menu / world.scenario.reference.sync_interval))))


def interval_decisions(world: World) -> list[Candidate]:
    """Every H, with the reference's share for everyone; as `static_decisions`."""
    return _candidates(world, {"reference shares": np.full(world.arrays.machines, world.scenario.reference.share)})


def share_decisions(world: World) -> list[Candidate]:
    """Every pattern of shares, with the reference's H; as `static_decisions`."""
    return _candidates(world, share_patterns(world) | graded_patterns(world), [_level(world)])


BEST_STATIC = "best-static"
STATICS: Mapping[str, Callable[[World], list[Candidate]]] = {
    BEST_STATIC: static_decisions,
    "whole-static": whole_decisions,
    "only-h": interval_decisions,
    "only-shares": share_decisions,
}
"""What a search may choose from, by the name of the agent that it gives."""


def search_static(world: World, episodes: int = 16, seed: int = SEARCH_SEED, kind: str = BEST_STATIC) -> StaticResult:
    """Try every decision of a kind on the same episodes; the best `FINALISTS` again on eight times as many others.

    Args:
        world: compiled scenario.
        episodes: per candidate in the first pass.
        seed: of the episodes.
        kind: in `STATICS`.
    """
    candidates = STATICS[kind](world)
    scores = _score(world, [action for _, action in candidates], episodes, seed)
    finalists = np.argsort(-scores, kind="stable")[:FINALISTS]
    again = _score(world, [candidates[i][1] for i in finalists], 8 * episodes, seed + 1)
    best = int(finalists[int(np.argmax(again))])
    name, action = candidates[best]
    return StaticResult(Static(action, kind), float(again.max()), name, len(candidates))


def _score(world: World, actions: Sequence[NDArray[np.float32]], episodes: int, seed: int) -> NDArray[np.float64]:
    """Mean log-efficiency of every fixed action over the same seeded episodes."""
    size = max(AT_ONCE // (episodes * world.arrays.machines), 1)
    parts = [actions[at : at + size] for at in range(0, len(actions), size)]
    return np.concatenate([_score_part(world, part, episodes, seed) for part in parts])


def _score_part(world: World, actions: Sequence[NDArray[np.float32]], episodes: int, seed: int) -> NDArray[np.float64]:
    core = Core([world], len(actions) * episodes, SimulatedLearner(), "efficiency")
    generators = [np.random.default_rng([seed, e]) for _ in actions for e in range(episodes)]
    core.reset(np.arange(core.num_envs), generators)
    batch = np.repeat(np.stack(actions), episodes, axis=0)
    return play_out(core, lambda rows, _: batch[rows]).reshape(len(actions), episodes).mean(axis=1)
