"""Do weak machines at small shares beat dropping them, and whole models for everyone? `python benchmarks/weak_machines.py`.

On every fleet of the library that trains on images and whose machines are not equally capable: FedAvg (whole models for
everyone), `exclusive` (whole models, without the weak) and fixed small shares for the weak, compared as `fedcore.compare` does,
whose kept runs it shares. 25 minutes per fleet on two cores; interrupted, it resumes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

from fedcore.compare import CompareOptions, compare
from fedcore.comparison.capacity import capacity_shares, machine_costs
from fedcore.comparison.runs import REFERENCE
from fedcore.comparison.tables import Row, markdown, mean_range, row_of, target_of
from fedcore.encoders import ENCODERS
from fedcore.files import write_text
from fedcore.workload import model_for, recipe_of
from scenarios import Scenario, load, names
from scenarios.errors import told

DROPPED = "exclusive"
BUDGETS = {"time_s": "time", "energy_j": "energy", "bytes": "bytes"}
RESAMPLES = 10_000


@dataclass(frozen=True)
class Options:
    """Small shares for weak machines beside dropping them.

    Attributes:
        scenarios: names or files; empty takes the library's fleets of unequal machines that train on images.
        methods: that give weak machines small shares.
        seeds: runs per method and fleet.
        rounds: of FedAvg, whose time, energy and bytes are everyone's budgets.
        every: rounds between checkpoints.
        longest: as `fedcore.compare`; large enough that who drops the weak spends the budgets too.
        workers: processes, one core each.
        output: the tables as Markdown.
    """

    scenarios: tuple[str, ...] = ()
    methods: tuple[str, ...] = ("heterofl", "fedrolex")
    seeds: int = 3
    rounds: int = 24
    every: int = 4
    longest: float = 4.0
    workers: int = 2
    output: Path = Path("runs/weak-machines.md")


def capacities(scenario: Scenario) -> np.ndarray:
    """(K,) of a fleet."""
    recipe, model = recipe_of(scenario.workload), model_for(scenario.workload, 3, scenario.name)
    return capacity_shares(scenario, machine_costs(model, [recipe.batch_of(g.images) for g in scenario.fleet.machines]))


def rows_of(name: str, options: Options) -> dict[str, Row]:
    """Method -> its line on one fleet."""
    runs = compare(
        CompareOptions(
            name, methods=(DROPPED, *options.methods), seeds=options.seeds, rounds=options.rounds, every=options.every,
            longest=options.longest, workers=options.workers,
        )
    )  # fmt: skip
    target = target_of(runs[REFERENCE])
    return {method: row_of(method, group, target) for method, group in runs.items()}


def ahead(fleets: dict[str, dict[str, Row]], method: str, other: str, budget: str) -> str:
    """By how much a method's quality is ahead of another's at an equal budget: mean over fleets, 95 % bootstrap interval
    over fleets, and on how many of them its mean over seeds is."""
    by = np.array([np.mean(rows[method].quality[budget]) - np.mean(rows[other].quality[budget]) for rows in fleets.values()])
    drawn = np.random.default_rng(0).integers(len(by), size=(RESAMPLES, len(by)))
    low, high = np.quantile(by[drawn].mean(axis=1), [0.025, 0.975])
    return f"{by.mean():+.3f} ({low:+.3f} .. {high:+.3f}), {(by > 0).sum()} of {len(by)}"


def main() -> None:
    options = tyro.cli(Options)
    with told("interrupted; finished runs are kept, and the same command goes on"):
        fleets, lines = {}, [["fleet", "capacities", "method", *(f"at equal {name}" for name in BUDGETS.values())]]
        for name in options.scenarios or names():
            scenario = load(name)
            if not options.scenarios and ENCODERS[scenario.workload.encoder].reads != "images":
                continue
            capacity = capacities(scenario)
            if capacity.min() == capacity.max():
                continue
            levels = ", ".join(f"{(capacity == v).sum()} x {v:g}" for v in sorted(set(capacity.tolist()), reverse=True))
            fleets[name] = rows_of(name, options)
            for row in fleets[name].values():
                quality = [mean_range(row.quality[b], min(row.spent[b])) for b in BUDGETS]
                lines.append([name, levels, row.name, *quality])
        summary = [["small shares", "ahead of", *(f"at equal {name}" for name in BUDGETS.values())]]
        for method in options.methods:
            for other in (DROPPED, REFERENCE):
                summary.append([method, other, *(ahead(fleets, method, other, budget) for budget in BUDGETS)])
        text = markdown(lines) + "\n" + markdown(summary)
        write_text(options.output, text)
    print(text)


if __name__ == "__main__":
    main()
