"""Play orchestrators on episodes and score them, on either tier."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from agents.base import Orchestrator
from agents.best_static import BEST_STATIC as BEST_STATIC
from agents.best_static import STATICS, search_static
from agents.episodes import EpisodeResult, play_episode
from agents.fixed import FIXED, parse_fixed
from agents.frozen import load_policy, named_policies
from agents.greedy_mpc import PLANNERS
from agents.heuristics import HEURISTICS
from agents.outside import is_outside, load_outside
from agents.tuned import TUNED, tuned_heuristic
from envs.orchestration import OrchestrationEnv
from fedcore.world import compile_world, room_for
from scenarios import InputError, Scenario

HELD_OUT_SEED = 1_000_000
"""Held-out episodes start here: training draws its episodes from generators seeded otherwise."""


def orchestrator(name: str, scenario: Scenario) -> Orchestrator:
    """An orchestrator by name: a heuristic, one with tuned parameters ("tuned:oort"), a planner, one of `best_static.STATICS`
    (searched on this scenario), a decision that never changes as `fixed.parse_fixed` spells it, the name or path of a frozen
    policy, or FILE.py:NAME as `outside.load_outside` reads it.

    Raises:
        InputError: unknown name, or a file that does not load.
    """
    if name in HEURISTICS:
        return HEURISTICS[name]()
    if name.startswith(TUNED):
        return tuned_heuristic(name, scenario)
    if name.startswith(FIXED):
        return parse_fixed(name, compile_world(scenario))
    if name in PLANNERS:
        return PLANNERS[name]()
    if name in STATICS:
        return search_static(compile_world(scenario), kind=name).policy
    if is_outside(name):
        return load_outside(name)
    if name.endswith(".py"):
        raise InputError(f"agent {name!r} is a file: expected {name}:NAME, a function or a class in it")
    if name in named_policies() or name.endswith(".safetensors") or Path(name).is_file():
        return load_policy(name)
    raise InputError(f"agent {name!r} is unknown: expected {known_agents()}")


def known_agents() -> str:
    """What `orchestrator` takes, for whoever named something else."""
    known = ", ".join([*HEURISTICS, *STATICS, *PLANNERS, f"{TUNED}HEURISTIC", f"{FIXED}SHARExH", *named_policies()])
    return f"a .safetensors file, FILE.py:NAME or one of {known}"


def is_agent(name: str) -> bool:
    """Whether `orchestrator` takes a name, files that do not load aside."""
    named = (*HEURISTICS, *STATICS, *PLANNERS, *named_policies())
    return name in named or name.startswith((FIXED, TUNED)) or is_outside(name) or Path(name).is_file()


def benchmark(
    agents: Sequence[Orchestrator],
    scenario: Scenario,
    episodes: int,
    max_machines: int | None = None,
    on_episode: Callable[[], None] = lambda: None,
) -> list[EpisodeResult]:
    """Every agent on the same held-out episodes of one scenario, on the fast tier.

    Args:
        agents: who decides.
        scenario: where.
        episodes: how many, seeds `HELD_OUT_SEED` onwards.
        max_machines: K_max; None takes `room_for` the scenario.
        on_episode: called after each.
    """
    env = OrchestrationEnv(scenario, reward="efficiency", max_machines=max_machines or room_for(scenario))
    results = []
    for agent in agents:
        for e in range(episodes):
            results.append(play_episode(agent, env, HELD_OUT_SEED + e))
            on_episode()
    return results


@dataclass(frozen=True)
class Summary:
    """Scores of one agent on one scenario.

    Attributes:
        agent: name.
        scenario: name.
        mean: mean log-efficiency.
        low: lower end of its 95 % bootstrap interval.
        high: upper end.
        efficiency: exp(mean): geometric mean efficiency.
        reached: fraction of episodes that reached the target.
        time_s: mean seconds.
        energy_j: mean joules.
        bytes: mean bytes.
        rounds: mean rounds.
        episodes: how many.
    """

    agent: str
    scenario: str
    mean: float
    low: float
    high: float
    efficiency: float
    reached: float
    time_s: float
    energy_j: float
    bytes: float
    rounds: float
    episodes: int


def bootstrap(values: NDArray[np.float64], draws: int = 2000, seed: int = 0) -> tuple[float, float]:
    """95 % percentile bootstrap interval of the mean."""
    rng = np.random.default_rng(seed)
    means = values[rng.integers(len(values), size=(draws, len(values)))].mean(axis=1)
    return float(np.quantile(means, 0.025)), float(np.quantile(means, 0.975))


def summarise(results: Sequence[EpisodeResult]) -> list[Summary]:
    """One summary per (scenario, agent), best first within a scenario."""
    cells: dict[tuple[str, str], list[EpisodeResult]] = {}
    for result in results:
        cells.setdefault((result.scenario, result.agent), []).append(result)
    out = []
    for (scenario, agent), cell in cells.items():
        scores = np.array([r.log_efficiency for r in cell])
        low, high = bootstrap(scores)

        def mean(name: str, cell: list[EpisodeResult] = cell) -> float:
            return float(np.mean([getattr(r, name) for r in cell]))

        out.append(
            Summary(
                agent, scenario, float(scores.mean()), low, high, float(np.exp(scores.mean())), mean("reached"),
                mean("time_s"), mean("energy_j"), mean("bytes"), mean("rounds"), len(cell),
            )
        )  # fmt: skip
    order = {name: i for i, name in enumerate(dict.fromkeys(s.scenario for s in out))}
    return sorted(out, key=lambda s: (order[s.scenario], -s.mean))


@dataclass(frozen=True)
class Comparison:
    """A paired difference of mean log-efficiency over the same episodes.

    Attributes:
        agent: whose advantage.
        over: over whom.
        difference: mean.
        low: lower end of its 95 % bootstrap interval.
        high: upper end.
        factor: exp(difference): how many times more efficient.
        episodes: how many pairs.
    """

    agent: str
    over: str
    difference: float
    low: float
    high: float
    factor: float
    episodes: int


def compare(results: Sequence[EpisodeResult], agent: str, over: str) -> Comparison:
    """Paired comparison of two agents over the (scenario, seed) pairs that both played."""
    scores: dict[str, dict[tuple[str, int], float]] = {agent: {}, over: {}}
    for r in results:
        if r.agent in scores:
            scores[r.agent][(r.scenario, r.seed)] = r.log_efficiency
    pairs = sorted(scores[agent].keys() & scores[over].keys())
    difference = np.array([scores[agent][p] - scores[over][p] for p in pairs])
    low, high = bootstrap(difference)
    mean = float(difference.mean())
    return Comparison(agent, over, mean, low, high, float(np.exp(mean)), len(pairs))
