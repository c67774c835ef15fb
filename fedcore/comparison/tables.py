"""From runs to the comparison's table: quality at equal budgets, costs to the target, memory of the weakest machine."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedcore.comparison.measures import signal_of
from fedcore.probes.prediction import Run, predict_quality

BUDGETS = ("time_s", "energy_j", "bytes")
TARGET_PART = 0.75
"""The target is what FedAvg's progress signal (held-out InfoNCE, or nats per token) is after this part of its rounds, mean over
seeds."""


def column(run: Mapping[str, Any], name: str) -> NDArray[np.float64]:
    """One quantity at every checkpoint of a run."""
    return np.array([point[name] for point in run["checkpoints"]], dtype=np.float64)


def at_budget(run: Mapping[str, Any], budget: str, quantity: str) -> float:
    """A quantity when a budget was spent, linear between checkpoints; the last one where the run ended earlier."""
    return float(np.interp(run["budgets"][budget], column(run, budget), column(run, quantity)))


def spent_part(run: Mapping[str, Any], budget: str) -> float:
    """Part of a budget that the run had spent when it ended, at most 1."""
    return float(min(1.0, column(run, budget)[-1] / run["budgets"][budget]))


def cost_to(run: Mapping[str, Any], target: float, cost: str) -> float:
    """What it had cost when its signal had first fallen to the target, linear between checkpoints; infinite if never."""
    values, costs = column(run, signal_of(run)), column(run, cost)
    below = np.flatnonzero(values <= target)
    if len(below) == 0:
        return float("inf")
    i = int(below[0])
    if i == 0:
        return float(costs[0])
    part = (values[i - 1] - target) / (values[i - 1] - values[i])
    return float(costs[i - 1] + part * (costs[i] - costs[i - 1]))


def target_of(runs: Sequence[Mapping[str, Any]]) -> float:
    """The common target from the reference's runs."""
    reached = []
    for run in runs:
        rounds = column(run, "round")
        reached.append(np.interp(TARGET_PART * rounds[-1], rounds, column(run, signal_of(run))))
    return float(np.mean(reached))


@dataclass(frozen=True)
class Row:
    """One method's line: lists hold one value per seed.

    Attributes:
        name: of the entry.
        quality: budget -> probe quality when it was spent.
        spent: budget -> part of it that was spent before the run's longest allowed length; 1 unless methods are cheap.
        to_target: cost -> amount to the target; infinite where a run never got there.
        upload_to_target: bytes up, all machines.
        memory_bytes: peak of the weakest machine.
        untrained: quality before training.
    """

    name: str
    quality: dict[str, list[float]]
    spent: dict[str, list[float]]
    to_target: dict[str, list[float]]
    upload_to_target: list[float]
    memory_bytes: float
    untrained: list[float]


def row_of(name: str, runs: Sequence[Mapping[str, Any]], target: float) -> Row:
    """Summarise the seeds of one entry."""
    return Row(
        name,
        {b: [at_budget(run, b, "quality") for run in runs] for b in BUDGETS},
        {b: [spent_part(run, b) for run in runs] for b in BUDGETS},
        {b: [cost_to(run, target, b) for run in runs] for b in BUDGETS},
        [cost_to(run, target, "upload_bytes") for run in runs],
        max(run["memory_bytes"][run["weakest"]] for run in runs),
        [float(column(run, "quality")[0]) for run in runs],
    )


def mean_range(values: Sequence[float], part: float = 1.0) -> str:
    """Mean [least, most] over seeds, and which part of the budget was spent where that is not all of it."""
    mark = "" if part >= 0.999 else f" ({part:.0%} spent)"
    if len(values) == 1:
        return f"{values[0]:.3f}{mark}"
    return f"{np.mean(values):.3f} [{min(values):.3f}, {max(values):.3f}]{mark}"


def _ratio(values: Sequence[float], reference: Sequence[float]) -> str:
    """Geometric mean over the seeds where both got there, and how many those are where it is not all of them."""
    if not np.isfinite(values).any():
        return "never"
    pairs = [(v, r) for v, r in zip(values, reference, strict=True) if np.isfinite(v) and np.isfinite(r) and v > 0 and r > 0]
    told = f"{np.exp(np.mean([np.log(v / r) for v, r in pairs])):.2f}" if pairs else "reached"
    return told if len(pairs) == len(values) else f"{told} ({sum(np.isfinite(values))} of {len(values)} runs)"


HEADER = (
    "method",
    "{quality} at equal time",
    "at equal energy",
    "at equal bytes",
    "time to target",
    "energy",
    "bytes",
    "upload",
    "memory of the weakest, MB",
)


def cells(rows: Sequence[Row], quality: str) -> list[list[str]]:
    """The table as text, header first; costs to the target are multiples of the first row's (FedAvg), geometric means."""
    reference = rows[0]
    table = [[HEADER[0], HEADER[1].format(quality=quality), *HEADER[2:]]]
    for row in rows:
        table.append([
            row.name,
            *(mean_range(row.quality[b], min(row.spent[b])) for b in BUDGETS),
            *(_ratio(row.to_target[b], reference.to_target[b]) for b in BUDGETS),
            _ratio(row.upload_to_target, reference.upload_to_target),
            "rests" if row.memory_bytes == 0 else f"{row.memory_bytes / 1e6:.2f}",
        ])
    return table


def foretold(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[list[str]]:
    """How well label-free signals foretell the labelled probe, over all checkpoints of all runs, header first.

    Runs with fewer than three checkpoints tell nothing and are passed over.
    """
    told = [Run.of(run["checkpoints"]) for group in runs.values() for run in group if len(run["checkpoints"]) >= 3]
    table = [["label-free signal", "Spearman within runs (95 %)", "Spearman over all checkpoints (95 %)"]]
    for name, c in predict_quality(told).items():
        cell = [f"{e.value:.2f} ({e.low:.2f} .. {e.high:.2f})" for e in (c.spearman_within, c.spearman_pooled)]
        table.append([name, *cell])
    return table


def markdown(table: Sequence[Sequence[str]]) -> str:
    """A table of text as Markdown."""
    lines = ["| " + " | ".join(line) + " |" for line in table]
    return "\n".join([lines[0], "|" + "---|" * len(table[0]), *lines[1:]]) + "\n"


def csv_text(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Every checkpoint of every run as CSV: entry, seed, and all numbers."""
    names: list[str] = []
    for group in runs.values():
        for run in group:
            for point in run.get("checkpoints", []):
                names += [n for n in point if n not in names]
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["method", "seed", *names])
    for entry, group in runs.items():
        for seed, run in enumerate(group):
            for point in run.get("checkpoints", []):
                writer.writerow([entry, seed, *(f"{point[n]:.7g}" if n in point else "" for n in names)])
    return buffer.getvalue()
