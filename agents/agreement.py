"""Does simulation rank policies as real training does? The same policies on both tiers, scenario by scenario."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.stats import spearmanr

from agents.benchmark import EpisodeResult
from agents.report import COLOURS
from agents.tables import Grid

POLICIES = (
    "equal", "fedavg", "speed", "makespan", "energy", "deadline", "adacomm", "enough", "proven",
    "fixed:1x40/1", "fixed:1x40/2", "fixed:0.5x40", "fixed:0.25x20",
)  # fmt: skip
"""Compared by default: heuristics of every kind, and fixed decisions from one machine alone to small shares for everyone."""
COSTS = ("time_s", "energy_j", "bytes", "rounds")


@dataclass(frozen=True)
class Agreement:
    """One scenario; every array runs over the policies.

    Attributes:
        scenario: name.
        policies: names.
        simulated: mean log-efficiency in simulation.
        real: mean log-efficiency on real training.
        cost_ratio: (policies, 4) simulated over real mean seconds, joules, bytes and rounds, over episodes that reached the
            target; NaN where either tier has none.
    """

    scenario: str
    policies: tuple[str, ...]
    simulated: NDArray[np.float64]
    real: NDArray[np.float64]
    cost_ratio: NDArray[np.float64]

    @property
    def spearman(self) -> float:
        """Rank correlation of the tiers; NaN for fewer than three policies."""
        return float(spearmanr(self.simulated, self.real).statistic) if len(self.policies) > 2 else float("nan")

    @property
    def best_kept(self) -> float:
        """Real efficiency of the policy that simulation likes best, over the best real one's."""
        return float(np.exp(self.real[int(np.argmax(self.simulated))] - self.real.max()))

    @property
    def bias(self) -> NDArray[np.float64]:
        """Median ratio of simulated to real seconds, joules, bytes and rounds, (4,)."""
        none = np.full(len(COSTS), np.nan)
        return np.asarray(np.nanmedian(self.cost_ratio, axis=0)) if np.isfinite(self.cost_ratio).any() else none


def agreement(simulated: Sequence[EpisodeResult], real: Sequence[EpisodeResult]) -> list[Agreement]:
    """Compare the tiers.

    Args:
        simulated: episodes of the fast tier.
        real: episodes of the real tier, of the same agents and scenarios.
    """
    out = []
    for scenario in dict.fromkeys(r.scenario for r in real):
        policies = tuple(dict.fromkeys(r.agent for r in real if r.scenario == scenario))

        def cell(results: Sequence[EpisodeResult], policy: str, scenario: str = scenario) -> list[EpisodeResult]:
            return [r for r in results if r.scenario == scenario and r.agent == policy]

        scores = [[np.mean([r.log_efficiency for r in cell(tier, p)]) for p in policies] for tier in (simulated, real)]
        ratios = np.full((len(policies), len(COSTS)), np.nan)
        for i, policy in enumerate(policies):
            reached = [[r for r in cell(tier, policy) if r.reached] for tier in (simulated, real)]
            if all(reached):
                for j, cost in enumerate(COSTS):
                    # Costs of runs spread like products of factors, so their geometric means are compared.
                    means = [np.mean(np.log([getattr(r, cost) for r in tier])) for tier in reached]
                    ratios[i, j] = np.exp(means[0] - means[1])
        out.append(Agreement(scenario, policies, np.array(scores[0]), np.array(scores[1]), ratios))
    return out


def agreement_grid(found: Sequence[Agreement]) -> Grid:
    """One row per scenario."""
    rows = tuple(
        (
            a.scenario,
            f"{a.spearman:.2f}",
            a.policies[int(np.argmax(a.simulated))],
            a.policies[int(np.argmax(a.real))],
            f"{a.best_kept:.2f}",
            *(f"{ratio:.2f}" for ratio in a.bias),
        )
        for a in found
    )
    columns = (
        "scenario", "Spearman", "best in simulation", "best on real training", "keeps", "time", "energy", "bytes", "rounds"
    )  # fmt: skip
    note = (
        "keeps: real efficiency of simulation's favourite over the best real one; time, energy, bytes, rounds: simulated over "
        "real, to the target, median over policies"
    )
    return Grid("Does simulation rank policies as real training does?", columns, rows, note)


def policy_grid(a: Agreement) -> Grid:
    """One row per policy of a scenario, best on real training first."""
    order = np.argsort(-a.real)
    ratio = [["-" if np.isnan(v) else f"{v:.2f}" for v in row] for row in a.cost_ratio]
    rows = tuple((a.policies[i], f"{a.simulated[i]:+.2f}", f"{a.real[i]:+.2f}", *ratio[i]) for i in order)
    columns = ("policy", "ln efficiency, simulated", "real", "time, simulated / real", "energy", "bytes", "rounds")
    return Grid(f"{a.scenario}: both tiers", columns, rows)


def agreement_plot(found: Sequence[Agreement]) -> Figure:
    """Simulated against real log-efficiency, one colour per scenario."""
    figure = Figure(figsize=(6.4, 5.6), layout="constrained")
    axes = figure.subplots()
    for a, colour in zip(found, COLOURS * len(found), strict=False):
        axes.scatter(a.simulated, a.real, color=colour, label=f"{a.scenario} (Spearman {a.spearman:.2f})")
        for name, x, y in zip(a.policies, a.simulated, a.real, strict=True):
            axes.annotate(name.removeprefix("fixed:"), (x, y), xytext=(3, 3), textcoords="offset points", fontsize=6)
    ends = [min(axes.get_xlim()[0], axes.get_ylim()[0]), max(axes.get_xlim()[1], axes.get_ylim()[1])]
    axes.plot(ends, ends, color="#999999", linewidth=0.8, zorder=0)
    axes.set(xlabel="ln efficiency in simulation", ylabel="ln efficiency on real training")
    axes.legend(fontsize=8)
    return figure
