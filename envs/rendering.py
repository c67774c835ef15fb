"""Pictures of an episode: the fleet as a graph, the blocks it trained as strips beside it, and the curves so far."""

from __future__ import annotations

from typing import Any

import networkx as nx
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyBboxPatch, PathPatch, Rectangle
from matplotlib.path import Path as Curve
from matplotlib.ticker import MaxNLocator, NullLocator
from numpy.typing import NDArray

from envs.core import Core
from envs.memory import DOWN_BPS, UP_BPS
from fedcore.fleet import columns as c
from fedcore.fleet.graph import SERVER, fleet_graph, routing_tree
from fedcore.workload import model_for

Blocks = list[list[NDArray[np.int64]]]  # per machine and layer
Point = tuple[float, float]
Outline = list[Point]

WIDTH, HEIGHT, DPI = 1200, 800, 100
TOP, BOTTOM, FIRST, LAST = 130.0, 520.0, 58.0, 252.0  # of the fleet, in pixels: its height, and x of server and machines
MAX_LAYERS, ANSI_WIDTH = 8, 100

INK, MUTED, RULE, LANE = "#1f2933", "#667085", "#d8dde5", "#f1f3f6"
TIME, ENERGY, BYTES = "#0072b2", "#d55e00", "#009e73"  # Okabe and Ito
COSTS = (("time_s", TIME, "-"), ("energy_j", ENERGY, (0, (5, 1.5))), ("bytes", BYTES, (0, (1.5, 1))))
# Paul Tol's "muted", and his discrete rainbow for fleets that need more: both safe for colour-blind readers.
FEW = ("#332288", "#44aa99", "#cc6677", "#ddcc77", "#88ccee", "#882255", "#117733", "#aa4499", "#999933")
MANY = ("#aa6f9e", "#882e72", "#1965b0", "#5289c7", "#7bafde", "#4eb265", "#90c987", "#cae0ab", "#f7f056", "#f6c141",
        "#f1932d", "#e8601c", "#dc050c", "#a5170e", "#72190e", "#42150a")  # fmt: skip

MARK = {"absent": "○", "away": "◌", "resting": "○", "done": "●", "left": "✕", "late": "◷", "infeasible": "▲",
        "flat": "▽", c.READY: "○"}  # fmt: skip
LOST = {"left": "#b3261e", "late": "#a15c00", "infeasible": "#7a2e7a", "flat": "#b3261e"}
TINT = {**LOST, "done": "#00694d"}
SHADES, SPARK = "·░▒▓█", "▁▂▃▄▅▆▇█"

_HALO = {"boxstyle": "round,pad=0.1", "fc": "white", "ec": "none", "alpha": 0.85}


class History:
    """What the curves need, one entry per round."""

    KEYS = ("progress", "time_s", "energy_j", "bytes", "sync_interval", "round_time_s")

    def __init__(self) -> None:
        self.rows: list[tuple[float, ...]] = [(0.0,) * len(self.KEYS)]  # the start, then one per round
        self.end_reason = ""

    def append(self, info: dict[str, Any]) -> None:
        """Keep what is drawn of a round's `info`."""
        self.rows.append(tuple(float(info[key]) for key in self.KEYS))
        self.end_reason = str(info.get("end_reason", ""))

    def series(self, key: str) -> NDArray[np.float64]:
        """(1 + rounds,) values of a key of `info`, 0 first."""
        return np.array(self.rows)[:, self.KEYS.index(key)]


