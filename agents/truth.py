"""Did the simulation tell the truth? What rounds really took, beside both simulated tiers, policy by policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from scipy.stats import spearmanr

from agents.episodes import EpisodeResult
from agents.report import COLOURS, tidy
from agents.tables import Grid
from fedcore.engines.remote import DONE
from scenarios.schema import Fleet

Tier = Sequence[EpisodeResult]
NEAR = 0.15
"""How near simulated rounds should come to real ones."""


def per_round(tier: Tier, agent: str, cost: str) -> float:
    """Mean of a cost ("time_s", "bytes", ...) per round, over all rounds of an agent's episodes; NaN where there are none."""
    own = [r for r in tier if r.agent == agent]
    return sum(getattr(r, cost) for r in own) / rounds if (rounds := sum(r.rounds for r in own)) else float("nan")


def mean_score(tier: Tier, agent: str) -> float:
    """Mean log-efficiency."""
    return float(np.mean([r.log_efficiency for r in tier if r.agent == agent]))


@dataclass(frozen=True)
class Truth:
    """One scenario.

    Attributes:
        real: runs on real machines.
        simulated: by tier, episodes of the same agents; where decisions are those of the real runs, scores are NaN.
        own_s: by agent, Flower's own seconds of a round, as `own_seconds` finds them.
    """

    real: Tier
    simulated: Mapping[str, Tier]
    own_s: Mapping[str, float]

    @property
    def agents(self) -> list[str]:
        """Best in reality first."""
        return sorted(dict.fromkeys(r.agent for r in self.real), key=lambda agent: -mean_score(self.real, agent))

    def off(self, tier: str, cost: str) -> dict[str, float]:
        """By agent, simulated over real cost of a round."""
        return {a: per_round(self.simulated[tier], a, cost) / per_round(self.real, a, cost) for a in self.agents}

    def spearman(self, tier: str) -> float:
        """Rank correlation of scores; NaN for fewer than three agents."""
        scores = [[mean_score(episodes, a) for a in self.agents] for episodes in (self.simulated[tier], self.real)]
        return float(spearmanr(*scores).statistic) if len(self.agents) > 2 else float("nan")

    def scored(self, tier: str) -> bool:
        """Whether a tier's episodes have scores."""
        return not any(np.isnan(r.log_efficiency) for r in self.simulated[tier])


def own_seconds(machines: Sequence[Mapping[str, Mapping[str, Any]]], fleet: Fleet) -> list[float]:
    """Seconds between sending a block and having its answer that neither training nor the link's rate explains.

    Args:
        machines: per round, by machine, `MachineRound`'s figures.
        fleet: what links are said to be; those that replay a trace are left out.

    Returns:
        One for every block that came back.
    """
    links = {name: group.link for name, group in zip(fleet.machine_names, fleet.machines, strict=True)}
    own = []
    for asked in machines:
        for name, m in asked.items():
            if m["status"] == DONE and links[name].trace is None:
                moved_s = 8e-6 * (m["received_bytes"] / links[name].downlink_mbps + m["sent_bytes"] / links[name].uplink_mbps)
                own.append(m["elapsed_s"] - m["node_s"] - moved_s)
    return own


def truth_grid(truth: Truth, scenario: str) -> Grid:
    """One row per policy, and one of what all say together."""
    rows = []
    for agent in truth.agents:
        row = [agent, f"{per_round(truth.real, agent, 'time_s'):.1f}", f"{truth.own_s[agent]:.1f}"]
        row += [f"{per_round(truth.real, agent, 'bytes') / 1e6:.2f}", f"{mean_score(truth.real, agent):+.2f}"]
        for tier in truth.simulated:
            row += [f"{truth.off(tier, cost)[agent]:.2f}" for cost in ("time_s", "bytes")]
            if truth.scored(tier):
                row.append(f"{mean_score(truth.simulated[tier], agent):+.2f}")
        rows.append(tuple(row))
    last = ["all", "", "", "", ""]
    for tier in truth.simulated:
        for cost in ("time_s", "bytes"):
            ratios = np.array(list(truth.off(tier, cost).values()))
            near = int((np.abs(ratios - 1.0) <= NEAR).sum())
            last.append(f"{near} of {len(ratios)} within {NEAR:.0%}")
        if truth.scored(tier):
            last.append(f"Spearman {truth.spearman(tier):.2f}" if len(truth.agents) > 2 else "")
    columns = ["policy", "s per round, real", "of them Flower's", "MB per round, real", "ln efficiency, real"]
    for tier in truth.simulated:
        columns += [f"{tier}: s / real", "MB / real", *(["ln efficiency"] if truth.scored(tier) else [])]
    return Grid(f"{scenario}: real machines and simulation", tuple(columns), (*rows, tuple(last)))


def truth_plot(truth: Truth) -> Figure:
    """Seconds of a round, simulated against real, and scores."""
    figure = Figure(figsize=(10, 4.4), layout="constrained")
    seconds, scores = figure.subplots(1, 2)
    for axes, of in ((seconds, lambda tier, a: per_round(tier, a, "time_s")), (scores, mean_score)):
        real = [of(truth.real, a) for a in truth.agents]
        for (name, tier), colour in zip(truth.simulated.items(), COLOURS, strict=False):
            axes.scatter(real, [of(tier, a) for a in truth.agents], color=colour, label=name)
        low, high = min(real), max(real)
        axes.plot([low, high], [low, high], color="#999999", lw=0.8, zorder=0)
        for agent, x in zip(truth.agents, real, strict=True):
            at = of(list(truth.simulated.values())[-1], agent)
            axes.annotate(agent, (x, at), xytext=(4, 4), textcoords="offset points", fontsize=7)
    low, high = seconds.get_xlim()
    seconds.fill_between([low, high], np.array([low, high]) * (1 - NEAR), np.array([low, high]) * (1 + NEAR), alpha=0.12, lw=0)
    seconds.set_xlim(low, high)
    tidy(seconds, "seconds of a round on real machines", f"simulated (band: {NEAR:.0%})")
    tidy(scores, "ln efficiency on real machines", "simulated")
    seconds.legend(frameon=False)
    return figure
