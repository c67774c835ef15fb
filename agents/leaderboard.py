"""The benchmark: agents x scenarios x seeds on the fast tier, kept cell by cell under names that tell their content, and
what is written of it: tables, CSV, JSON, Markdown, PNG files and report.html. `python evaluate.py --benchmark`."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from agents.agent_key import agent_key
from agents.benchmark import HELD_OUT_SEED, orchestrator
from agents.best_static import BEST_STATIC, STATICS
from agents.clairvoyant import CLAIRVOYANT, play_clairvoyant
from agents.cli import console, judge_with_bars
from agents.content import code_of
from agents.episodes import EpisodeResult, play_together
from agents.greedy_mpc import PLANNERS
from agents.heuristics import HEURISTICS
from agents.judge import Cell, Judgement, cell_scenario
from agents.naming import labels
from agents.own_target import own_target
from agents.report import Report, real_curves
from agents.splits import Case
from agents.standings import COST_NAMES, COSTS, NAIVE, Standings
from agents.standings_plots import cost_plots, heat_map, improvement_map, profile_plot, score_plot
from agents.standings_tables import (
    decided_grid,
    group_grid,
    naive_grid,
    over_grid,
    overall_grid,
    scenario_grid,
    tuned_grid,
)
from agents.tables import Grid, probe_grids, real_grid
from envs.orchestration import OrchestrationEnv
from fedcore.dynamics import load_calibration
from fedcore.files import cache_folder, content_key, write_bytes, write_page, write_text
from fedcore.parallel import Job, run_kept, worker_pool
from fedcore.ray_pool import ray_pool
from fedcore.world import compile_world, room_for
from scenarios import Scenario
from scenarios.sources import sources_of

VERSION = 2
"""Part of every kept cell's name: raise it when `play_cell` comes to mean something else."""
AGENTS = (*HEURISTICS, *STATICS, *PLANNERS)
"""Who plays unless told otherwise."""
PLOTS = {"scores": "interquartile means by split", "profiles": "performance profiles"}
"""That the Markdown page shows, and what they are in words."""
UNPLANNED = ("larger-fleets",)
"""Splits that the clairvoyant planner leaves out: it tries each machine alone, and takes minutes an episode there."""


@dataclass(frozen=True)
class Played:
    """What is to be played.

    Attributes:
        agents: names that `benchmark.orchestrator` takes.
        cases: scenarios.
        seeds: episodes of each agent and scenario, seeds `HELD_OUT_SEED` onwards.
        planned: of them, how many the clairvoyant planner plays too, where it plays.
        workers: processes.
        cluster: whether they are a Ray cluster's.
    """

    agents: tuple[str, ...]
    cases: tuple[Case, ...]
    seeds: int = 30
    planned: int = 3
    workers: int = 2
    cluster: bool = False


def play_cell(agent: str, scenario: dict[str, Any], seeds: list[int]) -> dict[str, Any]:
    """One agent on one scenario: its episodes, and what the reference policy needs; from and to JSON values."""
    where = Scenario.model_validate(scenario)
    if agent == CLAIRVOYANT:
        env = OrchestrationEnv(where, reward="efficiency", max_machines=room_for(where))
        episodes = [replace(play_clairvoyant(env, seed), curve=[]) for seed in seeds]
    else:
        episodes = play_together(orchestrator(agent, where), where, seeds)
    reference = compile_world(where).reference
    return {
        "episodes": [e.to_dict() for e in episodes],
        "reference": [reference.time_s, reference.energy_j, reference.bytes, reference.rounds],
    }


def scenario_key(case: Case) -> str:
    """What decides what happens in a scenario: itself, its calibration, the recorded traces that it names."""
    sources = sources_of(case.scenario)
    calibration = load_calibration(case.scenario.workload.calibration).to_json()
    content = case.scenario.model_dump(mode="json")
    for group in content["fleet"]["groups"]:  # by content, wherever the files lie
        group["link"]["trace"] = None
    return content_key(json.dumps(content, sort_keys=True), calibration, *sources)


