"""A validated scenario as the arrays that the simulation works on, in SI units, padded to a common size."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedcore.fleet import columns as c
from fedcore.fleet.graph import fleet_graph, route
from scenarios.errors import InputError
from scenarios.schema import Fleet, Group

JOULES_PER_KWH = 3.6e6
MAX_LINKS = 8


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
    """

    parameters: NDArray[np.float64]
    fleet: NDArray[np.float64]
    link_up_bps: NDArray[np.float64]
    link_down_bps: NDArray[np.float64]
    via: NDArray[np.bool_]
    names: tuple[str, ...]

    @property
    def machines(self) -> int:
        """Number of machines that there are."""
        return len(self.names)


def _machine_row(group: Group) -> NDArray[np.float64]:
    row = np.zeros(c.N_PARAMETERS)
    d, n = group.device, group.link
    row[c.FLOPS_PER_S], row[c.STEP_OVERHEAD_S] = d.throughput_gflops * 1e9, d.step_overhead_s
    row[c.MEMORY_BYTES], row[c.STEP_JITTER] = d.memory_mb * 1e6, d.step_jitter
    row[c.ACTIVE_W], row[c.IDLE_W] = d.active_power_w, d.idle_power_w
    row[c.UP_BPS], row[c.DOWN_BPS], row[c.LATENCY_S] = n.uplink_mbps * 1e6, n.downlink_mbps * 1e6, n.latency_s
    row[c.LINK_SIGMA], row[c.LINK_TAU_S] = n.variability, n.correlation_s
    row[c.TX_J_PER_BIT], row[c.RX_J_PER_BIT] = n.transmit_nj_per_bit * 1e-9, n.receive_nj_per_bit * 1e-9
    row[c.SLOWDOWN] = 1.0
    if group.load is not None:
        row[c.SLOWDOWN], row[c.BUSY_S] = group.load.slowdown, group.load.mean_busy_s
        row[c.FREE_S] = group.load.mean_free_s
    if group.availability is not None:
        row[c.ON_S], row[c.OFF_S] = group.availability.mean_on_s, group.availability.mean_off_s
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
        InputError: more machines or shared links than there is room for.
    """
    names, machines = fleet.machine_names, fleet.machines
    if len(names) > max_machines:
        raise InputError(
            f"the fleet has {len(names)} machines, expected at most max_machines={max_machines}: raise max_machines"
        )
    if len(fleet.links) + 1 > MAX_LINKS:
        raise InputError(f"the fleet has {len(fleet.links)} shared links, expected at most {MAX_LINKS - 1}")
    parameters = np.zeros((max_machines, c.N_PARAMETERS))
    via = np.zeros((max_machines, MAX_LINKS), dtype=np.bool_)
    graph = fleet_graph(fleet)
    order = [link.name for link in fleet.links]
    for k, (name, group) in enumerate(zip(names, machines, strict=True)):
        parameters[k] = _machine_row(group)
        via[k, 0] = True  # the server's own link: every flow crosses it
        for link in route(graph, name):
            via[k, 1 + order.index(link)] = True
    up, down = np.full(MAX_LINKS, np.inf), np.full(MAX_LINKS, np.inf)
    rates = [(fleet.server.uplink_mbps, fleet.server.downlink_mbps)]
    rates += [(link.uplink_mbps, link.downlink_mbps) for link in fleet.links]
    for j, (up_mbps, down_mbps) in enumerate(rates):
        up[j], down[j] = up_mbps * 1e6, down_mbps * 1e6
    scalars = np.zeros(c.N_FLEET)
    scalars[c.SERVER_J_PER_BIT] = fleet.server.nj_per_bit * 1e-9
    scalars[c.OVERHEAD_S], scalars[c.WAIT_S] = fleet.server.round_overhead_s, fleet.server.wait_s
    scalars[c.DEADLINE_S] = deadline_s or 0.0
    scalars[c.START_S] = fleet.start_hour * 3600.0
    scalars[c.KG_CO2E_PER_J] = fleet.pue * fleet.grid_gco2e_per_kwh / 1000.0 / JOULES_PER_KWH
    return FleetArrays(parameters, scalars, up, down, via, names)
