"""The comparison's pictures: quality against what it cost, one panel per budget."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fedcore.comparison.measures import SIGNALS, signal_of
from fedcore.comparison.tables import BUDGETS, column

LABELS = {
    "time_s": "simulated time / FedAvg's",
    "energy_j": "energy / FedAvg's",
    "bytes": "bytes / FedAvg's",
}
COLOURS = ("#000000", "#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F", "#8C564B", "#17BECF")
GRID = np.linspace(0.0, 1.0, 41)


def draw(runs: Mapping[str, Sequence[Mapping[str, Any]]], quality: str, title: str) -> bytes:
    """Curves of up to ten methods, mean over seeds, each on the part of the budget that all its seeds spent.

    Args:
        runs: entry -> runs, the reference first.
        quality: what the probe measures, for the axis.
        title: of the picture.

    Returns:
        PNG.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 7.6), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    panels = figure.subplots(2, 3, sharex=True)
    signal = signal_of(next(iter(runs.values()))[0])
    for quantity, axis_label, line in (("quality", quality, panels[0]), (signal, f"held-out {SIGNALS[signal]}", panels[1])):
        for axes, budget in zip(line, BUDGETS, strict=True):
            for (name, group), colour in zip(list(runs.items())[: len(COLOURS)], COLOURS, strict=False):
                costs = [column(run, budget) / run["budgets"][budget] for run in group]
                end = min(1.0, *(float(cost[-1]) for cost in costs))
                x = np.append(GRID[end > GRID], end)
                values = np.array([np.interp(x, c, column(run, quantity)) for c, run in zip(costs, group, strict=True)])
                axes.plot(x, values.mean(0), color=colour, lw=1.8, label=name)
                axes.fill_between(x, values.min(0), values.max(0), color=colour, alpha=0.10, lw=0)
            axes.grid(alpha=0.25)
            axes.spines[["top", "right"]].set_visible(False)
            if quantity == signal:
                axes.set_xlabel(LABELS[budget])
        line[0].set_ylabel(axis_label)
    panels[0][0].legend(frameon=False, fontsize=8, ncols=2)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    return buffer.getvalue()
