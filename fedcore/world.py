"""A scenario compiled for play: fleet arrays, cost table, learning dynamics, and what the reference policy needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace
from functools import lru_cache
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from fedcore.context import CONTEXT_RULES
from fedcore.costs import GRID
from fedcore.dynamics import FOLDER, N_WORTH, Calibration, Dynamics, learn, load_calibration, teaching
from fedcore.fleet import columns as c
from fedcore.fleet.compile import FleetArrays, compile_fleet, stack_fleets
from fedcore.fleet.conditions import begin_rows
from fedcore.fleet.round import play_rounds, scratch_shape
from fedcore.workload import model_for, reads_text, recipe_of, workload_costs
from scenarios.errors import InputError
from scenarios.schema import Scenario

REFERENCE_EPISODES = 128
FEW_EPISODES = 8
MUCH_PLAYED = 128 * 256
"""Machines times episodes of a reference that are enough: those of large fleets average out within each."""
REFERENCE_ROUNDS = 3000
OF_IMAGES = "soil-mixed-convnet-simclr"
LEAST_ROOM = 16
"""K_max where nothing asks for more."""


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
        reference: cost of the reference policy.
        channels: of the images, 1 or 3.
    """

    scenario: Scenario
    arrays: FleetArrays
    costs: NDArray[np.float64]
    calibration: Calibration
    reference: ReferenceCost
    channels: int = 1

    @property
    def dynamics(self) -> Dynamics:
        """Of its calibration, in the workload's context."""
        return self.calibration.dynamics.in_context(self.scenario.workload.context)

    @property
    def samples(self) -> NDArray[np.float64]:
        """Images, or windows of text, on each machine, (K_max,)."""
        return self.arrays.parameters[:, c.IMAGES]

    @property
    def data(self) -> NDArray[np.float64]:
        """Fraction of the fleet's samples on each machine, (K_max,)."""
        return self.samples / self.samples.sum()

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
        return self.arrays.parameters[:, c.MOST].astype(np.int64)


@numba.vectorize(cache=True)
def share_indices(shares: Any) -> Any:
    """Shares in [0, 1] to their nearest places on the cost table's grid, entry by entry: int64."""
    return np.int64(np.floor(min(max(shares, 0.0), 1.0) * GRID + 0.5))


@lru_cache(maxsize=4096)
def _compile(text: str, max_machines: int, channels: int) -> World:
    scenario = Scenario.model_validate_json(text)
    arrays = compile_fleet(scenario.fleet, scenario.decision.deadline_s, max_machines)
    model_for(scenario.workload, channels, scenario.name)  # a workload that does not build is refused by name
    try:
        calibration = load_calibration(scenario.workload.calibration)
    except InputError as error:
        raise InputError(f"scenario {scenario.name}: {error}") from None
    if reads_text(scenario.workload) and scenario.workload.calibration == OF_IMAGES:
        raise InputError(
            f"scenario {scenario.name}: workload.calibration is {OF_IMAGES!r}, which is of training on images, but its encoder "
            "reads text; expected grammar-gpt-next-token, or one made by python -m fedcore.calibrate"
        )
    rounded, rule = scenario.decision.wire_precision, scenario.workload.context_rule
    if rounded != "fp32" and scenario.workload.context < 1.0 and CONTEXT_RULES[rule].correction == "constant":
        raise InputError(
            f"scenario {scenario.name}: decision.wire_precision is {rounded!r}, but workload.context_rule {rule!r} sends "
            "machines means beside their blocks, which no rounded message carries; expected fp32, or another context_rule"
        )
    costs = workload_costs(scenario.workload, channels, wire_precision=scenario.decision.wire_precision)
    draft = World(scenario, arrays, costs, calibration, ReferenceCost(1.0, 1.0, 1.0, 1.0), channels)
    draft = with_samples(draft, [group.images for group in scenario.fleet.machines])
    return replace(draft, reference=_reference_cost(draft))


def calibration_note(scenario: Scenario) -> str | None:
    """What a person should know who simulates training that no calibration was made of; None where one was."""
    w = scenario.workload
    if w.calibration.endswith((".json", f"-{w.encoder}-{w.objective}")):
        return None
    fitting = ", ".join(sorted(path.stem for path in FOLDER.glob(f"*-{w.encoder}-{w.objective}.json")))
    advice = f"workload.calibration: {fitting} was" if fitting else "python -m fedcore.calibrate makes one"
    return (
        f"scenario {scenario.name}: simulation learns as calibration {w.calibration} says, which was not made of {w.encoder} "
        f"with {w.objective}: how many rounds the target takes is a guess ({advice})"
    )


class UnreachableError(InputError):
    """A scenario's reference policy does not reach the target, so nothing can be scored beside it."""


def room_for(scenario: Scenario) -> int:
    """K_max for one scenario: the usual, or as many as its fleet has machines."""
    return max(LEAST_ROOM, len(scenario.fleet.machine_names))


