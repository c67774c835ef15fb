"""Standings as tables."""

from __future__ import annotations

import numpy as np

from agents.best_static import BEST_STATIC, STATICS
from agents.frozen import named_policies
from agents.standings import COST_NAMES, COSTS, FIELD, NAIVE, Standings
from agents.statistics import Estimate
from agents.tables import Grid

AUTOFL = "AutoFL (Kim and Wu, MICRO 2021) reports 3.6 times faster convergence and up to 5.2 times the energy efficiency."


def _range(e: Estimate) -> str:
    return f"{e.low:+.2f} .. {e.high:+.2f}"


def _factor(e: Estimate) -> str:
    return f"x {np.exp(e.value):.2f} ({np.exp(e.low):.2f} .. {np.exp(e.high):.2f})"


def overall_grid(standings: Standings, planned: int) -> Grid:
    """Every agent over everything."""
    names = standings.groups()["all"]
    runs = 0
    rows = []
    for agent, estimate in standings.ranked(names):
        costs = standings.costs(agent, names)
        lost, runs = standings.regret(agent, names)
        static = standings.gain(BEST_STATIC, agent, names).value if BEST_STATIC in standings.agents else None
        rows.append(
            (
                agent,
                f"{estimate.value:+.2f}",
                _range(estimate),
                f"{np.exp(estimate.value):.2f}",
                f"{100 * standings.success(agent, names):.0f} %",
                *(f"{cost:.3g}" for cost in costs),
                "-" if static is None else f"{static:+.2f}",
                "-" if not runs else f"{lost:+.2f}",
            )
        )
    seen = (
        f" Regret to the clairvoyant planner, which sees what nobody can: mean over {runs} episodes, the first {planned} of "
        "each scenario that it plays."
    ) if runs else " The clairvoyant planner did not play."
    return Grid(
        f"Everything: {len(names)} scenarios",
        ("agent", "IQM ln efficiency", "95 % interval", "efficiency", "reached", "time / ref", "energy / ref", "bytes / ref",
         "regret to best-static", "regret to clairvoyant"),
        tuple(rows),
        "Costs: geometric means over all episodes, one that missed its target with what it had spent. Regret to best-static: "
        "IQM of ln efficiency lost to it on the same episodes (negative: better than it)." + seen,
    )  # fmt: skip


def group_grid(standings: Standings) -> Grid:
    """Every agent by split and by family of the library."""
    groups = standings.groups()
    rows = [
        (agent, *(f"{standings.middle(agent, names):+.2f}" for names in groups.values()))
        for agent in standings.order(groups["all"])
    ]
    return Grid(
        "By split and by family: IQM of ln efficiency",
        ("agent", *(f"{name} ({len(members)})" for name, members in groups.items())),
        tuple(rows),
        "In brackets, the number of scenarios. Intervals: summary.json and scores.png.",
    )


def over_grid(standings: Standings) -> list[Grid]:
    """The best agent over each other one, paired."""
    names = standings.groups()["all"]
    best, *others = standings.order(names)
    rows = []
    for other in others:
        gain, better = standings.gain(best, other, names), standings.better(best, other, names)
        shown = "yes" if gain.low > 0 else ("no" if gain.high < 0 else "not shown")
        rows.append(
            (other, _factor(gain), shown, f"{better.value:.2f} ({better.low:.2f} .. {better.high:.2f})")
        )
    if not rows:
        return []
    return [
        Grid(
            f"{best} over the others",
            ("over", "times as efficient", "better?", "probability of improvement"),
            tuple(rows),
            "IQM over paired episodes, stratified bootstrap; chance that a run scores more than one of the other's on the same "
            "scenario.",
        )
    ]


def naive_grid(standings: Standings) -> list[Grid]:
    """How much less of everything agents need than whole models on everyone with a fixed interval."""
    if NAIVE not in standings.agents:
        return []
    out = []
    for group, names in standings.groups().items():
        if group not in ("all", FIELD):
            continue
        rows = []
        for agent in standings.order(names):
            if agent != NAIVE:
                found = [standings.thriftier(agent, NAIVE, names, cost) for cost in COSTS]
                cells = [f"x {middle:.1f} ({low:.1f} .. {high:.1f})" for middle, low, high in found]
                rows.append((agent, *cells, f"{100 * standings.success(agent, names):.0f} %"))
        where = "everything" if group == "all" else "the library's heterogeneous field scenarios"
        out.append(
            Grid(
                f"Less than FedAvg needs, on {where}",
                ("agent", *(f"less {name}" for name in COST_NAMES), "reached"),
                tuple(rows),
                f"To the target, same episodes: median (quartiles) of FedAvg's cost over the agent's; FedAvg ({NAIVE}: whole "
                f"models, everyone, fixed H) reached {100 * standings.success(NAIVE, names):.0f} %. An agent's miss counts "
                f"as 0, FedAvg's with what it had spent. {AUTOFL}",
            )
        )
    return out


ABLATIONS = (
    (BEST_STATIC, "whole-static", "shares between 0 and 1, over whole models only"),
    (BEST_STATIC, "only-h", "choosing shares too, over H alone (everyone the reference's share)"),
    (BEST_STATIC, "only-shares", "choosing H too, over shares alone (the reference's H)"),
    ("greedy-mpc", "greedy-mpc-whole", "planning with shares between 0 and 1, over whole models only"),
    ("greedy-mpc", BEST_STATIC, "deciding anew every round, over the best fixed decision"),
    ("greedy-mpc", "enough", "planning, over the rule `enough`"),
)
"""(agent, over, what the difference is)."""


def tuned_grid(standings: Standings) -> list[Grid]:
    """What each part of a decision is worth: the same search with less to choose from."""
    groups = {name: members for name, members in standings.groups().items() if ":" not in name or name == FIELD}
    rows = [
        (f"{agent} over {over}", *(_factor(standings.gain(agent, over, names)) for names in groups.values()), what)
        for agent, over, what in ABLATIONS
        if agent in standings.agents and over in standings.agents
    ]
    if not rows:
        return []
    return [
        Grid(
            "What each part of a decision is worth",
            ("ablation", *groups, "what it shows"),
            tuple(rows),
            f"Times as efficient, IQM over paired episodes. {', '.join(STATICS)}: fixed decisions, each the best of its kind "
            "by search on the scenario's own training episodes.",
        )
    ]


def scenario_grid(standings: Standings) -> Grid:
    """Scenario by scenario: who wins, and the references."""
    shown = [a for a in (*named_policies(), "enough", "proven", BEST_STATIC, "whole-static", NAIVE) if a in standings.agents]
    rows = []
    for case in standings.cases:
        name = case.scenario.name
        (best, score), *rest = standings.ranked([name])
        lost, planned = standings.regret(best, [name])
        rows.append(
            (
                name,
                case.split,
                str(len(case.scenario.fleet.machine_names)),
                f"{best} {score.value:+.2f} ({_range(score)})",
                f"{rest[0][0]} {rest[0][1].value:+.2f}" if rest else "-",
                *(f"{standings.middle(agent, [name]):+.2f}" for agent in shown),
                f"{lost:+.2f} ({planned})" if planned else "-",
            )
        )
    return Grid(
        "Scenario by scenario: IQM of ln efficiency",
        ("scenario", "split", "machines", "best agent", "second", *shown, "regret to clairvoyant (episodes)"),
        tuple(rows),
        "All agents: scenarios.png, episodes.csv. Regret: what the best agent loses to the clairvoyant planner, mean over the "
        "same episodes.",
    )
