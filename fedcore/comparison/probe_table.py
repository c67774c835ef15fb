"""All that the probes tell of the models that runs end with, as a table: linear and few-shot accuracy, counts per kind; of text
how well tokens are foretold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fedcore.comparison.measures import NATS, signal_of
from fedcore.probes.intervals import Estimate
from fedcore.probes.report import ProbeReport
from fedcore.probes.text_report import TextReport


def figures(report: ProbeReport, kinds: Sequence[str]) -> dict[str, Estimate]:
    """Every labelled figure of a report by its column's name.

    Args:
        report: not a quick one, which lacks some.
        kinds: names of the kinds counted.
    """
    told: dict[str, Estimate] = {}
    for name, accuracy in (("kNN", report.knn), ("linear", report.linear)):
        if accuracy is not None:
            told[f"balanced {name} accuracy"] = accuracy.balanced
    for shot in report.few_shot:
        told[f"balanced linear accuracy, {shot.fraction:.0%} of labels"] = shot.balanced
    if report.counts is not None:
        told["count R2"] = report.counts.r2_log
        for kind, name in enumerate(kinds):
            told[f"{name}: R2"] = report.counts.r2_log_per_kind[kind]
            told[f"{name}: MAE"] = report.counts.mae_per_kind[kind]
            told[f"{name}: bias"] = report.counts.bias_per_kind[kind]
    return told


def text_figures(report: TextReport) -> dict[str, Estimate]:
    """Every figure of a text's report by its column's name."""
    e = report.nats
    perplexity = Estimate(*(float(np.exp(value)) for value in (e.value, e.low, e.high)))
    return {"next-token accuracy": report.accuracy, "nats per token": e, "perplexity": perplexity}


def _told(run: Mapping[str, Any]) -> dict[str, Estimate]:
    if signal_of(run) == NATS:
        return text_figures(TextReport.from_dict(run["report"]))
    return figures(ProbeReport.from_dict(run["report"]), run["kinds"])


def probe_table(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[list[str]]:
    """One line per method, header first; means over seeds of the figures and of the ends of their 95 % intervals.

    Args:
        runs: entry -> records of `runs.play`, all on one set. Without labels there is nothing but the header.
    """
    lines = {name: [_told(run) for run in group] for name, group in runs.items()}
    columns = list(next(iter(lines.values()))[0])
    table = [["method", *columns]]
    for name, told in lines.items():
        table.append([name])
        for column in columns:
            value, low, high = np.mean([[e.value, e.low, e.high] for e in (seed[column] for seed in told)], axis=0)
            table[-1].append(f"{value:.3f} ({low:.3f} .. {high:.3f})")
    return table
