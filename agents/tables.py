"""Results as rich tables and as HTML rows: the same cells for both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rich.table import Table

from agents.benchmark import Comparison, Summary
from agents.judge import Judgement
from agents.probing import Probes
from fedcore.comparison.tables import markdown


@dataclass(frozen=True)
class Grid:
    """A table before it is drawn.

    Attributes:
        title: above it.
        columns: headers.
        rows: cells as text.
        note: below it.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""

    def rich(self) -> Table:
        """For the terminal."""
        table = Table(title=self.title, caption=self.note or None, title_justify="left", caption_justify="left")
        for i, column in enumerate(self.columns):
            table.add_column(column, justify="left" if i == 0 else "right")
        for row in self.rows:
            table.add_row(*row)
        return table

    def markdown(self) -> str:
        """For pages."""
        return markdown([self.columns, *self.rows]).rstrip("\n")


def si(value: float, unit: str) -> str:
    """A quantity with a prefix to its unit."""
    for factor, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor:
            return f"{value / factor:.3g} {prefix}{unit}"
    return f"{value:.3g} {unit}"


def simulation_grid(summaries: Sequence[Summary], scenario: str) -> Grid:
    """Scores on the fast tier."""
    rows = tuple(
        (
            s.agent,
            f"{s.efficiency:.2f}",
            f"{s.mean:+.3f}",
            f"{s.low:+.3f} .. {s.high:+.3f}",
            f"{100 * s.reached:.0f} %",
            f"{s.time_s:.0f}",
            si(s.energy_j, "J"),
            si(s.bytes, "B"),
            f"{s.rounds:.1f}",
        )
        for s in summaries
        if s.scenario == scenario
    )
    n = next((s.episodes for s in summaries if s.scenario == scenario), 0)
    return Grid(
        f"Simulation: {scenario}, {n} held-out episodes",
        ("agent", "efficiency", "ln efficiency", "95 % interval", "reached", "time s", "energy", "traffic", "rounds"),
        rows,
        "efficiency = 1 / ((T / T_ref) C), geometric mean; the reference policy scores 1 on average over its own simulated "
        "episodes",
    )


LEAST_PAIRS = 6
"""Of fewer, all may be on one side by chance once in twenty times or more."""


def comparison_grid(comparisons: Sequence[Comparison], title: str) -> Grid:
    """Paired differences."""
    rows = tuple(
        (
            f"{c.agent} over {c.over}",
            f"{c.difference:+.3f}",
            f"{c.low:+.3f} .. {c.high:+.3f}",
            f"x {c.factor:.2f}",
            "too few" if c.episodes < LEAST_PAIRS else "yes" if c.low > 0 else "no" if c.high < 0 else "not shown",
            str(c.episodes),
        )
        for c in comparisons
    )
    return Grid(title, ("comparison", "difference of ln efficiency", "95 % interval", "factor", "better?", "pairs"), rows)


def real_grid(judgements: Sequence[Judgement], title: str) -> Grid:
    """Real runs, one row each."""
    rows = [
        (
            j.result.agent,
            str(j.result.seed % 1000),
            f"{2.718281828459045 ** j.result.log_efficiency:.2f}",
            "yes" if j.result.reached else f"no, {j.result.progress:.2f}",
            f"{j.result.time_s:.0f}",
            si(j.result.energy_j, "J"),
            si(j.result.bytes, "B"),
            str(j.result.rounds),
            "COLLAPSED" if j.collapsed else "sound",
        )
        for j in judgements
    ]
    return Grid(
        title,
        ("agent", "run", "efficiency", "reached", "time s", "energy", "traffic", "rounds", "encoder"),
        tuple(rows),
        "real federated SSL in process; seconds, joules and bytes are the simulated fleet's",
    )


def probe_grids(judgements: Sequence[Judgement], title: str) -> list[Grid]:
    """Downstream quality beside the untrained encoder and raw pixels, means over runs of figures and of the ends of their
    intervals, in one table; in none where nothing of it was measured: of text, and of images without labels."""

    def row(name: str, many: Sequence[Probes]) -> tuple[str, ...]:
        def mean(field: str) -> str:
            values = [getattr(p, field) for p in many]
            if any(v is None for v in values):
                return "-"
            value, low, high = np.mean([(v.value, v.low, v.high) for v in values], axis=0)
            return f"{value:.3f} ({low:.2f} .. {high:.2f})"

        return (name, *(mean(f) for f in ("knn", "knn_balanced", "linear", "count_r2", "count_mae")))

    agents = list(dict.fromkeys(j.result.agent for j in judgements))
    rows = [row(agent, [j.probes for j in judgements if j.result.agent == agent]) for agent in agents]
    rows.append(row("untrained encoder", [j.untrained for j in judgements]))
    rows.append(row("raw pixels", [j.raw for j in judgements]))
    columns = ("encoder trained by", "kNN-5", "kNN-5 balanced", "linear", "R2 of log counts", "count MAE")
    shown = [0] + [i for i in range(1, 6) if any(r[i] != "-" for r in rows)]
    if len(shown) == 1:
        return []
    head, body = tuple(columns[i] for i in shown), tuple(tuple(r[i] for i in shown) for r in rows)
    [(images, groups)] = {(j.probes.images, j.probes.groups) for j in judgements}
    over = f"{images} held-out images" if groups is None else f"{groups} groups of {images} held-out images"
    return [Grid(title, head, body, f"in brackets 95 % intervals over {over}, not over trainings")]