def play(what: Played) -> Standings:
    """Play what is missing, side by side; an interrupted run goes on where it stopped.

    Raises:
        InputError: an agent or a scenario does not load.
    """
    simulator = code_of("agents.episodes")
    jobs: dict[Path, Job] = {}
    paths: dict[tuple[str, str], list[Path]] = {}
    folder = cache_folder("benchmark")
    keys = {agent: agent_key(agent) for agent in (*what.agents, CLAIRVOYANT)}
    seeds = [HELD_OUT_SEED + i for i in range(what.seeds)]
    for case in what.cases:
        content, where = case.scenario.model_dump(mode="json"), scenario_key(case)
        cells = [(agent, seeds) for agent in what.agents]
        if case.split not in UNPLANNED:
            cells += [(CLAIRVOYANT, [seed]) for seed in seeds[: what.planned]]
        for agent, own in cells:
            name = content_key(VERSION, simulator, keys[agent], where, own)
            path = folder / f"{case.scenario.name}-{name}.json"
            jobs[path] = (play_cell, (agent, content, own))
            paths.setdefault((agent, case.scenario.name), []).append(path)
    kept = run_kept(jobs, what.workers, "benchmark", ray_pool if what.cluster else worker_pool)
    shown = labels(what.agents)

    def episodes(agent: str, scenario: str) -> list[EpisodeResult]:
        name = shown.get(agent, agent)
        cells = [kept[path]["episodes"] for path in paths.get((agent, scenario), [])]
        return [EpisodeResult(**{**episode, "agent": name, "scenario": scenario}) for cell in cells for episode in cell]

    names = [case.scenario.name for case in what.cases]
    return Standings(
        what.cases,
        tuple(shown.values()),
        {(shown[agent], name): episodes(agent, name) for agent in what.agents for name in names},
        {name: kept[paths[what.agents[0], name][0]]["reference"] for name in names},
        {name: found for name in names if (found := episodes(CLAIRVOYANT, name))},
    )


