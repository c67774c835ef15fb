"""A scenario compiled for play: fleet arrays, cost table, learning dynamics, and what the reference policy needs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numba
import numpy as np
from numpy.typing import NDArray

from fedcore.costs import GRID
from fedcore.dynamics import Calibration, Dynamics, load_calibration, remember, variety
from fedcore.fleet import columns as c
from fedcore.fleet.compile import FleetArrays, compile_fleet, stack_fleets
from fedcore.fleet.conditions import begin_rows
from fedcore.fleet.draws import PROGRESS, normal, of_round
from fedcore.fleet.round import play_rounds
from fedcore.workload import model_for, workload_costs
from scenarios.errors import InputError
from scenarios.schema import Scenario

REFERENCE_EPISODES = 128
REFERENCE_ROUNDS = 3000


@dataclass(frozen=True)
class ReferenceCost:
    """What the reference policy needs to reach the target; geometric means over simulated episodes.

    Attributes:
        time_s: T_ref.
        energy_j: E_ref.
        bytes: B_ref.
        rounds: number of its rounds.
    """

    time_s: float
    energy_j: float
    bytes: float
    rounds: float


@dataclass(frozen=True)
class World:
    """One compiled scenario.

    Attributes:
        scenario: where it comes from.
        arrays: the fleet, padded to K_max machines.
        costs: (GRID + 1, 5) cost table.
        calibration: learning dynamics and target.
        data: (K_max,) fraction of the fleet's images on each machine.
        reference: cost of the reference policy.
    """

    scenario: Scenario
    arrays: FleetArrays
    costs: NDArray[np.float64]
    calibration: Calibration
    data: NDArray[np.float64]
    reference: ReferenceCost

    @property
    def dynamics(self) -> Dynamics:
        """Of its calibration."""
        return self.calibration.dynamics

    @property
    def budgets(self) -> tuple[float, float, float, int]:
        """Time in s, energy in J, bytes, rounds."""
        b, r = self.scenario.budgets, self.reference
        factor = b.of_reference
        return (
            b.time_s or factor * r.time_s,
            b.energy_j or factor * r.energy_j,
            b.bytes or factor * r.bytes,
            b.rounds,
        )

    @property
    def max_share_index(self) -> NDArray[np.int64]:
        """Largest feasible share x GRID of every machine under its memory, (K_max,)."""
        fits = self.costs[None, :, 3] <= self.arrays.parameters[:, c.MEMORY_BYTES, None]
        return fits.cumprod(axis=1).sum(axis=1) - 1


@numba.njit(cache=True, error_model="numpy")
def _progress_noise(keys: NDArray[np.uint64], counters: NDArray[np.int64]) -> NDArray[np.float64]:
    out = np.empty(len(keys))
    for b in range(len(keys)):
        out[b] = normal(of_round(keys[b], counters[b]), PROGRESS, 0)
    return out


def progress_noise(keys: NDArray[np.uint64], counters: NDArray[np.int64]) -> NDArray[np.float64]:
    """Standard normal draws for the learning dynamics of B episodes, (B,)."""
    return _progress_noise(keys, counters)


def share_indices(shares: NDArray[np.float64]) -> NDArray[np.int64]:
    """Shares in [0, 1] on the cost table's grid."""
    return np.floor(np.clip(shares, 0.0, 1.0) * GRID + 0.5).astype(np.int64)


@lru_cache(maxsize=4096)
def _compile(text: str, max_machines: int, channels: int) -> World:
    scenario = Scenario.model_validate_json(text)
    arrays = compile_fleet(scenario.fleet, scenario.decision.deadline_s, max_machines)
    images = arrays.parameters[:, c.IMAGES]
    model_for(scenario.workload, channels, scenario.name)  # a workload that does not build is refused by name
    draft = World(
        scenario,
        arrays,
        workload_costs(scenario.workload, channels),
        load_calibration(scenario.workload.calibration),
        images / images.sum(),
        ReferenceCost(1.0, 1.0, 1.0, 1.0),
    )
    return replace(draft, reference=_reference_cost(draft))


def compile_world(scenario: Scenario, max_machines: int = 16, channels: int = 1) -> World:
    """Compile a scenario; cached by content.

    Args:
        scenario: validated.
        max_machines: K_max, rows that observations and actions are padded to.
        channels: of the images, 1 or 3.

    Raises:
        InputError: the fleet is too large, the workload does not build, or the reference policy cannot reach the target.
    """
    return _compile(scenario.model_dump_json(), max_machines, channels)


def _reference_cost(world: World) -> ReferenceCost:
    """Play the reference policy until it reaches the target."""
    n, machines = REFERENCE_EPISODES, len(world.data)
    reference = world.scenario.reference
    fleets, which, costs = stack_fleets([world.arrays]), np.zeros(n, dtype=np.int64), world.costs[None]
    data = np.broadcast_to(world.data, (n, machines))
    keys = np.random.default_rng(0).integers(2**63, size=n).astype(np.uint64)
    conditions = np.zeros((n, machines, c.N_CONDITIONS))
    begin_rows(fleets, which, keys, np.arange(n), conditions)
    share = np.full((n, machines), share_indices(np.array(reference.share)), dtype=np.int64)
    share = np.minimum(share, np.maximum(world.max_share_index, 0)[None, :])
    steps = np.full(n, reference.sync_interval, dtype=np.int64)
    telemetry, totals = np.zeros((n, machines, c.N_TELEMETRY)), np.zeros((n, c.N_TOTALS))
    participation, path = np.zeros((n, machines)), np.zeros(n)
    luck = np.exp(world.dynamics.run_spread * progress_noise(keys, np.full(n, -1, dtype=np.int64)))
    progress, spent, need = np.zeros(n), np.zeros((n, 3)), np.full((n, 4), np.nan)
    for r in range(REFERENCE_ROUNDS):
        counters = np.full(n, r, dtype=np.int64)
        play_rounds(
            fleets, costs, which, conditions, share, steps, spent[:, 0].copy(), keys, counters, telemetry, totals
        )
        spent += totals[:, [c.ROUND_S, c.TOTAL_ENERGY_J, c.TOTAL_BYTES]]
        done = telemetry[:, :, c.STATUS] == c.DONE
        participation = remember(participation, done, counters)
        work = world.dynamics.work(
            (done * share / GRID).sum(axis=1),
            (done * world.data).sum(axis=1),
            steps.astype(np.float64),
        )
        lately = variety(participation, data)
        path = world.dynamics.advance(path, luck * work, lately)
        measured = path + world.dynamics.noise * progress_noise(keys, counters)
        progress = np.where(work > 0, measured, progress)
        crossed = (progress >= 1.0) & np.isnan(need[:, 0])
        need[crossed, :3] = spent[crossed]
        need[crossed, 3] = r + 1
        if not np.isnan(need[:, 0]).any():
            break
    if np.isnan(need[:, 0]).mean() > 0.5:
        raise InputError(
            f"scenario {world.scenario.name}: the reference policy (share {reference.share}, sync interval "
            f"{reference.sync_interval}) does not reach the target within {REFERENCE_ROUNDS} rounds; expected a fleet "
            "whose memory, batteries, deadline and presence let it"
        )
    # An episode that never got there needed more than any that did: count it as the longest.
    need = np.where(np.isnan(need), np.nanmax(need, axis=0), need)
    # Efficiencies are averaged as logarithms, so this is the mean at which the reference policy scores 1.
    return ReferenceCost(*(float(v) for v in np.exp(np.log(need).mean(axis=0))))
