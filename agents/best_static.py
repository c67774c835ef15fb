"""best-static: the best decision that never changes, found by search on one scenario; and the same search with less to choose
from, which shows what each part of a decision is worth."""

from __future__ import annotations

from collections.abc import Callable, Mapping
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


def share_patterns(world: World) -> dict[str, NDArray[np.float64]]:
    """Fixed shares to try, from advertised figures alone: levels for all, for the fastest, graded by speed."""
    n = world.arrays.machines
    step = whole_step_s(world)
    speed = step.min() / step
    out: dict[str, NDArray[np.float64]] = {}
    order = np.argsort(step, kind="stable")
    for share in (0.1, 0.25, 0.5, 0.75, 1.0):
        out[f"all {share:g}"] = np.full(n, share)
        for keep in sorted({1, n // 4, n // 2, 3 * n // 4} - {0, n}):
            picked = np.zeros(n)
            picked[order[:keep]] = share
            out[f"fastest {keep} at {share:g}"] = picked
        for power in (0.5, 1.0):
            out[f"speed^{power:g} x {share:g}"] = np.maximum(share * speed**power, 0.05)
    return {name: within_memory(world, shares) for name, shares in out.items()}


Candidate = tuple[str, NDArray[np.float32]]


def static_decisions(world: World) -> list[Candidate]:
    """What the search tries: every share pattern with every H, in words and as actions (K_max + 1,)."""
    menu = world.scenario.decision.sync_intervals
    return [
        (f"{name}, H = {h}", encode(shares, level, len(menu), len(world.data)))
        for name, shares in share_patterns(world).items()
        for level, h in enumerate(menu)
    ]


def whole_decisions(world: World) -> list[Candidate]:
    """Whole models only: any number of the fastest machines, or of the thriftiest, with every H; as `static_decisions`."""
    n, menu = world.arrays.machines, world.scenario.decision.sync_intervals
    step = whole_step_s(world)
    orders = {"fastest": step, "thriftiest": step * world.arrays.parameters[:n, c.ACTIVE_W]}
    out: list[Candidate] = []
    for name, cost in orders.items():
        order = np.argsort(cost, kind="stable")
        # All machines are all machines, in whatever order.
        for keep in range(1, n + 1 if name == "fastest" else n):
            shares = within_memory(world, np.isin(np.arange(n), order[:keep]).astype(np.float64))
            for level, h in enumerate(menu):
                out.append((f"{name} {keep} whole, H = {h}", encode(shares, level, len(menu), len(world.data))))
    return out


def _level(world: World) -> int:
    """Of the menu's sync interval that is nearest to the reference's."""
    menu = np.array(world.scenario.decision.sync_intervals)
    return int(np.argmin(np.abs(np.log(menu / world.scenario.reference.sync_interval))))


def interval_decisions(world: World) -> list[Candidate]:
    """Every H, with the reference's share for everyone; as `static_decisions`."""
    menu = world.scenario.decision.sync_intervals
    shares = within_memory(world, np.full(world.arrays.machines, world.scenario.reference.share))
    return [(f"reference shares, H = {h}", encode(shares, i, len(menu), len(world.data))) for i, h in enumerate(menu)]


def share_decisions(world: World) -> list[Candidate]:
    """Every share pattern, with the reference's H; as `static_decisions`."""
    menu, level = world.scenario.decision.sync_intervals, _level(world)
    return [
        (f"{name}, H = {menu[level]}", encode(shares, level, len(menu), len(world.data)))
        for name, shares in share_patterns(world).items()
    ]


BEST_STATIC = "best-static"
STATICS: Mapping[str, Callable[[World], list[Candidate]]] = {
    BEST_STATIC: static_decisions,
    "whole-static": whole_decisions,
    "only-h": interval_decisions,
    "only-shares": share_decisions,
}
"""What a search may choose from, by the name of the agent that it gives."""


def search_static(world: World, episodes: int = 16, seed: int = SEARCH_SEED, kind: str = BEST_STATIC) -> StaticResult:
    """Try every decision of a kind on the same episodes; the best eight again on four times as many.

    Args:
        world: compiled scenario.
        episodes: per candidate in the first pass.
        seed: of the episodes.
        kind: in `STATICS`.
    """
    candidates = STATICS[kind](world)
    scores = _score(world, [action for _, action in candidates], episodes, seed)
    finalists = np.argsort(-scores, kind="stable")[:8]
    again = _score(world, [candidates[i][1] for i in finalists], 4 * episodes, seed + 1)
    best = int(finalists[int(np.argmax(again))])
    name, action = candidates[best]
    return StaticResult(Static(action, kind), float(again.max()), name, len(candidates))


def _score(world: World, actions: list[NDArray[np.float32]], episodes: int, seed: int) -> NDArray[np.float64]:
    """Mean log-efficiency of every fixed action over the same seeded episodes."""
    core = Core([world], len(actions) * episodes, SimulatedLearner(), "efficiency")
    generators = [np.random.default_rng([seed, e]) for _ in actions for e in range(episodes)]
    core.reset(np.arange(core.num_envs), generators)
    batch = np.repeat(np.stack(actions), episodes, axis=0)
    return play_out(core, lambda rows, _: batch[rows]).reshape(len(actions), episodes).mean(axis=1)
