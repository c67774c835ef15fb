"""`evaluate.py --engine flower` and `ray`: policies on real machines, shown as they go, with a table of what was measured."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any, Literal

import numpy as np

from agents.benchmark import HELD_OUT_SEED, benchmark, orchestrator
from agents.cli import console, judge_with_bars, progress_bar
from agents.episodes import EpisodeResult
from agents.flower_trial import play_trial
from agents.judge import Cell, cell_scenario, images_for
from agents.naming import distinct, labels, name_apart
from agents.own_target import OwnTarget, own_target
from agents.ray_trial import play_over_ray
from agents.real_run import EVENTS, Job
from agents.replay import replay
from agents.report import Report
from agents.shaped import Paced
from agents.tables import Grid, si
from agents.truth import Truth, own_seconds, truth_grid, truth_plot
from fedcore.files import content_key, write_text
from fedcore.flower.hosts import Hosts
from fedcore.world import compile_world
from scenarios import Scenario

Engine = Literal["flower", "ray"]


@dataclass(frozen=True)
class Simulated:
    """What real runs on machines of the scenario's own speeds are held against.

    Attributes:
        episodes: on the fast tier, per agent.
        workers: processes of real training on the simulated fleet.
        trained: runs of it per agent, or as many as real ones where these are more: one alone is luck.
    """

    episodes: int = 30
    workers: int = 1
    trained: int = 3


def play_job(
    job: Job, label: str, surroundings: AbstractContextManager[Hosts] | None = None, engine: Engine = "flower"
) -> dict[str, Any]:
    """Play one job with a bar, its log lines above it; arguments and result as `play_trial`'s."""
    with progress_bar() as bar:
        task = bar.add_task(label, total=1.0, note="starting machines")

        def on_event(event: dict[str, Any]) -> None:
            if event["kind"] == "log":
                console.print(f"  {event['text']}", highlight=False)
            else:
                shown = max(0.0, min(event["progress"], 0.99))
                took = f"{event['seconds']:.1f} s, {si(event['bytes'], 'B')}"
                bar.update(task, completed=shown, note=f"round {event['round']}, progress {event['progress']:.2f}, {took}")

        told = play_over_ray(job, on_event) if engine == "ray" else play_trial(job, on_event, surroundings)
        bar.update(task, completed=1.0, note="done")
    return told


def measured_grid(told: Sequence[dict[str, Any]], scenario: str, engine: Engine) -> Grid:
    """What real runs took."""
    rows = []
    for each in told:
        r = each["result"]
        rows.append(
            (
                r["agent"], str(r["seed"] - HELD_OUT_SEED), f"{math.exp(r['log_efficiency']):.2f}",
                "yes" if r["reached"] else f"no, {r['progress']:.2f}", f"{r['time_s']:.1f}",
                f"{r['time_s'] / max(r['rounds'], 1):.2f}", si(r["energy_j"], "J"), each["meter"], si(r["bytes"], "B"),
                str(r["rounds"]),
            )
        )  # fmt: skip
    return Grid(
        f"Real machines over {engine.capitalize()}: {scenario}",
        ("agent", "run", "efficiency", "reached", "time s", "s per round", "energy", "joules from", "traffic", "rounds"),
        tuple(rows),
        "seconds and bytes are measured; efficiency compares them with what the reference policy needs in simulation",
    )


def rounds_of(folder: Path) -> list[dict[str, Any]]:
    """Events of a run's rounds."""
    events = [json.loads(line) for line in (folder / EVENTS).read_text(encoding="utf-8").splitlines()]
    return [event for event in events if event["kind"] == "round"]