def episodes_csv(standings: Standings) -> str:
    """Every episode as a row."""
    splits = {case.scenario.name: case.split for case in standings.cases}
    buffer = io.StringIO()
    columns = [name for name in EpisodeResult.__dataclass_fields__ if name != "curve"]
    writer = csv.DictWriter(buffer, ["split", *columns], extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for many in (*standings.episodes.values(), *standings.planned.values()):
        for episode in many:
            writer.writerow({"split": splits[episode.scenario], **asdict(episode)})
    return buffer.getvalue()


def summary_json(standings: Standings) -> str:
    """Every group's aggregates: estimates with their intervals, costs as the tables have them, co2e_kg the geometric mean,
    less_than_fedavg medians and quartiles, probability_of_improvement over each other agent, and regrets in ln efficiency."""
    groups = standings.groups()

    def regret(agent: str, names: list[str]) -> dict[str, float]:
        lost, episodes = standings.regret(agent, names)
        return {**asdict(lost), "episodes": episodes}

    def less(agent: str, names: list[str]) -> dict[str, Any] | None:
        if NAIVE not in standings.agents:
            return None
        return {name: standings.thriftier(agent, NAIVE, names, cost) for name, cost in zip(COST_NAMES, COSTS, strict=True)}

    out = {
        group: {
            agent: {
                "iqm_ln_efficiency": asdict(estimate),
                "success": standings.success(agent, names),
                "costs_of_reference": standings.costs(agent, names).tolist(),
                "co2e_kg": standings.carbon(agent, names),
                "less_than_fedavg": less(agent, names),
                "probability_of_improvement": {
                    other: standings.chance(agent, other, names) for other in standings.agents if other != agent
                },
                "regret_to_best_static": (
                    asdict(standings.gain(BEST_STATIC, agent, names)) if BEST_STATIC in standings.agents else None
                ),
                "regret_to_clairvoyant": regret(agent, names),
            }
            for agent, estimate in standings.ranked(names)
        }
        for group, names in groups.items()
    }
    return json.dumps(out, indent=1).replace("NaN", "null") + "\n"


def grids(standings: Standings, what: Played) -> list[Grid]:
    """All tables, the most important first."""
    return [
        overall_grid(standings, what.planned),
        group_grid(standings),
        *over_grid(standings),
        *naive_grid(standings),
        decided_grid(standings),
        *tuned_grid(standings),
        scenario_grid(standings),
    ]


def write(
    standings: Standings, what: Played, folder: Path, command: str, judged: Sequence[Judgement] = (), page: Path | None = None
) -> list[Path]:
    """Write everything into a folder: leaderboard.md, report.html, episodes.csv, summary.json and PNG files.

    Args:
        standings: what was played.
        what: how much of it.
        folder: made where it is missing.
        command: that made it.
        judged: real runs, if any were made.
        page: where the Markdown page goes too, with its plots beside it, above what is told by hand there.

    Returns:
        The page for people, the Markdown page, the CSV and the JSON file, and `page`.
    """
    tables = grids(standings, what)
    real = {name: [j for j in judged if j.result.scenario == name] for name in dict.fromkeys(j.result.scenario for j in judged)}
    for name, there in real.items():
        tables.append(real_grid(there, f"Real federated training of the best agents: {name}"))
        tables += probe_grids(there, f"What the encoders of the real runs are worth: {name}")
    said = introduction(standings, what, command)
    report = Report("Orchestrators compared", folder)
    report.text("In short", [said.replace("`", "")])
    report.grid(tables[0])
    report.figure("scores", score_plot(standings), "Interquartile mean of ln efficiency by split, 95 % stratified bootstrap")
    report.figure("profiles", profile_plot(standings), "Performance profiles: how often an agent does at least so well")
    report.figure("improvement", improvement_map(standings), "How likely a run of the row's agent beats one of the column's")
    report.figure("costs", cost_plots(standings), "Costs over the reference policy's; ringed: nobody undercuts it in all three")
    for grid in tables[1:]:
        report.grid(grid)
    report.figure("scenarios", heat_map(standings), "Interquartile mean of ln efficiency in every scenario")
    for name, there in real.items():
        report.figure(f"real-{name}", real_curves(there), f"{name}: progress of the real runs against cost")
    report.commands([command, "python evaluate.py --benchmark --scenarios YOURS.yaml --agents enough,your_policy.py:decide"])
    pages = {
        "leaderboard.md": leaderboard_page(said, tables),
        "episodes.csv": episodes_csv(standings),
        "summary.json": summary_json(standings),
    }
    for name, text in pages.items():
        write_text(folder / name, text)
    written = [report.write(), *(folder / name for name in pages)]
    if page is not None:
        for plot in PLOTS:
            write_bytes(page.parent / f"{page.stem}-{plot}.png", (folder / f"{plot}.png").read_bytes())
        write_page(page, leaderboard_page(said, tables, f"{page.stem}-"))
        written.append(page)
    return written


def leaderboard_page(said: str, tables: Sequence[Grid], prefix: str = "") -> str:
    """The Markdown page.

    Args:
        said: its first paragraph.
        tables: in order.
        prefix: of its plots' file names.
    """
    plots = [f"![{words}]({prefix}{name}.png)" for name, words in PLOTS.items()]
    told = [f"## {g.title}\n\n{g.markdown()}" + (f"\n\n{g.note}" if g.note else "") for g in tables]
    return "\n\n".join(["# Leaderboard", said, *plots, *told]) + "\n"


def run(
    what: Played, folder: Path, command: str, real_runs: int = 0, top: int = 3, page: Path | None = None
) -> None:
    """Play, judge the best on real training if asked to, show the first table and write everything.

    Args:
        what: to be played.
        folder: of the results.
        command: that made it.
        real_runs: per agent and scenario on real training.
        top: how many of the best agents are judged there.
        page: that is written too, if any.
    """
    for agent in what.agents:  # refuse bad names and files before anything long begins
        if agent not in STATICS:
            orchestrator(agent, what.cases[0].scenario)
    standings = play(what)
    judged = on_training(standings, what, real_runs, top) if real_runs else []
    for grid in grids(standings, what)[:2]:
        console.print(grid.rich())
    for path in write(standings, what, folder, command, judged, page):
        console.print(f"wrote {path}")


def on_training(standings: Standings, what: Played, runs: int, top: int) -> list[Judgement]:
    """Real federated training by the best agents (clairvoyance aside) and the reference policy, in the first scenario of
    every workload among those played."""
    shown = {label: agent for agent, label in labels(what.agents).items()}
    first = {case.scenario.workload.calibration: case for case in reversed(what.cases)}
    cells, told = [], []
    for case in first.values():
        name, target = case.scenario.name, own_target(case.scenario, None, console.print, what.workers)
        chosen = [*standings.order([name])[:top], *(label for label in ("equal",) if label in shown)]
        for label in dict.fromkeys(chosen):
            for seed in range(runs):
                cells.append(Cell(shown[label], cell_scenario(case.scenario), seed, None, *target))
                told.append(f"{name}, {label}, run {seed}")
    return judge_with_bars(cells, told, cache_folder("benchmark-real"), what.workers)


def introduction(standings: Standings, what: Played, command: str) -> str:
    """What the page is about, in one paragraph."""
    names = [case.scenario.name for case in standings.cases]
    best, score = standings.ranked(names)[0]
    return (
        f"Made by `{command}`. {len(standings.agents)} agents, {len(names)} scenarios, {what.seeds} held-out seeds each "
        f"(from {HELD_OUT_SEED}), simulated. Efficiency is 1 / ((T / T_ref) C), the reference policy scores 1; aggregates are "
        "interquartile means (IQM) of ln efficiency over all runs with 95 % stratified bootstrap intervals (Agarwal et al. "
        f"2021). Highest IQM over everything: {best}, {score.value:+.2f} ({score.low:+.2f} .. {score.high:+.2f}). How to enter "
        "a policy of your own: docs/submit.md."
    )
