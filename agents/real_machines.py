"""`evaluate.py --engine flower`: policies over Flower, shown as they go, with a table of what was measured."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agents.benchmark import HELD_OUT_SEED
from agents.cli import console, progress_bar
from agents.flower_trial import play_trial
from agents.judge import cell_scenario, target_of
from agents.real_run import Job
from agents.report import Report
from agents.tables import Grid, si
from fedcore.files import content_key, write_text
from scenarios import Scenario


def play_job(job: Job, label: str) -> dict[str, Any]:
    """Play one job with a bar, its log lines above it; returns what `play_trial` does."""
    with progress_bar() as bar:
        task = bar.add_task(label, total=1.0, note="starting SuperLink and nodes")

        def on_event(event: dict[str, Any]) -> None:
            if event["kind"] == "log":
                console.print(f"  {event['text']}", highlight=False)
            else:
                shown = max(0.0, min(event["progress"], 0.99))
                took = f"{event['seconds']:.1f} s, {si(event['bytes'], 'B')}"
                bar.update(task, completed=shown, note=f"round {event['round']}, progress {event['progress']:.2f}, {took}")

        told = play_trial(job, on_event)
        bar.update(task, completed=1.0, note="done")
    return told


def measured_grid(told: Sequence[dict[str, Any]], scenario: str) -> Grid:
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
        f"Real machines over Flower: {scenario}",
        ("agent", "run", "efficiency", "reached", "time s", "s per round", "energy", "joules from", "traffic", "rounds"),
        tuple(rows),
        "seconds and bytes are measured; efficiency compares them with what the reference policy needs in simulation",
    )


def on_machines(
    chosen: Sequence[Scenario], agents: Sequence[str], runs: int, data: Path | None, out: Path, folder: Path
) -> None:
    """Play every agent on every scenario over Flower on this machine, and report.

    Args:
        chosen: scenarios.
        agents: names or policy files.
        runs: per agent and scenario.
        data: a user's images, or None.
        out: folder of all runs; one that was interrupted goes on from there.
        folder: of the report.
    """
    report = Report("Orchestrators on real machines", folder)
    everything = []
    for scenario in chosen:
        path = None if data is None else str(data)
        target = None if path is None else target_of(scenario, path)
        told = []
        for run in range(runs):
            for agent in agents:
                job = Job(agent, cell_scenario(scenario), HELD_OUT_SEED + run, "", path, target)
                kept = out / "machines" / content_key(job.identity())
                job = Job(**{**vars(job), "folder": str(kept.resolve())})
                told.append(play_job(job, f"{scenario.name}, {Path(agent).stem}"))
        grid = measured_grid(told, scenario.name)
        console.print(grid.rich())
        report.grid(grid)
        everything += told
    write_text(folder / "results.json", json.dumps(everything, indent=1))
    console.print(f"report: {report.write()}")