def held_against(
    told: Sequence[dict[str, Any]],
    folders: Sequence[Path],
    scenario: Scenario,
    agents: Sequence[str],
    runs: int,
    out: Path,
    what: Simulated,
    target: OwnTarget,
) -> Truth:
    """Simulate the decisions of real runs, and play their agents on both simulated tiers.

    Args:
        told: what runs told, run by run and agent by agent.
        folders: of these runs.
        scenario: where.
        agents: who played.
        runs: of each.
        out: folder of trained cells.
        what: how many simulated episodes.
        target: progress 1 on data of a person's own, as `own_target` gives it.
    """
    own: dict[str, list[float]] = {}
    world, same = compile_world(scenario), []
    for each, folder in zip(told, folders, strict=True):
        agent, seeds = each["result"]["agent"], [HELD_OUT_SEED + e for e in range(what.episodes)]
        same += replay(agent, each["decisions"], world, seeds)
        own.setdefault(agent, []).extend(own_seconds([event["machines"] for event in rounds_of(folder)], scenario.fleet))
    with console.status("simulated episodes"):
        players = [orchestrator(name, scenario) for name in agents]
        name_apart(agents, players)
        fast = benchmark(players, scenario, what.episodes)
    plain, trials = cell_scenario(scenario), range(max(runs, what.trained))
    cells = [Cell(name, plain, run, None, *target) for run in trials for name in agents]
    trained = judge_with_bars(cells, [labels(agents)[cell.agent] for cell in cells], out / "cells", what.workers)
    real = [EpisodeResult(**each["result"]) for each in told]
    tiers = {"same decisions": same, "Orchestration-v0": fast, "Training-v0": [j.result for j in trained]}
    return Truth(real, tiers, {agent: float(np.median(seconds)) for agent, seconds in own.items()})


def on_machines(
    chosen: Sequence[Scenario],
    agents: Sequence[str],
    runs: int,
    data: Path | None,
    out: Path,
    folder: Path,
    against: Simulated | None = None,
    wire: Mapping[str, str | None] | None = None,
    engine: Engine = "flower",
) -> None:
    """Play every agent on every scenario on real machines, and report.

    Args:
        chosen: scenarios.
        agents: names or policy files.
        runs: per agent and scenario.
        data: a user's images, or None; text is in the scenarios.
        out: folder of all runs; one that was interrupted goes on from there.
        folder: of the report.
        against: give machines the scenario's link rates and speeds, and hold what was measured against both simulated tiers;
            over Flower only.
        wire: fields of `Job` that say how arrays go over the wire.
        engine: what carries messages: Flower's processes on this machine, or Ray's actors wherever its cluster is.
    """
    report = Report("Orchestrators on real machines", folder)
    everything = []
    for scenario in chosen:
        path = images_for(scenario, data)
        target = own_target(scenario, path, console.print)
        told, folders = [], []
        for run in range(runs):
            for agent in agents:
                job = Job(agent, cell_scenario(scenario), HELD_OUT_SEED + run, "", path, *target)
                job = Job(**{**vars(job), **(wire or {})})
                kept = out / "machines" / content_key(job.identity(), against is not None, engine)
                job = Job(**{**vars(job), "folder": str(kept.resolve())})
                folders.append(kept)
                surroundings = Paced(scenario, run, console.print) if against else None
                told.append(play_job(job, f"{scenario.name}, {labels(agents)[agent]}", surroundings, engine))
        shown = distinct({agent: each["result"]["agent"] for agent, each in zip(agents, told, strict=False)})
        for agent, each in zip(cycle(agents), told, strict=False):
            each["result"]["agent"] = shown[agent]
        grids = [measured_grid(told, scenario.name, engine)]
        if against:
            truth = held_against(told, folders, scenario, agents, runs, out, against, target)
            grids.append(truth_grid(truth, scenario.name))
            report.figure(f"truth-{scenario.name}", truth_plot(truth), "On the line, simulation tells the truth")
        for grid in grids:
            console.print(grid.rich())
            report.grid(grid)
        everything += told
    write_text(folder / "results.json", json.dumps(everything, indent=1))
    console.print(f"report: {report.write()}")