class _View:
    """What both renderings read from a core of one episode."""

    def __init__(self, core: Core, blocks: Blocks) -> None:
        self.core, self.scenario, self.names = core, core.world().scenario, core.world().arrays.names
        n = len(self.names)
        self.title, self.round = self.scenario.title or self.scenario.name, int(core.round[0])
        self.parameters, self.telemetry = core.fleets.parameters[core.world_index[0], :n], core.telemetry[0, :n]
        self.shares, self.up_bps, self.down_bps = core.shares[0, :n], *core.heard[0, :n, [UP_BPS, DOWN_BPS]]
        self.status = core.status(0)
        self.done = np.array([status == "done" for status in self.status])
        self.battery = core.conditions[0, :n, c.CHARGE_J] / np.maximum(self.parameters[:, c.BATTERY_J], 1e-9)
        self.reference = core.reference[0]
        self.spent, self.limit = core.spent[0] / self.reference[:3], core.budgets[0, :3] / self.reference[:3]
        layers = model_for(self.scenario.workload, 1, self.scenario.name).neuron_map.layers
        # Deep encoders have more layers than there is room for: show some from bottom to top.
        shown = np.unique(np.linspace(0, len(layers) - 1, min(len(layers), MAX_LAYERS)).round().astype(int))
        self.hidden = len(layers) - len(shown)
        self.layers = [(layers[i].name, layers[i].neurons) for i in shown]
        self.none = np.array([], dtype=np.int64)
        # What was meant for a machine that was not there, or that it cannot hold, was never sent.
        sent = [len(b) > 0 and status not in ("away", "infeasible") for b, status in zip(blocks, self.status, strict=True)]
        self.blocks = [[np.asarray(b[i]) if was else self.none for b, was in zip(blocks, sent, strict=True)] for i in shown]


def _quantity(value: float, unit: str) -> str:
    factor, prefix = next((f, p) for f, p in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (0.0, "")) if value >= f)
    return f"{value / (factor or 1.0):.3g} {prefix}{unit}"


def _clock(s: float) -> str:
    return f"{s:.3g} s" if s < 120 else f"{s / 60:.0f} min" if s < 7200 else f"{s / 3600:.1f} h"


def _short(name: str, most: int) -> str:
    """The middle goes: the end tells machines of one group apart."""
    tail = min(6, max(most - 2, 1))
    return name if len(name) <= most else f"{name[: max(most - 1 - tail, 0)]}…{name[-tail:]}"


def _pale(color: str, strength: float) -> str:
    return to_hex(tuple(1 - strength * (1 - v) for v in to_rgb(color)))  # type: ignore[arg-type]


def render_rgb(core: Core, history: History, blocks: Blocks) -> NDArray[np.uint8]:
    """Draw an episode's state.

    Args:
        core: of one episode.
        history: its rounds so far.
        blocks: per machine and layer, indices of the neurons it trained last round; empty where it rested.

    Returns:
        (800, 1200, 3) pixels; the same state gives the same ones.
    """
    view = _View(core, blocks)
    figure = Figure(figsize=(WIDTH / DPI, HEIGHT / DPI), dpi=DPI, facecolor="white")
    canvas = FigureCanvasAgg(figure)
    page = figure.add_axes((0, 0, 1, 1), xlim=(0, WIDTH), ylim=(HEIGHT, 0))  # in pixels, from the top left
    page.set_axis_off()
    _header(page, view, history)
    _fleet(page, view)
    _curves(figure, view, history)
    canvas.draw()
    return np.array(canvas.buffer_rgba())[:, :, :3].copy()


def _write(page: Axes, x: float, y: float, text: str, size: float = 8, color: str = INK, **style: Any) -> None:
    page.text(x, y, text, **{"fontsize": size, "color": color, "va": "center", "family": "DejaVu Sans",
                             "parse_math": False, **style})  # fmt: skip


def _header(page: Axes, view: _View, history: History) -> None:
    _write(page, 24, 34, _short(view.title, 46), 17, weight="bold")
    where = f"round {view.round} of at most {int(view.core.budgets[0, 3])}"
    if view.round:
        where += f"   ·   H = {int(view.core.steps[0])}   ·   {view.done.sum()} of {len(view.names)} blocks came back"
    where += f"   ·   {history.end_reason}" if history.end_reason else ""
    _write(page, 24, 63, where, 9.5, MUTED)
    progress = float(view.core.progress[0])
    tiles = [("progress", f"{100 * progress:.0f} %", "", progress, INK)]
    for (key, color, _), spent, limit in zip(COSTS, view.spent, view.limit, strict=True):
        tiles.append((f"{key.split('_')[0]} / reference", f"{spent:.2f}", f"of {limit:.3g}", spent / limit, color))
    for i, (label, value, limit, part, color) in enumerate(tiles):
        x, width = 660 + 133 * i, 117
        _write(page, x, 22, label, 8, MUTED)
        _write(page, x, 45, value, 16, weight="bold")
        _write(page, x + width, 48, limit, 8, MUTED, ha="right")
        page.add_patch(Rectangle((x, 62), width, 5, color=LANE, lw=0))
        page.add_patch(Rectangle((x, 62), width * float(np.clip(part, 0, 1)), 5, color=color, lw=0))
    page.plot((24, WIDTH - 24), (86, 86), color=RULE, lw=0.8)


