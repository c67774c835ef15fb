"""Standings: what many agents scored on many scenarios, in figures that hold for few runs (`agents.statistics`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from agents.episodes import EpisodeResult
from agents.splits import Case, family
from agents.statistics import Estimate, improvement, iqm, mean, paired_iqm, pooled_iqm, probability_of_improvement

Floats = NDArray[np.float64]
COSTS = ("time_s", "energy_j", "bytes", "co2e_kg")
COST_NAMES = ("time", "energy", "bytes", "carbon")
NAIVE = "fedavg"
FIELD = "named: field"
"""The group of the library's heterogeneous field scenarios."""


@dataclass(frozen=True)
class Standings:
    """Everything that was played.

    Attributes:
        cases: scenarios, in order.
        agents: names, in order.
        episodes: (agent, scenario) -> episodes, in the order of their seeds; the clairvoyant planner may have fewer.
        reference: scenario -> seconds, joules, bytes and rounds that the reference policy needs.
        planned: (scenario) -> episodes of the clairvoyant planner, of some of the seeds; {} where it did not play.
    """

    cases: tuple[Case, ...]
    agents: tuple[str, ...]
    episodes: Mapping[tuple[str, str], Sequence[EpisodeResult]]
    reference: Mapping[str, Sequence[float]]
    planned: Mapping[str, Sequence[EpisodeResult]] = field(default_factory=dict)

    def groups(self) -> dict[str, list[str]]:
        """Names of scenarios: all, by split, and by family of the library."""
        out: dict[str, list[str]] = {"all": [case.scenario.name for case in self.cases]}
        for case in self.cases:
            out.setdefault(case.split, []).append(case.scenario.name)
        for case in self.cases:
            if case.split == "named":
                out.setdefault(f"named: {family(case.scenario.name)}", []).append(case.scenario.name)
        return {name: members for name, members in out.items() if name == "all" or members != out["all"]}

    def scores(self, agent: str, scenarios: Iterable[str]) -> list[Floats]:
        """ln efficiency of an agent, (seeds,) per scenario."""
        return [np.array([r.log_efficiency for r in self.episodes[agent, name]]) for name in scenarios]

    def middle(self, agent: str, scenarios: Iterable[str]) -> float:
        """Interquartile mean of ln efficiency, without an interval."""
        return float(iqm(np.concatenate(self.scores(agent, scenarios))))

    def order(self, scenarios: Sequence[str]) -> list[str]:
        """Agents, the highest interquartile mean first."""
        return sorted(self.agents, key=lambda agent: -self.middle(agent, scenarios))

    def ranked(self, scenarios: Sequence[str]) -> list[tuple[str, Estimate]]:
        """Every agent's interquartile mean of ln efficiency, the best first."""
        found = [(agent, pooled_iqm(self.scores(agent, scenarios))) for agent in self.agents]
        return sorted(found, key=lambda f: -f[1].value)

    def success(self, agent: str, scenarios: Iterable[str]) -> float:
        """Fraction of episodes that reached the target, every scenario weighing alike."""
        return float(np.mean([np.mean([r.reached for r in self.episodes[agent, name]]) for name in scenarios]))

    def costs(self, agent: str, scenarios: Iterable[str]) -> Floats:
        """Geometric means of what episodes cost over what the reference needs, (time, energy, bytes); one that missed its
        target counts with what it had spent."""
        logs = [
            np.mean([np.log([r.time_s, r.energy_j, r.bytes]) for r in self.episodes[agent, name]], axis=0)
            - np.log(self.reference[name][:3])
            for name in scenarios
        ]
        return np.asarray(np.exp(np.mean(logs, axis=0)))

    def gain(self, agent: str, over: str, scenarios: Sequence[str]) -> Estimate:
        """Interquartile mean of ln efficiency gained over another agent on the same episodes."""
        return paired_iqm(self.scores(agent, scenarios), self.scores(over, scenarios))

    def chance(self, agent: str, over: str, scenarios: Sequence[str]) -> float:
        """Probability of improvement over another agent, without an interval."""
        pairs = zip(self.scores(agent, scenarios), self.scores(over, scenarios), strict=True)
        return float(np.mean([improvement(x, y) for x, y in pairs]))

    def better(self, agent: str, over: str, scenarios: Sequence[str]) -> Estimate:
        """Probability of improvement over another agent."""
        return probability_of_improvement(self.scores(agent, scenarios), self.scores(over, scenarios))

    def thriftier(self, agent: str, over: str, scenarios: Sequence[str], cost: str) -> tuple[float, float, float]:
        """How many times less of a cost an agent needs to reach the target than another on the same episodes: median and
        quartiles. An agent that misses counts as needing infinitely much; the other's miss as needing what it had spent,
        which favours the other."""
        ratios = []
        for name in scenarios:
            for own, others in zip(self.episodes[agent, name], self.episodes[over, name], strict=True):
                spent = max(float(getattr(own, cost)), 1e-12)
                ratios.append(float(getattr(others, cost)) / spent if own.reached else 0.0)
        low, middle, high = np.quantile(ratios, (0.25, 0.5, 0.75))
        return float(middle), float(low), float(high)

    def regret(self, agent: str, scenarios: Iterable[str]) -> tuple[Estimate, int]:
        """Mean ln efficiency lost to the clairvoyant planner on the episodes that it played, and their number. The interval is
        the bootstrap's over all of them: few of each scenario are played."""
        lost = []
        for name in scenarios:
            own = {r.seed: r.log_efficiency for r in self.episodes[agent, name]}
            lost += [r.log_efficiency - own[r.seed] for r in self.planned.get(name, ()) if r.seed in own]
        return mean(np.array(lost)), len(lost)

    def decided(self, agent: str, scenarios: Iterable[str]) -> Floats:
        """What an agent decides, (asked, share, whole, interval) of `EpisodeResult`, every scenario weighing alike; NaN where
        it was not counted."""
        each = [[(r.asked, r.share, r.whole, r.interval) for r in self.episodes[agent, name]] for name in scenarios]
        return np.asarray(np.mean([np.mean(np.array(there, dtype=np.float64), axis=0) for there in each], axis=0))

    def carbon(self, agent: str, scenarios: Iterable[str]) -> float:
        """Geometric mean of kg of CO2e, every scenario weighing alike."""
        logs = [np.mean(np.log([max(r.co2e_kg, 1e-12) for r in self.episodes[agent, name]])) for name in scenarios]
        return float(np.exp(np.mean(logs)))
