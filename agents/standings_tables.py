"""Standings as tables."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from agents.best_static import BEST_STATIC, STATICS
from agents.fixed import FIXED
from agents.frozen import named_policies
from agents.greedy_mpc import PLANNERS
from agents.heuristics import HEURISTICS
from agents.standings import COST_NAMES, COSTS, FIELD, NAIVE, Standings
from agents.statistics import Estimate
from agents.tables import Grid
from agents.tuned import TUNED

FASTER, THRIFTIER = 3.6, 5.2
AUTOFL = (
    f"AutoFL (Kim and Wu, MICRO 2021) reports {FASTER} times faster convergence and up to {THRIFTIER} times the energy "
    "efficiency."
)


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
                "-" if not runs else f"{lost.value:+.2f} ({_range(lost)})",
            )
        )
    seen = (
        f" Regret to the clairvoyant planner, which sees what nobody can: mean over {runs} episodes, the first {planned} of "
        "each scenario that it plays, and its bootstrap interval over all of them."
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
        rows = [(agent, *_less(standings, agent, names)) for agent in standings.order(names) if agent != NAIVE]
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
    return out + _field_grid(standings)


def _less(standings: Standings, agent: str, names: Sequence[str]) -> list[str]:
    """Cells of how much less of each cost an agent needs than whole models on everyone, and how often it got there."""
    found = [standings.thriftier(agent, NAIVE, names, cost) for cost in COSTS]
    cells = [f"x {middle:.1f} ({low:.1f} .. {high:.1f})" for middle, low, high in found]
    return [*cells, f"{100 * standings.success(agent, names):.0f} %"]


def _field_grid(standings: Standings) -> list[Grid]:
    """The same of the best agent, field scenario by field scenario."""
    names = standings.groups().get(FIELD, [])
    order = [agent for agent in standings.order(standings.groups()["all"]) if agent != NAIVE]
    if not names or not order:
        return []
    best = order[0]
    reach = [
        all(
            standings.thriftier(best, NAIVE, [name], cost)[0] >= wanted
            for cost, wanted in (("time_s", FASTER), ("energy_j", THRIFTIER))
        )
        for name in names
    ]
    return [
        Grid(
            f"Less than FedAvg needs, field scenario by field scenario: {best}",
            ("scenario", *(f"less {name}" for name in COST_NAMES), "reached"),
            tuple((name, *_less(standings, best, [name])) for name in names),
            f"Counted as above. The median is at least x {FASTER} in time and x {THRIFTIER} in energy in {sum(reach)} of "
            f"{len(names)} scenarios.",
        )
    ]


def decided_grid(standings: Standings) -> Grid:
    """What agents decide: whom they ask, for how much and for how long."""
    names = standings.groups()["all"]
    found = {agent: standings.decided(agent, names) for agent in standings.order(names)}
    decided = {agent: means for agent, means in found.items() if np.isfinite(means).all()}  # else kept before it was counted
    note = (
        "Means over rounds and episodes, every scenario weighing alike: machines given a share, the share that they get, how "
        "many of them get all that fits their memory, and H over the longest on the scenario's menu."
    )
    best = next((agent for agent in decided if _learned(agent)), None)
    if best is not None:
        asked, _, whole, interval = decided[best]
        note += (
            f" {best} asks {asked:.1f} machines in a round, {100 * whole:.0f} % of them for all that fits, at {interval:.2f} "
            "of the longest H"
        ) + (
            ": it schedules whole models, one machine at a time, and splits no layer where a model fits."
            if asked < 1.5 and whole > 0.9
            else "."
        )
    return Grid(
        "What agents decide",
        ("agent", "machines asked per round", "share of those asked", "asked for all that fits", "H / longest"),
        tuple(
            (agent, f"{asked:.2f}", f"{share:.2f}", f"{100 * whole:.0f} %", f"{interval:.2f}")
            for agent, (asked, share, whole, interval) in decided.items()
        ),
        note,
    )


def _learned(agent: str) -> bool:
    """Whether an agent is neither a rule, nor a planner, nor a fixed decision of ours."""
    return agent not in (*HEURISTICS, *STATICS, *PLANNERS) and not agent.startswith((FIXED, TUNED))


def _by_rule(agent: str) -> bool:
    return agent in HEURISTICS or agent.startswith(TUNED)


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
            "by search on the scenario's own training episodes. An ablation `context fixed` would be empty: context is the "
            "workload's and no part of a decision, and at share 1 nothing is left to be seen.",
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
        order = [best, *(agent for agent, _ in rest)]
        learned, rule = next(filter(_learned, order), None), next(filter(_by_rule, order), None)
        gain = standings.gain(learned, rule, [name]) if learned and rule else None
        rows.append(
            (
                name,
                case.split,
                str(len(case.scenario.fleet.machine_names)),
                f"{best} {score.value:+.2f} ({_range(score)})",
                f"{rest[0][0]} {rest[0][1].value:+.2f}" if rest else "-",
                f"{learned} over {rule} {_factor(gain)}" if gain else "-",
                *(f"{standings.middle(agent, [name]):+.2f}" for agent in shown),
                f"{lost.value:+.2f} ({planned})" if planned else "-",
            )
        )
    return Grid(
        "Scenario by scenario: IQM of ln efficiency",
        ("scenario", "split", "machines", "best agent", "second", "best policy over best rule, paired", *shown,
         "regret to clairvoyant (episodes)"),
        tuple(rows),
        "All agents: scenarios.png, episodes.csv. Intervals of IQMs are wider than what tells agents apart on the same "
        "episodes: paired, the learned policy of the highest IQM over such a heuristic, times as efficient, IQM with its "
        "interval. Regret: what the best agent loses to the clairvoyant planner, mean over the same episodes.",
    )  # fmt: skip
