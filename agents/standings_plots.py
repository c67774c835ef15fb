"""Standings as plots."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from agents.report import COLOURS, MARKS, plain_log, tidy
from agents.standings import Standings
from agents.statistics import pareto, profile, profile_band

SHOWN = 7
"""Agents that a plot of curves shows: more cannot be told apart."""


def _order(standings: Standings) -> list[str]:
    return standings.order(standings.groups()["all"])


def score_plot(standings: Standings) -> Figure:
    """Every agent's interquartile mean with its interval, one panel per split."""
    groups = {name: members for name, members in standings.groups().items() if ":" not in name}
    agents = _order(standings)[::-1]
    columns = min(len(groups), 4)
    rows = -(-len(groups) // columns)
    figure = Figure(figsize=(3.3 * columns + 1.0, rows * (0.24 * len(agents) + 1.3)), layout="constrained")
    panels = figure.subplots(rows, columns, sharey=True, squeeze=False).ravel()
    for axes, (group, names) in zip(panels, groups.items(), strict=False):
        found = dict(standings.ranked(names))
        best = max(e.value for e in found.values())
        for i, agent in enumerate(agents):
            e = found[agent]
            colour = COLOURS[1] if e.value == best else COLOURS[0]
            axes.errorbar(e.value, i, xerr=[[e.value - e.low], [e.high - e.value]], fmt="o", ms=4, color=colour, capsize=3)
        axes.set_yticks(range(len(agents)), agents, fontsize=9)
        axes.axvline(0.0, color="#888", lw=1)
        tidy(axes, "IQM ln efficiency", "")
        axes.set_title(f"{group} ({len(names)})", fontsize=10)
    for axes in panels[len(groups) :]:
        axes.set_visible(False)
    return figure


def profile_plot(standings: Standings) -> Figure:
    """Fraction of runs that score above each threshold, of the best agents, with bands."""
    names, figure = standings.groups()["all"], Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    agents = _order(standings)
    shown = agents[:SHOWN] + [a for a in ("fedavg",) if a in agents[SHOWN:]]
    every = np.concatenate([s for agent in shown for s in standings.scores(agent, names)])
    thresholds = np.linspace(float(np.quantile(every, 0.005)), float(np.quantile(every, 0.995)), 121)
    for i, agent in enumerate(shown):
        scores, colour = standings.scores(agent, names), COLOURS[i % len(COLOURS)]
        axes.plot(thresholds, profile(scores, thresholds), color=colour, lw=1.8, label=agent)
        axes.fill_between(thresholds, *profile_band(scores, thresholds), color=colour, alpha=0.15, lw=0)
    axes.legend(frameon=False, fontsize=9)
    axes.set_ylim(0, 1)
    tidy(axes, "threshold of ln efficiency (0: the reference policy)", "fraction of runs above it")
    return figure


def improvement_map(standings: Standings) -> Figure:
    """Probability of improvement of every agent over every other."""
    names, agents = standings.groups()["all"], _order(standings)
    values = np.array([[standings.chance(a, b, names) for b in agents] for a in agents])
    size = 0.42 * len(agents) + 1.8
    figure = Figure(figsize=(size + 0.6, size), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(values, cmap="RdBu", vmin=0, vmax=1)
    for i in range(len(agents)):
        for j in range(len(agents)):
            dark = abs(values[i, j] - 0.5) > 0.3
            axes.text(j, i, f"{values[i, j]:.2f}", ha="center", va="center", fontsize=7, color="white" if dark else "black")
    axes.set_xticks(range(len(agents)), agents, rotation=60, ha="right", fontsize=8)
    axes.set_yticks(range(len(agents)), agents, fontsize=8)
    figure.colorbar(image, ax=axes, shrink=0.7, label="P(row beats column)")
    return figure


def cost_plots(standings: Standings) -> Figure:
    """Time, energy and bytes over the reference's, pair by pair; who is undercut by nobody in all three is ringed."""
    names, agents = standings.groups()["all"], _order(standings)
    costs = np.array([standings.costs(agent, names) for agent in agents])
    front = pareto(costs)
    figure = Figure(figsize=(12, 4.6), layout="constrained")
    titles = ("time / reference", "energy / reference", "bytes / reference")
    for axes, (i, j) in zip(figure.subplots(1, 3), ((0, 1), (0, 2), (1, 2)), strict=True):
        for n, agent in enumerate(agents):
            axes.scatter(
                costs[n, i], costs[n, j], s=45, marker=MARKS[n // len(COLOURS) % len(MARKS)], color=COLOURS[n % len(COLOURS)],
                label=f"{agent} ({100 * standings.success(agent, names):.0f} %)" if axes is figure.axes[0] else None,
            )  # fmt: skip
            if front[n]:
                axes.scatter(costs[n, i], costs[n, j], s=130, facecolors="none", edgecolors="#222", lw=1.2)
        plain_log(axes)
        tidy(axes, titles[i], titles[j])
    figure.legend(loc="outside right center", frameon=False, fontsize=8, title="agent (reached)")
    return figure


def heat_map(standings: Standings) -> Figure:
    """Every agent's interquartile mean in every scenario."""
    names, agents = standings.groups()["all"], _order(standings)
    values = np.array([[standings.middle(agent, [name]) for agent in agents] for name in names])
    height = max(0.24 * len(names) + 1.8, 3.4)
    figure = Figure(figsize=(0.5 * len(agents) + 3.2, height), layout="constrained")
    axes = figure.add_subplot()
    limit = float(np.abs(values).max())
    image = axes.imshow(values, cmap="RdBu", vmin=-limit, vmax=limit, aspect="auto")
    for i in range(len(names)):
        best = int(values[i].argmax())
        for j in range(len(agents)):
            axes.text(
                j, i, f"{values[i, j]:+.1f}", ha="center", va="center", fontsize=6.5,
                color="white" if abs(values[i, j]) > 0.65 * limit else "black", weight="bold" if j == best else "normal",
            )  # fmt: skip
    axes.set_xticks(range(len(agents)), agents, rotation=60, ha="right", fontsize=8)
    axes.set_yticks(range(len(names)), names, fontsize=7)
    figure.colorbar(image, ax=axes, shrink=min(1.0, 4.0 / height), label="IQM ln efficiency")
    return figure