def _fleet(page: Axes, view: _View) -> None:
    """Rows of machines: the network's tree on their left, their blocks on their right."""
    n = len(view.names)
    height = min((BOTTOM - TOP) / n, 110.0)
    rows = (TOP + BOTTOM) / 2 + height * (np.arange(n, dtype=np.float64) - (n - 1) / 2)
    palette = FEW if n <= len(FEW) else MANY
    # Neighbours in a short fleet keep the rainbow's whole range between them.
    colors = [palette[k if n <= len(FEW) else k * len(MANY) // n] for k in range(n)]
    _write(page, 24, 108, "Fleet", 10, weight="bold")
    _write(page, 72, 109, "node: throughput    line: uplink rate    dashed: took no part, or lost", 7, MUTED)
    _tree(page, view, rows, height, colors)
    powered = view.parameters[:, c.BATTERY_J] > 0
    for k, y in enumerate(rows):
        _machine(page, view, k, y, height)
        if powered[k]:
            _battery(page, view, k, y, min(5.0, 0.35 * height))
    _strips(page, view, rows, height, colors, 508.0 if powered.any() else 456.0)


def _tree(page: Axes, view: _View, rows: NDArray[np.float64], height: float, colors: list[str]) -> None:
    graph = fleet_graph(view.scenario.fleet)
    tree = nx.bfs_tree(routing_tree(graph), SERVER)
    depth = nx.single_source_shortest_path_length(tree, SERVER)
    at = _places(tree, dict(zip(view.names, rows.tolist(), strict=True)), depth)
    rate = dict(zip(view.names, np.where(view.done, view.up_bps, 0.0), strict=True))
    hops = [node for node in reversed(list(nx.topological_sort(tree))) if node not in rate]
    for node in hops:
        rate[node] = sum(rate[below] for below in tree[node])
    color = dict(zip(view.names, colors, strict=True))
    spare = [(a, b) for a, b in graph.edges if a in at and b in at and not (tree.has_edge(a, b) or tree.has_edge(b, a))]
    for a, b in spare:
        page.add_patch(_curve(at[a], at[b], ec=MUTED, lw=1.3, ls=(0, (1, 1.6))))
    if spare:
        _write(page, 402, 109, "dotted: spare", 7, MUTED)
    for above, node in tree.edges:
        busy = rate[node] > 0
        width = float(np.clip(1.2 + 1.3 * np.log10(rate[node] / 2e5), 1.0, 5.0)) if busy else 1.1
        tint, style = color.get(node, MUTED) if busy else "#b4bcc8", "-" if busy or not view.round else (0, (3, 2.2))
        page.add_patch(_curve(at[above], at[node], ec=tint, lw=width, ls=style, capstyle="round"))
    for node in hops[:-1]:  # the last is the server
        (x, y), link = at[node], graph.edges[node, next(tree.predecessors(node))]
        page.add_patch(Rectangle((x - 5, y - 5), 10, 10, angle=45, rotation_point="center", fc="white", ec=INK))
        name = node if graph.nodes[node]["kind"] == "relay" else link["shared"]
        # Columns of a deep mesh are narrow: names alternate above and below, and there is no room for rates.
        narrow = max(depth[hop] for hop in hops) > 3
        _write(page, x, y - 17 if not narrow or depth[node] % 2 else y + 17, _short(name, 16), 7.5, ha="center", bbox=_HALO)
        if not narrow:
            rates = f"↑{link['uplink_mbps']:g} ↓{link['downlink_mbps']:g} Mbit/s"
            _write(page, x, y + 18, rates, 6.5, MUTED, ha="center", bbox=_HALO)
    x, y = at[SERVER]
    page.add_patch(FancyBboxPatch((x - 25, y - 13), 50, 26, boxstyle="round,pad=0,rounding_size=6", fc=INK, lw=0))
    _write(page, x, y, "server", 8.5, "white", ha="center", weight="bold")
    speed = np.log10(view.parameters[:, c.FLOPS_PER_S])
    sizes = min(0.46 * height, 15.0) * (1.0 + 0.5 * (speed - speed.max()) / max(float(np.ptp(speed)), 0.5))
    for name, status, radius in zip(view.names, view.status, sizes, strict=True):
        gone = status in LOST or status == "away"
        fill = _pale(color[name], 1.0 if status == "done" else 0.75 if status == c.READY else 0.25)
        page.add_patch(Circle(at[name], radius, fc="white" if status == "away" else fill, lw=1.6,
                              ec=TINT.get(status, MUTED) if gone else color[name],
                              ls=(0, (2.2, 1.6)) if gone else "-", zorder=3))  # fmt: skip
        if status in LOST:
            _write(page, *at[name], MARK[status], min(8.0, 0.7 * radius), TINT[status], ha="center", zorder=4)


def _places(tree: nx.DiGraph, machines: dict[str, float], depth: dict[Any, int]) -> dict[Any, Point]:
    """Where nodes are drawn: machines on their rows, others in columns, the further to the left the nearer the server."""
    places = {name: (LAST, y) for name, y in machines.items()}
    columns = 1 + max(depth[node] for node in tree if node not in machines)
    for hops in reversed(range(columns)):
        column = [node for node in tree if depth[node] == hops and node not in machines]
        below = [[places[node][1] for node in tree[above]] or list(machines.values()) for above in column]
        means = [float(np.mean(heights)) for heights in below]
        # A mesh need not be in the order of the rows: nodes of a column keep apart, within the fleet's part of the page.
        apart, y = min(50.0, (BOTTOM - TOP) / len(column)), -np.inf
        for i, k in enumerate(np.argsort(means, kind="stable")):
            y = min(max(means[k], y + apart), BOTTOM - (len(column) - 1 - i) * apart)
            places[column[k]] = (FIRST + (LAST - FIRST) * hops / columns, y)
    return places


def _curve(start: Point, end: Point, **style: Any) -> PathPatch:
    (x0, y0), (x1, y1) = start, end
    bend = (x0 + x1) / 2
    curve = Curve([(x0, y0), (bend, y0), (bend, y1), (x1, y1)], [Curve.MOVETO] + [Curve.CURVE4] * 3)
    return PathPatch(curve, fill=False, alpha=0.85, **style)


def _machine(page: Axes, view: _View, k: int, y: float, height: float) -> None:
    """Name, what became of it, and, where there is room, what its round cost and its rates."""
    t, status, x = view.telemetry[k], view.status[k], 276
    lines = 1 if height < 21 else 2 if height < 44 else 3
    size = min(9.0, 0.32 * height) if lines > 1 else float(np.clip(0.55 * height, 4.0, 8.0))
    small, gap = min(7.2, 0.8 * size), min(0.5 * height, 15.0)
    y -= gap * (lines - 1) / 2
    _write(page, x, y, _short(view.names[k], 20), size, weight="bold")
    if lines > 1:
        _write(page, x, y + gap, f"{MARK[status]} {status}", small, TINT.get(status, MUTED))
        note = _quantity(view.parameters[k, c.FLOPS_PER_S], "FLOP/s")
        if t[c.FINISH_S] > 0:
            note = f"{100 * view.shares[k]:.0f} %  {_clock(t[c.FINISH_S])}  {_quantity(t[c.ENERGY_J], 'J')}"
        _write(page, x + 62, y + gap, note, small, MUTED)
    if lines > 2:
        up, down = view.up_bps[k] / 1e6, view.down_bps[k] / 1e6
        _write(page, x, y + 2 * gap, f"↑ {up:.3g}   ↓ {down:.3g} Mbit/s", small, MUTED)


def _battery(page: Axes, view: _View, k: int, y: float, half: float) -> None:
    x, width, level, reserve = 444, 24, float(view.battery[k]), float(view.parameters[k, c.BATTERY_RESERVE])
    low = level <= reserve + 0.1
    page.add_patch(Rectangle((x + width, y - 2), 2, 4, fc=MUTED, lw=0))
    page.add_patch(Rectangle((x, y - half), width * level, 2 * half, fc=ENERGY if low else BYTES, lw=0))
    page.plot((x + width * reserve,) * 2, (y - half, y + half), color=INK, lw=0.8, solid_capstyle="butt")
    page.add_patch(Rectangle((x, y - half), width, 2 * half, fill=False, ec=MUTED, lw=0.9))
    _write(page, x + width + 5, y, f"{100 * level:.0f}%", 7, TINT["left"] if low else MUTED)


def _cells(index: NDArray[np.int64], x: float, pitch: float, top: float, height: float) -> list[Outline]:
    """Outlines of a block's neurons in a lane; cells too narrow for gaps between them join into runs."""
    gap = 1.0 if pitch >= 4 else 0.0
    breaks = np.arange(1, len(index)) if gap else np.flatnonzero(np.diff(index) > 1) + 1
    ends = [(x + pitch * run[0], x + pitch * (run[-1] + 1) - gap) for run in np.split(index, breaks) if len(run)]
    return [_box(float(left), float(right), top, height) for left, right in ends]


def _box(left: float, right: float, top: float, height: float) -> Outline:
    return [(left, top), (right, top), (right, top + height), (left, top + height)]


def _strips(page: Axes, view: _View, rows: NDArray[np.float64], height: float, colors: list[str], left: float) -> None:
    """Per layer one lane per machine, and under them how many blocks cover each neuron."""
    gap, n = 16.0, len(view.names)
    sizes = np.sqrt([neurons for _, neurons in view.layers])  # narrow layers stay readable beside wide ones
    widths = sizes / sizes.sum() * (WIDTH - 24 - left - gap * (len(sizes) - 1))
    lane = min(0.72 * height, 30.0 if n > 3 else 48.0)
    x, floor, tall = left, 572.0, 34.0
    cells, fills = list[Outline](), list[str]()

    def paint(outlines: list[Outline], color: str) -> None:
        cells.extend(outlines)
        fills.extend([color] * len(outlines))

    for i, ((name, neurons), width) in enumerate(zip(view.layers, widths, strict=True)):
        size = 8.5 if width > 50 else 7.0 if width > 32 else 6.0  # a bold letter is about three quarters as wide as it is high
        _write(page, x, 104, _short(name, max(int((width + gap) / (0.95 * size)), 3)), size, weight="bold")
        _write(page, x, 119, f"{neurons} neurons" if width > 60 else str(neurons), 7, MUTED)
        for y, status, color, index in zip(rows, view.status, colors, view.blocks[i], strict=True):
            low = y - lane / 2
            paint([_box(x, x + width, low, lane)], LANE)
            paint(_cells(index, x, width / neurons, low, lane), color if status == "done" else _pale(color, 0.45))
        held = np.concatenate([b for b, done in zip(view.blocks[i], view.done, strict=True) if done] or [view.none])
        cover, part = np.bincount(held, minlength=neurons), tall / n
        for level in range(int(cover.max())):
            shade = _pale("#475467", min(1.0, 0.45 + 0.55 * level / max(n - 1, 1)))
            paint(_cells(np.flatnonzero(cover > level), x, width / neurons, floor - part * (level + 1), part), shade)
        page.plot((x, x + width), (floor, floor), color=MUTED, lw=0.8, solid_capstyle="butt")
        if view.round:
            rest = f", {100 * float((cover == 0).mean()):.0f} % rest" if (cover == 0).any() and width > 110 else ""
            _write(page, x, floor + 10, f"{'mean ' if width > 50 else ''}{cover.mean():.1f}{rest}", 7, MUTED)
        x += width + gap
    page.add_collection(PolyCollection(cells, facecolors=fills, edgecolors="none", antialiaseds=False, zorder=2),
                        autolim=False)  # fmt: skip
    if view.hidden:
        _write(page, left - 10, floor + 10, f"{view.hidden} layers not shown", 7, MUTED, ha="right")
    _write(page, left - 10, floor - 16, "machines\nper neuron", 7, MUTED, ha="right")
    page.plot((24, WIDTH - 24), (594, 594), color=RULE, lw=0.8)


def _axes(figure: Figure, place: int, title: str, label: str) -> Axes:
    axes = figure.add_axes(((48 + 296 * place) / WIDTH, 46 / HEIGHT, 240 / WIDTH, 124 / HEIGHT))
    axes.set_title(title, loc="left", fontsize=9.5, fontweight="bold", color=INK, family="DejaVu Sans", pad=7)
    axes.set_xlabel(label, fontsize=8, color=MUTED, family="DejaVu Sans", labelpad=2)
    axes.tick_params(labelsize=7.5, colors=MUTED, length=0, labelfontfamily="DejaVu Sans")
    axes.grid(True, axis="y", color=RULE, lw=0.6)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set(visible=side == "bottom", color=MUTED, linewidth=0.8)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    return axes


def _curves(figure: Figure, view: _View, history: History) -> None:
    """Progress over simulated time; what it cost, H and round time over rounds."""
    time_ref, _, _, rounds_ref = (float(v) for v in view.reference)
    time, progress = history.series("time_s"), history.series("progress")
    longest = max(1.08 * time_ref, 1.03 * float(time[-1]))
    unit, scale = ("s", 1.0) if longest < 600 else ("min", 60.0) if longest < 36_000 else ("h", 3600.0)
    note: dict[str, Any] = {"fontsize": 7, "color": MUTED, "family": "DejaVu Sans"}

    axes = _axes(figure, 0, "Progress", f"simulated time ({unit})")
    axes.set(xlim=(0, longest / scale), ylim=(min(0.0, float(progress.min())), 1.12))
    axes.set_yticks([0.0, 0.25, 0.5, 0.75, 1.0], ["0", "", "0.5", "", "1"])
    axes.axhline(1.0, color=INK, lw=1.0, ls=(0, (4, 2)))
    axes.text(0.01, 1.01, "target", va="bottom", transform=axes.get_yaxis_transform(), **note)
    axes.axvline(time_ref / scale, color=TIME, lw=1.0, ls=":")
    axes.text(time_ref / scale, 0.02, "reference ", ha="right", va="bottom", **note)
    axes.fill_between(time / scale, progress, color=INK, alpha=0.08, lw=0)
    axes.plot(time / scale, progress, color=INK, lw=1.8, marker="o", ms=4.5, markevery=[-1], clip_on=False)

    most = max(1.05 * rounds_ref, len(time) - 0.5, 5.0)
    rounds = np.arange(len(time))
    axes = _axes(figure, 1, "Cost", "round")
    for i, (key, color, style) in enumerate(COSTS):
        spent = history.series(key) / view.reference[i]
        axes.plot(rounds, spent, color=color, lw=1.8, ls=style, label=key.split("_")[0])
        axes.axhline(view.limit[i], color=color, lw=0.9, alpha=0.6)
    axes.axhline(1.0, color=INK, lw=1.0, ls=":")
    axes.text(0.01, 1.0, "reference", va="bottom", transform=axes.get_yaxis_transform(), **note)
    axes.set(xlim=(0, most), ylim=(0, 1.15 * max(1.0, float(view.spent.max()))))
    axes.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=3, frameon=False, labelcolor=INK,
                prop={"size": 7, "family": "DejaVu Sans"}, handlelength=1.6, borderaxespad=0.0,
                columnspacing=0.9, handletextpad=0.4)  # fmt: skip

    axes = _axes(figure, 2, "Sync interval H", "round")
    menu = view.scenario.decision.sync_intervals
    axes.set(yscale="log", xlim=(0, most), ylim=(menu[0] / 1.4, menu[-1] * 1.4))
    axes.yaxis.set_minor_locator(NullLocator())
    ticks = menu[:: 1 + (len(menu) - 1) // 7]
    axes.set_yticks(ticks, [str(h) for h in ticks])
    axes.plot(rounds[1:], history.series("sync_interval")[1:], color=INK, lw=1.2, drawstyle="steps-mid", marker="o",
              ms=2.5)  # fmt: skip

    axes = _axes(figure, 3, "Round time (s)", "round")
    each = history.series("round_time_s")[1:]
    axes.bar(rounds[1:], each, width=0.8, color=TIME, alpha=0.75, lw=0)
    axes.axhline(time_ref / rounds_ref, color=INK, lw=1.0, ls=":")
    axes.set(xlim=(0, most), ylim=(0, 1.2 * max(time_ref / rounds_ref, *each, 1e-9)))
    axes.text(
        0.99, time_ref / rounds_ref, "reference", ha="right", va="bottom", transform=axes.get_yaxis_transform(), **note
    )


def _strip(index: NDArray[np.int64], neurons: int, width: int) -> str:
    """A block in coarse characters: the darker, the more of those neurons it trains."""
    held = np.zeros(neurons)
    held[index] = 1.0
    parts = [float(part.mean()) for part in np.array_split(held, min(width, neurons))]
    return "".join(SHADES[int(np.ceil(part * (len(SHADES) - 1)))] for part in parts)


def render_ansi(core: Core, history: History, blocks: Blocks) -> str:
    """An episode's state as text; arguments as `render_rgb`."""
    view = _View(core, blocks)
    names = max([len("machine"), *(len(name) for name in view.names)])
    head = f"{'machine':<{names}} {'status':<12} {'share':<9} {'s/step':>7} {'↑/↓ Mbit/s':>11} {'energy':>7} "
    room = max(2, (ANSI_WIDTH - len(head) - len(view.layers)) // len(view.layers))
    head += " ".join(f"{name.split('.')[-1][-room:]:<{min(room, n)}}" for name, n in view.layers)
    cost = ", ".join(f"{x}/{x}_ref {v:.2f}" for x, v in zip("TEB", view.spent, strict=True))
    where = f"round {view.round}, H {int(core.steps[0])}, progress {float(core.progress[0]):.3f}, {cost}"
    lines = [_short(view.title, ANSI_WIDTH), where, head.rstrip()]
    for k, name in enumerate(view.names):
        t, share = view.telemetry[k], float(view.shares[k])
        bar = "█" * round(4 * share) or ("▏" if share > 0 else "")
        step = f"{t[c.STEP_S]:.3g}" if t[c.STEP_S] > 0 else "-"
        status = f"{MARK[view.status[k]]} {view.status[k]}"
        # Thousandths at most: thin links would push the table past its width.
        rate = "/".join(f"{round(float(bps[k]) / 1e6, 3):.3g}" for bps in (view.up_bps, view.down_bps))
        energy = _quantity(t[c.ENERGY_J], "J")
        strips = [_strip(held[k], n, room) for held, (_, n) in zip(view.blocks, view.layers, strict=True)]
        row = f"{name:<{names}} {status:<12} {bar:<4} {100 * share:>3.0f}% {step:>7} {rate:>11} {energy:>7}"
        lines.append(" ".join([row, *strips]))
    kept = np.unique(np.linspace(0, len(history.rows) - 1, 60).round().astype(int))
    spark = "".join(SPARK[int(np.clip(p, 0, 1) * (len(SPARK) - 1))] for p in history.series("progress")[kept])
    lines.append(f"progress {spark}" + (f"  {history.end_reason}" if history.end_reason else ""))
    return "\n".join(lines) + "\n"