def with_samples(world: World, samples: Sequence[int]) -> World:
    """The same world whose machines hold so many images (or windows of text), each: what was dealt, where that is not what the
    scenario says. One that holds fewer than a batch has smaller steps, which take less memory. What the reference policy needs,
    and budgets that hang on it, stay the scenario's."""
    workload, parameters = world.scenario.workload, world.arrays.parameters.copy()
    parameters[:, c.MOST] = 0.0
    for row, held in zip(parameters, samples, strict=False):
        batch = recipe_of(workload).batch_of(held)
        row[c.IMAGES], row[c.OF_BATCH], row[c.MOST] = held, batch / workload.batch_size, _most(world.costs, row)
        if batch < workload.batch_size and row[c.MOST] < GRID:
            row[c.MOST] = _most(workload_costs(workload, world.channels, batch), row)
    return replace(world, arrays=replace(world.arrays, parameters=parameters))


def with_reference(world: World, rounds: float) -> World:
    """The same world whose reference policy needs so many rounds, as on data that the calibration does not know: what one of
    its rounds costs stays, and budgets that are multiples of its need follow."""
    r = world.reference
    factor = rounds / r.rounds
    return replace(world, reference=ReferenceCost(factor * r.time_s, factor * r.energy_j, factor * r.bytes, rounds))


def _most(costs: NDArray[np.float64], machine: NDArray[np.float64]) -> int:
    """Last row of a cost table up to which a machine's memory holds every block."""
    return int((costs[:, 3] <= machine[c.MEMORY_BYTES]).cumprod().sum()) - 1


def compile_world(scenario: Scenario, max_machines: int | None = None, channels: int = 1) -> World:
    """Compile a scenario; cached by content.

    Args:
        scenario: validated.
        max_machines: K_max, rows that observations and actions are padded to; None takes `room_for` it.
        channels: of the images, 1 or 3.

    Raises:
        InputError: the fleet is too large, or the workload does not build.
        UnreachableError: the reference policy does not reach the target.
    """
    return _compile(scenario.model_dump_json(), max_machines or room_for(scenario), channels)


def _reference_cost(world: World) -> ReferenceCost:
    """Play the reference policy until it reaches the target."""
    n, machines = max(FEW_EPISODES, min(REFERENCE_EPISODES, MUCH_PLAYED // world.arrays.machines)), len(world.samples)
    reference = world.scenario.reference
    fleets, which, costs = stack_fleets([world.arrays]), np.zeros(n, dtype=np.int64), world.costs[None]
    samples, table = world.samples[None], np.tile(astuple(world.dynamics), (n, 1))
    keys = np.random.default_rng(0).integers(2**63, size=n).astype(np.uint64)
    conditions = np.zeros((n, machines, c.N_CONDITIONS))
    begin_rows(fleets, which, keys, np.arange(n), conditions)
    share = np.full((n, machines), share_indices(np.array(reference.share)), dtype=np.int64)
    share = np.minimum(share, np.maximum(world.max_share_index, 0)[None, :])
    steps = np.full(n, reference.sync_interval, dtype=np.int64)
    telemetry, totals = np.zeros((n, machines, c.N_TELEMETRY)), np.zeros((n, c.N_TOTALS))
    participation, last_part, fortune, leaning, taught = (np.zeros((n, machines)) for _ in range(5))
    tilt, learned, rote, progress, worth = *(np.zeros(n) for _ in range(4)), np.zeros((n, N_WORTH))
    scratch = np.empty(scratch_shape(machines, fleets.via.shape[2]))
    spent, need = np.zeros((n, 3)), np.full((n, 4), np.nan)
    for r in range(REFERENCE_ROUNDS):
        counters = np.full(n, r, dtype=np.int64)
        play_rounds(
            fleets, costs, which, conditions, share, steps, spent[:, 0].copy(), keys, counters, telemetry, totals, scratch
        )
        spent += totals[:, [c.ROUND_S, c.TOTAL_ENERGY_J, c.TOTAL_BYTES]]
        done = telemetry[:, :, c.STATUS] == c.DONE
        teaching(samples, which, done, share / GRID, steps, table, last_part, taught, worth, np.empty(machines))
        learn(
            samples, which, done, steps, counters, keys, table, taught, worth, participation, fortune, leaning, tilt, learned,
            rote, progress,
        )  # fmt: skip
        crossed = (progress >= 1.0) & np.isnan(need[:, 0])
        need[crossed, :3] = spent[crossed]
        need[crossed, 3] = r + 1
        if not np.isnan(need[:, 0]).any():
            break
    if np.isnan(need[:, 0]).mean() > 0.5:
        raise UnreachableError(
            f"scenario {world.scenario.name}: the reference policy (share {reference.share}, sync interval "
            f"{reference.sync_interval}) does not reach the target within {REFERENCE_ROUNDS} rounds; expected a fleet "
            "whose memory, batteries, deadline, presence and number of samples let it"
        )
    got_there = need[~np.isnan(need[:, 0])]
    if not (np.isfinite(got_there) & (got_there > 0.0)).all():
        seconds, joules, size, _ = got_there.max(axis=0)
        raise UnreachableError(
            f"scenario {world.scenario.name}: the reference policy needs up to {seconds:g} s, {joules:g} J and {size:g} bytes; "
            "expected rates, speeds and powers that make these finite and above 0"
        )
    # An episode that never got there needed more than any that did: count it as the longest.
    need = np.where(np.isnan(need), np.nanmax(need, axis=0), need)
    # Efficiencies are averaged as logarithms, so this is the mean at which the reference policy scores 1.
    return ReferenceCost(*(float(v) for v in np.exp(np.log(need).mean(axis=0))))
