"""report.html with its plots inline, and the same plots as PNG files beside it."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from agents.benchmark import EpisodeResult, Summary
from agents.judge import Judgement
from agents.tables import Grid
from fedcore.files import write_bytes, write_text

# Okabe and Ito's palette: safe for colour-blind readers.
MARKS = ("o", "s", "^", "D", "v", "P", "X")
"""With the colours: as many agents as can be told apart in a scatter."""
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999", "#F0E442")
STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}
h1{font-size:1.7rem}h2{font-size:1.2rem;margin-top:2.2rem}
table{border-collapse:collapse;font-size:.9rem;margin:.6rem 0;display:block;overflow-x:auto}
th,td{padding:.3rem .7rem;text-align:right}
th:first-child,td:first-child{text-align:left}thead th{border-bottom:2px solid #444}tbody tr:nth-child(odd){background:#f4f6f8}
img{max-width:100%}pre{background:#f4f6f8;padding:.8rem;overflow-x:auto}.note{color:#666;font-size:.85rem}
"""


@dataclass
class Report:
    """A page that grows section by section.

    Attributes:
        title: of the page.
        folder: where report.html and the PNG files go.
    """

    title: str
    folder: Path
    _parts: list[str] = field(default_factory=list)

    def text(self, heading: str, paragraphs: Sequence[str]) -> None:
        """A heading and plain paragraphs."""
        body = "".join(f"<p>{html.escape(p)}</p>" for p in paragraphs)
        self._parts.append(f"<h2>{html.escape(heading)}</h2>{body}")

    def grid(self, grid: Grid) -> None:
        """A table."""
        head = "".join(f"<th>{html.escape(c)}</th>" for c in grid.columns)
        rows = "".join("<tr>" + "".join(f"<td>{html.escape(c)}</td>" for c in row) + "</tr>" for row in grid.rows)
        note = f'<p class="note">{html.escape(grid.note)}</p>' if grid.note else ""
        self._parts.append(
            f"<h2>{html.escape(grid.title)}</h2><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>{note}"
        )

    def figure(self, name: str, figure: Figure, caption: str) -> None:
        """A plot: PNG beside the page, and inline."""
        FigureCanvasAgg(figure)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=110)
        self.png(name, buffer.getvalue(), caption)

    def png(self, name: str, content: bytes, caption: str) -> None:
        """A picture: PNG beside the page, and inline."""
        write_bytes(self.folder / f"{name}.png", content)
        inline = base64.b64encode(content).decode()
        self._parts.append(
            f'<figure><img alt="{html.escape(caption)}" src="data:image/png;base64,{inline}">'
            f'<figcaption class="note">{html.escape(caption)}</figcaption></figure>'
        )

    def commands(self, commands: Sequence[str]) -> None:
        """What to try next."""
        self._parts.append(f"<h2>Next</h2><pre>{html.escape(chr(10).join(commands))}</pre>")

    def write(self) -> Path:
        """Write the page; returns its path."""
        path = self.folder / "report.html"
        title = html.escape(self.title)
        write_text(
            path,
            f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
            f"<title>{title}</title><style>{STYLE}</style><body><h1>{title}</h1>{''.join(self._parts)}</body></html>",
        )
        return path


def plain_log(axes: Axes) -> None:
    """Logarithmic axes with few, plain numbers."""
    axes.set_xscale("log")
    axes.set_yscale("log")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())


def tidy(axes: Axes, x: str, y: str) -> None:
    """Axis labels, a faint grid, no box."""
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)


def learning_curve(curve: Sequence[tuple[int, float]], levels: Sequence[tuple[str, float]]) -> Figure:
    """Training of the orchestrator: mean log-efficiency, with reference levels."""
    figure = Figure(figsize=(7.5, 4), layout="constrained")
    axes = figure.add_subplot()
    if curve:
        axes.plot([c[0] for c in curve], [c[1] for c in curve], color=COLOURS[0], lw=2, label="the learner")
    for i, (name, value) in enumerate(levels):
        axes.axhline(value, color=COLOURS[1 + i], ls="--", lw=1.2, label=name)
    axes.legend(frameon=False)
    tidy(axes, "environment steps", "mean ln efficiency")
    return figure


def score_bars(summaries: Sequence[Summary]) -> Figure:
    """Scores of one scenario with their intervals, best on top."""
    figure = Figure(figsize=(7.5, 0.42 * len(summaries) + 1.2), layout="constrained")
    axes = figure.add_subplot()
    for i, s in enumerate(reversed(summaries)):
        colour = COLOURS[1] if s.agent in ("ppo", "dqn") else COLOURS[0]
        axes.errorbar(s.mean, i, xerr=[[s.mean - s.low], [s.high - s.mean]], fmt="o", color=colour, capsize=4)
    axes.set_yticks(range(len(summaries)), [s.agent for s in reversed(summaries)])
    axes.axvline(0.0, color="#888", lw=1)
    tidy(axes, "mean ln efficiency, 95 % bootstrap interval (0: the reference policy)", "")
    return figure


def trade_off(results: Sequence[EpisodeResult]) -> Figure:
    """Time against energy of every simulated episode, and against traffic."""
    figure = Figure(figsize=(10.5, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for i, agent in enumerate(dict.fromkeys(r.agent for r in results)):
        own = [r for r in results if r.agent == agent]
        time = [r.time_s for r in own]
        for axes, values in ((left, [r.energy_j / 1e3 for r in own]), (right, [r.bytes / 1e6 for r in own])):
            mark, colour = MARKS[i // len(COLOURS) % len(MARKS)], COLOURS[i % len(COLOURS)]
            axes.scatter(time, values, s=14, alpha=0.6, marker=mark, color=colour, label=agent if axes is left else None)
    for axes, label in ((left, "energy, kJ"), (right, "traffic, MB")):
        plain_log(axes)
        tidy(axes, "simulated seconds to the end", label)
    figure.legend(loc="outside right center", frameon=False, fontsize=8)
    return figure


def real_curves(judgements: Sequence[Judgement]) -> Figure:
    """Progress of real runs over time, energy and traffic."""
    figure = Figure(figsize=(11, 4), layout="constrained")
    panels = figure.subplots(1, 3, sharey=True)
    agents = list(dict.fromkeys(j.result.agent for j in judgements))
    for j in judgements:
        curve = np.vstack([np.zeros(6), np.array(j.result.curve)])
        colour = COLOURS[agents.index(j.result.agent) % len(COLOURS)]
        for axes, column, scale in zip(panels, (0, 2, 3), (1.0, 1e-3, 1e-6), strict=True):
            axes.plot(curve[:, column] * scale, curve[:, 1], color=colour, lw=1.6, label=j.result.agent)
    for axes, label in zip(panels, ("simulated seconds", "energy, kJ", "traffic, MB"), strict=True):
        axes.axhline(1.0, color="#888", lw=1, ls="--")
        tidy(axes, label, "progress" if axes is panels[0] else "")
    handles = dict(zip(*reversed(panels[0].get_legend_handles_labels()), strict=True))
    panels[0].legend(handles.values(), handles.keys(), frameon=False)
    return figure
