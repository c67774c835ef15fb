"""How good policies are on scenarios that they were not tuned to, beside the best heuristic and the best fixed decision.

Per scenario the interquartile mean of efficiency over held-out episodes (Agarwal et al. 2021, rliable): a ratio of two of
them is how many times as efficient the one is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from agents.base import Orchestrator
from agents.benchmark import BEST_STATIC, HELD_OUT_SEED
from agents.best_static import search_static
from agents.episodes import play_together
from agents.heuristics import HEURISTICS
from agents.statistics import iqm
from agents.tables import Grid
from fedcore.world import compile_world
from scenarios import Scenario


@dataclass(frozen=True)
class Quality:
    """Scores on one scenario.

    Attributes:
        scenario: name.
        efficiency: interquartile mean of each agent, by name.
    """

    scenario: str
    efficiency: dict[str, float]

    def over(self, agent: str, others: Sequence[str]) -> float:
        """How many times as efficient an agent is as the best of others."""
        return self.efficiency[agent] / max(self.efficiency[name] for name in others)


def quality(
    policies: Sequence[Orchestrator],
    scenarios: Sequence[Scenario],
    episodes: int,
    heuristics: Sequence[str] = tuple(HEURISTICS),
    on_scenario: Callable[[str], None] = lambda name: None,
) -> list[Quality]:
    """Play policies, heuristics and the best fixed decision on the same held-out episodes of every scenario.

    Args:
        policies: to judge.
        scenarios: where.
        episodes: of each agent and scenario.
        heuristics: names.
        on_scenario: called with each name when it is done.
    """
    out, seeds = [], [HELD_OUT_SEED + i for i in range(episodes)]
    for scenario in scenarios:
        agents = [*policies, *(HEURISTICS[name]() for name in heuristics), search_static(compile_world(scenario)).policy]
        logs = {agent.name: [r.log_efficiency for r in play_together(agent, scenario, seeds)] for agent in agents}
        out.append(Quality(scenario.name, {name: float(iqm(np.exp(values))) for name, values in logs.items()}))
        on_scenario(scenario.name)
    return out


def quality_grid(rows: Sequence[Quality], policies: Sequence[str], title: str) -> Grid:
    """A table: efficiencies, and every policy's ratio to the best heuristic and to the best fixed decision."""
    header = ["scenario", *policies, "best heuristic", "efficiency", BEST_STATIC]
    header += [f"{p} over {other}" for p in policies for other in ("heuristic", BEST_STATIC)]
    lines = []
    for row in rows:
        rivals = [name for name in HEURISTICS if name in row.efficiency]
        best = max(rivals, key=lambda name: row.efficiency[name])
        line = [row.scenario, *(f"{row.efficiency[p]:.2f}" for p in policies), best, f"{row.efficiency[best]:.2f}"]
        line.append(f"{row.efficiency[BEST_STATIC]:.2f}")
        line += [f"x {row.over(p, names):.2f}" for p in policies for names in (rivals, [BEST_STATIC])]
        lines.append(tuple(line))
    return Grid(title, tuple(header), tuple(lines))
