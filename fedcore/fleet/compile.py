"""A validated scenario as the arrays that the simulation works on, in SI units, padded to a common size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedcore.fleet import columns as c
from fedcore.fleet.graph import fleet_graph, route, routing_tree
from scenarios.errors import InputError
from scenarios.schema import Availability, Fleet, Group
from scenarios.traces import LinkTrace, read_link_trace, read_presence

JOULES_PER_KWH = 3.6e6
MAX_LINKS = 32
HOUR_S, DAY_S = 3600.0, 86_400.0


@dataclass(frozen=True)
class FleetArrays:
    """One fleet.

    Attributes:
        parameters: (K_max, N_PARAMETERS) float64; rows beyond the fleet's machines are 0.
        fleet: (N_FLEET,) float64.
        link_up_bps: (MAX_LINKS,) shared links, the server's own first; unused ones infinite.
        link_down_bps: (MAX_LINKS,).
        via: (K_max, MAX_LINKS) bool.
        names: of the machines.
        traces: recorded capacities, one per row that column TRACE points at.
        windows: (W, 2) seconds from and to which machines are there, in runs of rows that columns WINDOWS and N_WINDOWS
            point at; a window may end beyond its period, that is, run over midnight.
    """

    parameters: NDArray[np.float64]
    fleet: NDArray[np.float64]
    link_up_bps: NDArray[np.float64]
    link_down_bps: NDArray[np.float64]
    via: NDArray[np.bool_]
    names: tuple[str, ...]
    traces: tuple[LinkTrace, ...]
    windows: NDArray[np.float64]

    @property
    def machines(self) -> int:
        """Number of machines that there are."""
        return len(self.names)


class Fleets(NamedTuple):
    """W fleets stacked, for array code.

    Attributes:
        parameters: (W, K_max, N_PARAMETERS).
        fleet: (W, N_FLEET).
        link_up_bps: (W, MAX_LINKS).
        link_down_bps: (W, MAX_LINKS).
        via: (W, K_max, MAX_LINKS).
        windows: (V, 2) of all fleets.
        trace_at: (T + 1,) where each trace starts in `trace_bits`; it has one entry more than seconds.
        trace_bits: (2, S) bits that a trace's link could have carried from its start, by second: up, down.
    """

    parameters: NDArray[np.float64]
    fleet: NDArray[np.float64]
    link_up_bps: NDArray[np.float64]
    link_down_bps: NDArray[np.float64]
    via: NDArray[np.bool_]
    windows: NDArray[np.float64]
    trace_at: NDArray[np.int64]
    trace_bits: NDArray[np.float64]


def stack_fleets(fleets: Sequence[FleetArrays]) -> Fleets:
    """Stack fleets that are padded to the same K_max."""
    parameters = np.stack([f.parameters for f in fleets])
    traces: list[LinkTrace] = []
    windows = 0
    for row, f in zip(parameters, fleets, strict=True):
        row[:, c.TRACE] = np.where(row[:, c.TRACE] >= 0, row[:, c.TRACE] + len(traces), -1.0)
        row[:, c.WINDOWS] += windows
        traces += f.traces
        windows += len(f.windows)
    lengths = [len(trace.up_bps) + 1 for trace in traces]
    bits = [np.stack([np.concatenate([[0.0], np.cumsum(r)]) for r in (t.up_bps, t.down_bps)]) for t in traces]
    return Fleets(
        parameters,
        np.stack([f.fleet for f in fleets]),
        np.stack([f.link_up_bps for f in fleets]),
        np.stack([f.link_down_bps for f in fleets]),
        np.stack([f.via for f in fleets]),
        np.concatenate([f.windows for f in fleets]),
        np.cumsum([0, *lengths]).astype(np.int64),
        np.concatenate(bits, axis=1) if bits else np.zeros((2, 0)),
    )


def _windows(availability: Availability | None) -> tuple[list[tuple[float, float]], float, bool]:
    """Stretches of presence in seconds, their period, and whether they go by the time of day."""
    if availability is None or not (availability.daily_hours or availability.trace):
        return [], 0.0, False
    if availability.trace is not None:
        rows = read_presence(availability.trace)
        windows, period_s = [(float(a), float(b)) for a, b in rows], float(rows[-1, 1])
    else:
        hours = sorted(availability.daily_hours)
        windows, period_s = [(a * HOUR_S, (b if b > a else b + 24.0) * HOUR_S) for a, b in hours], DAY_S
    joined = _joined(windows, period_s)
    return joined, period_s if joined else 0.0, bool(joined) and availability.trace is None


def _joined(windows: list[tuple[float, float]], period_s: float) -> list[tuple[float, float]]:
    """Stretches without those that touch or overlap another, also around the period's end; none where nothing is left out, as
    of a machine that is always there.

    Args:
        windows: (start, end) ascending by start, in [0, period), ends up to a period later.
        period_s: after which they repeat.
    """
    joined: list[tuple[float, float]] = []
    for start, end in windows:
        if joined and start <= joined[-1][1]:
            joined[-1] = joined[-1][0], max(joined[-1][1], end)
        else:
            joined.append((start, end))
    while len(joined) > 1 and joined[-1][1] >= joined[0][0] + period_s:
        start, end = joined.pop(0)
        joined[-1] = joined[-1][0], max(joined[-1][1], end + period_s)
    return [] if joined[-1][1] - joined[-1][0] >= period_s else joined


def _blank_row() -> NDArray[np.float64]:
    """Parameters of no machine: nothing recorded, no outages, and costs as they are until a workload says more, see `world`."""
    row = np.zeros(c.N_PARAMETERS)
    row[c.TRACE], row[c.OUTAGE_FACTOR], row[c.OF_BATCH], row[c.MOST] = -1.0, 1.0, 1.0, np.inf
    return row


def _machine_row(group: Group) -> NDArray[np.float64]:
    row = _blank_row()
    d, n = group.device, group.link
    row[c.FLOPS_PER_S], row[c.STEP_OVERHEAD_S], row[c.HALF_ROWS] = d.throughput_gflops * 1e9, d.step_overhead_s, d.half_rows
    row[c.MEMORY_BYTES], row[c.STEP_JITTER] = d.memory_mb * 1e6, d.step_jitter
    row[c.ACTIVE_W], row[c.IDLE_W] = d.active_power_w, d.idle_power_w
    row[c.THROTTLE] = 1.0
    if d.thermal is not None:
        row[c.THROTTLE], row[c.HEAT_S], row[c.COOL_S] = d.thermal.slowdown, d.thermal.heating_s, d.thermal.cooling_s
    row[c.UP_BPS], row[c.DOWN_BPS], row[c.LATENCY_S] = n.uplink_mbps * 1e6, n.downlink_mbps * 1e6, n.latency_s
    row[c.LINK_SIGMA], row[c.LINK_TAU_S], row[c.LINK_SPREAD] = n.variability, n.correlation_s, n.mean_spread
    row[c.TX_J_PER_BIT], row[c.RX_J_PER_BIT] = n.transmit_nj_per_bit * 1e-9, n.receive_nj_per_bit * 1e-9
    if n.outages is not None:
        row[c.OUTAGE_FACTOR] = n.outages.rate_fraction
        row[c.OUTAGE_UP_S], row[c.OUTAGE_DOWN_S] = n.outages.mean_up_s, n.outages.mean_down_s
    row[c.SLOWDOWN] = 1.0
    if group.load is not None:
        row[c.SLOWDOWN], row[c.BUSY_S] = group.load.slowdown, group.load.mean_busy_s
        row[c.FREE_S] = group.load.mean_free_s
    if group.availability is not None:
        row[c.ON_S], row[c.OFF_S] = group.availability.mean_on_s or 0.0, group.availability.mean_off_s or 0.0
        row[c.JOIN_S] = group.availability.joins_after_s
    if group.battery is not None:
        b = group.battery
        row[c.BATTERY_J], row[c.BATTERY_START], row[c.BATTERY_RESERVE] = (
            b.capacity_j,
            b.initial_fraction,
            b.reserve_fraction,
        )
        row[c.SOLAR_W], row[c.CLOUDINESS], row[c.CLOUD_TAU_S] = b.solar_peak_w, b.cloudiness, b.cloud_correlation_s
    row[c.IMAGES] = group.images
    return row


def compile_fleet(fleet: Fleet, deadline_s: float | None, max_machines: int) -> FleetArrays:
    """Compile a fleet.

    Args:
        fleet: validated.
        deadline_s: of every round, or None.
        max_machines: rows to pad to, K_max.

    Raises:
        InputError: more machines or shared links than there is room for, or a trace that does not read.
    """
    names, machines = fleet.machine_names, fleet.machines
    if len(names) > max_machines:
        raise InputError(
            f"the fleet has {len(names)} machines, expected at most max_machines={max_machines}: raise max_machines"
        )
    if len(fleet.links) + 1 > MAX_LINKS:
        raise InputError(f"the fleet has {len(fleet.links)} shared links, expected at most {MAX_LINKS - 1}")
    parameters = np.tile(_blank_row(), (max_machines, 1))
    via = np.zeros((max_machines, MAX_LINKS), dtype=np.bool_)
    tree = routing_tree(fleet_graph(fleet))
    order = [link.name for link in fleet.links]
    traces: dict[str, LinkTrace] = {}
    windows: list[tuple[float, float]] = []
    for k, (name, group) in enumerate(zip(names, machines, strict=True)):
        row = _machine_row(group)
        if group.link.trace is not None:
            traces.setdefault(group.link.trace, read_link_trace(group.link.trace))
            row[c.TRACE] = list(traces).index(group.link.trace)
        there, row[c.PERIOD_S], row[c.WINDOWS_BY_CLOCK] = _windows(group.availability)
        row[c.WINDOWS], row[c.N_WINDOWS] = len(windows), len(there)
        windows += there
        via[k, 0] = True  # the server's own link: every flow crosses it
        for link in route(tree, name):
            via[k, 1 + order.index(link)] = True
            row[c.LATENCY_S] += fleet.links[order.index(link)].latency_s
        parameters[k] = row
    up, down = np.full(MAX_LINKS, np.inf), np.full(MAX_LINKS, np.inf)
    rates = [(fleet.server.uplink_mbps, fleet.server.downlink_mbps)]
    rates += [(link.uplink_mbps, link.downlink_mbps) for link in fleet.links]
    for j, (up_mbps, down_mbps) in enumerate(rates):
        up[j], down[j] = up_mbps * 1e6, down_mbps * 1e6
    scalars = np.zeros(c.N_FLEET)
    scalars[c.SERVER_J_PER_BIT] = fleet.server.nj_per_bit * 1e-9
    scalars[c.OVERHEAD_S], scalars[c.WAIT_S] = fleet.server.round_overhead_s, fleet.server.wait_s
    scalars[c.DEADLINE_S], scalars[c.LINKS], scalars[c.MACHINES] = deadline_s or 0.0, len(rates), len(names)
    scalars[c.START_S] = fleet.start_hour * HOUR_S
    grams = np.broadcast_to(np.asarray(fleet.grid_gco2e_per_kwh, dtype=np.float64), 24)
    scalars[c.KG_CO2E_PER_J :] = fleet.pue * grams / 1000.0 / JOULES_PER_KWH
    return FleetArrays(
        parameters, scalars, up, down, via, names, tuple(traces.values()), np.array(windows, dtype=np.float64).reshape(-1, 2)
    )
