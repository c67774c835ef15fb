"""The one observation: per-machine and fleet features that a real orchestrator knows when it must decide."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from envs.memory import AGE, CHARGE, DOWN_BPS, HERE, LOST, SLOW, UP_BPS
from fedcore.costs import GRID
from fedcore.fleet import columns as c
from fedcore.fleet.compile import DAY_S, Fleets
from fedcore.kernel import kernel
from fedcore.world import World

Floats = NDArray[np.float64]
LIMIT = 5.0
LOG_E = float(np.log10(np.e))
"""Turns natural logarithms into decimal ones, which take twice as long to come by."""

MACHINE_FEATURES = (
    "exists",  # 1 for a machine, 0 for padding
    "available",  # answered the heartbeat just now
    "step_time",  # log10 of predicted seconds per step at share 1 under its load, over the reference's round / 10
    "slowdown",  # log10 of how much its load slows it down, as reported with the heartbeat
    "upload_time",  # log10 of predicted upload seconds at share 1 over the reference's mean round
    "download_time",  # the same for the download
    "measurement_age",  # tanh(rounds since its link was last measured / 10)
    "step_energy",  # log10 of joules per step at share 1 over the reference's per machine and step
    "radio_energy",  # log10 of joules to move a whole model up and down over the reference's per machine and round
    "idle_energy",  # log10 of idle power x reference round over the same
    "charge",  # battery above its reserve as last reported with the heartbeat, 1 = full or mains
    "data",  # images over the fleet's mean, halved
    "max_share",  # largest share that fits its memory
    "last_share",  # what it was given to train last round; 0 where it was away or its block did not fit
    "last_outcome",  # 1 its block came back, -1 it was lost, 0 it was not asked
    "last_idle",  # fraction of the last round that it waited
    "step_saving",  # step FLOPs at the smallest over those at the full share: what a small share saves here
    "leaves",  # how often it has been seen to leave in this episode, tanh of half the times
    "teaches",  # how far its data alone can lead, by the calibration; progress 1.5 and more is 1
    "surplus",  # progress x 10 that its rounds have come out with beyond what the calibration expects
)
FLEET_FEATURES = (
    "progress",
    "last_gain",  # progress of the last round x 10
    "gain_trend",  # exponential mean of it x 10
    "last_steps",  # log10 of the last H
    "time_used",  # of the budget
    "energy_used",
    "bytes_used",
    "rounds_used",
    "time_vs_reference",  # T / T_ref
    "energy_vs_reference",
    "bytes_vs_reference",
    "available_fraction",  # of the machines
    "machines",  # how many there are over 16, at most 1
    "energy_weight",  # w_E
    "context",
    "last_round_time",  # log10 over the reference's mean round
    "last_round_energy",
    "last_round_bytes",
    "day_sin",  # time of day
    "day_cos",
    "shortest_interval",  # log10 of the smallest H in the menu
    "longest_interval",  # log10 of the largest
    "reference_rounds",  # log10 of the rounds that the reference needs, halved
    "teaches",  # how far all machines' data can lead, by the calibration; progress 1.5 and more is 1
)
N_MACHINE, N_FLEET = len(MACHINE_FEATURES), len(FLEET_FEATURES)
(
    _EXISTS, _AVAILABLE, _STEP_TIME, _SLOWDOWN, _UPLOAD_TIME, _DOWNLOAD_TIME, _AGE, _STEP_ENERGY, _RADIO, _IDLE, _CHARGE,
    _DATA, _MAX_SHARE, _LAST_SHARE, _OUTCOME, _LAST_IDLE, _SAVING, _LEAVES, _TEACHES, _SURPLUS,
) = range(N_MACHINE)  # fmt: skip
(
    _PROGRESS, _GAIN, _TREND, _LAST_STEPS, _TIME_USED, _ENERGY_USED, _BYTES_USED, _ROUNDS_USED, _TIME_VS_REFERENCE,
    _ENERGY_VS_REFERENCE, _BYTES_VS_REFERENCE, _AVAILABLE_FRACTION, _MACHINES, _ENERGY_WEIGHT, _CONTEXT, _LAST_TIME,
    _LAST_ENERGY, _LAST_BYTES, _DAY_SIN, _DAY_COS, _SHORTEST, _LONGEST, _REFERENCE_ROUNDS, _FLEET_TEACHES,
) = range(N_FLEET)  # fmt: skip
MANY = 16.0
"""Machines from which fleets look alike in size: whatever K_max pads them to, policies see them as they were trained."""
TEACHES_ALL = 1.5
"""Progress at which `teaches` is 1."""
MOVING = ("step_time", "step_energy", "upload_time", "download_time")
"""Features that have a constant part and one that moves: only their sum is clipped."""
_TANH_TENTHS = np.tanh(np.arange(128) / 10.0)


def observation_space(max_machines: int) -> spaces.Box:
    """Box(-5, 5, (K_max x machine features + fleet features,)); `split` takes it apart."""
    return spaces.Box(-LIMIT, LIMIT, (max_machines * N_MACHINE + N_FLEET,), dtype=np.float32)


def machines_of(size: int) -> int:
    """K_max of an observation of that size.

    Raises:
        ValueError: no K_max gives that size.
    """
    machines, rest = divmod(size - N_FLEET, N_MACHINE)
    if rest or machines < 1:
        raise ValueError(f"an observation of {size} numbers fits no K_max, expected K_max x {N_MACHINE} + {N_FLEET}")
    return machines


@dataclass(frozen=True)
class View:
    """An observation taken apart, by feature name.

    Attributes:
        machine: feature -> (K_max,) or (B, K_max).
        fleet: feature -> scalar or (B,).
    """

    machine: dict[str, NDArray[np.floating]]
    fleet: dict[str, NDArray[np.floating]]


def split(observation: NDArray[np.floating]) -> View:
    """Take one observation, or a batch of them along the first axis, apart."""
    machines = machines_of(observation.shape[-1])
    body = observation[..., : machines * N_MACHINE].reshape(*observation.shape[:-1], machines, N_MACHINE)
    tail = observation[..., machines * N_MACHINE :]
    return View(
        {name: body[..., i] for i, name in enumerate(MACHINE_FEATURES)},
        {name: tail[..., i] for i, name in enumerate(FLEET_FEATURES)},
    )


def machine_constants(world: World) -> Floats:
    """Per-machine features as far as they do not move within an episode, (K_max, N_MACHINE): `machine_rows` adds the rest."""
    p, exists = world.arrays.parameters, world.arrays.parameters[:, c.FLOPS_PER_S] > 0
    round_s = world.reference.time_s / world.reference.rounds
    round_j = world.reference.energy_j / world.reference.rounds / exists.sum()
    up_bits, down_bits = 8.0 * world.costs[-1, 1], 8.0 * world.costs[-1, 2]
    smallest, whole = (step_flops(p, world.costs[row]) for row in (1, -1))
    rate = np.maximum(p[:, c.FLOPS_PER_S], 1.0)
    step_s = p[:, c.STEP_OVERHEAD_S] + whole / rate
    radio = up_bits * p[:, c.TX_J_PER_BIT] + down_bits * p[:, c.RX_J_PER_BIT]
    out = np.zeros((len(p), N_MACHINE))
    with np.errstate(divide="ignore"):
        for name, values in {
            "exists": exists,
            "step_time": np.log10(step_s / (round_s / 10.0)),
            "upload_time": np.log10(up_bits / round_s),
            "download_time": np.log10(down_bits / round_s),
            "step_energy": np.log10(p[:, c.ACTIVE_W] * step_s / (round_j / 10.0)),
            "radio_energy": np.log10(radio / round_j + 1e-4),
            "idle_energy": np.log10(p[:, c.IDLE_W] * round_s / round_j + 1e-4),
            "charge": 1.0,
            "data": 0.5 * world.data * exists.sum(),
            "max_share": world.max_share_index / GRID,
            "step_saving": smallest / whole,
            "teaches": teaches(world, world.samples),
        }.items():
            out[:, MACHINE_FEATURES.index(name)] = values
    still = [i for i, name in enumerate(MACHINE_FEATURES) if name not in MOVING]
    out[:, still] = np.clip(out[:, still], -LIMIT, LIMIT)
    return np.where(exists[:, None], out, 0.0)


def teaches(world: World, samples: Floats) -> Floats:
    """How far so many samples can lead, in progress over `TEACHES_ALL` and at most 1: same shape."""
    return np.minimum(world.dynamics.peak(samples) / TEACHES_ALL, 1.0)


def step_flops(parameters: Floats, cost: Floats) -> Floats:
    """FLOPs of a step on its own samples, with what every machine loses on small products, (K,), from (K, N_PARAMETERS) and a
    row of costs, or one for each machine."""
    return np.asarray(parameters[:, c.OF_BATCH] * (cost[..., 0] + parameters[:, c.HALF_ROWS] * cost[..., 4]))


@kernel()
def _clip(value: float) -> float:
    return min(max(value, -LIMIT), LIMIT)


@kernel()
def write_machines(
    fleets: Fleets,
    constants: Floats,
    w: int,
    telemetry: Floats,
    totals: Floats,
    shares: Floats,
    heard: Floats,
    out: NDArray[np.float32],
    b: int,
) -> None:
    """Write the machines' part of one observation.

    Args:
        fleets: stacked.
        constants: (W, K_max, N_MACHINE), from `machine_constants`.
        w: which fleet.
        telemetry: (B, K_max, N_TELEMETRY) of the last round.
        totals: (B, N_TOTALS) of the last round.
        shares: (B, K_max) of the last round.
        heard: (B, K_max, N_HEARD), see `memory`.
        out: (B, K_max x N_MACHINE + N_FLEET), row b overwritten but for the fleet's part.
        b: the episode.
    """
    p = fleets.parameters
    round_s = max(totals[b, c.ROUND_S], 1e-9)
    n = int(fleets.fleet[w, c.MACHINES])
    for k in range(n):
        at = k * N_MACHINE
        for i in range(N_MACHINE):
            out[b, at + i] = constants[w, k, i]
        out[b, at + _AVAILABLE] = heard[b, k, HERE]
        slow = LOG_E * np.log(heard[b, k, SLOW]) if heard[b, k, SLOW] != 1.0 else 0.0
        out[b, at + _SLOWDOWN] = _clip(slow)
        out[b, at + _STEP_TIME] = _clip(constants[w, k, _STEP_TIME] + slow)
        out[b, at + _STEP_ENERGY] = _clip(constants[w, k, _STEP_ENERGY] + slow)
        out[b, at + _UPLOAD_TIME] = _clip(constants[w, k, _UPLOAD_TIME] - LOG_E * np.log(heard[b, k, UP_BPS]))
        out[b, at + _DOWNLOAD_TIME] = _clip(constants[w, k, _DOWNLOAD_TIME] - LOG_E * np.log(heard[b, k, DOWN_BPS]))
        out[b, at + _AGE] = _TANH_TENTHS[min(int(heard[b, k, AGE]), len(_TANH_TENTHS) - 1)]
        out[b, at + _LEAVES] = _TANH_TENTHS[min(5 * int(heard[b, k, LOST]), len(_TANH_TENTHS) - 1)]
        battery, reserve = p[w, k, c.BATTERY_J], p[w, k, c.BATTERY_RESERVE]
        if battery > 0.0:
            out[b, at + _CHARGE] = _clip((heard[b, k, CHARGE] - reserve) / max(1.0 - reserve, 1e-9))
        out[b, at + _LAST_IDLE] = _clip(telemetry[b, k, c.IDLE_S] / round_s)
        status = telemetry[b, k, c.STATUS]
        out[b, at + _LAST_SHARE] = 0.0 if status == c.AWAY or status == c.INFEASIBLE else shares[b, k]
        if status == c.DONE:
            out[b, at + _OUTCOME] = 1.0
        elif status == c.LEFT or status == c.LATE or status == c.INFEASIBLE or status == c.FLAT:
            out[b, at + _OUTCOME] = -1.0
    for i in range(n * N_MACHINE, shares.shape[1] * N_MACHINE):
        out[b, i] = 0.0


@kernel()
def fleet_rows(
    fleet: Floats,
    reference: Floats,
    budgets: Floats,
    menu: NDArray[np.int64],
    energy_weight: Floats,
    context: Floats,
    teaches: Floats,
    rounds: NDArray[np.int64],
    progress: Floats,
    gain: Floats,
    trend: Floats,
    steps: NDArray[np.int64],
    spent: Floats,
    totals: Floats,
    surplus: Floats,
    out: NDArray[np.float32],
) -> None:
    """Write the fleet's part of observations, after the machines' part, and what rounds told of the machines.

    Args:
        fleet: (B, columns.N_FLEET).
        reference: (B, 4) seconds, joules, bytes and rounds that the reference policy needs.
        budgets: (B, 4) of the same.
        menu: (B, levels) sync intervals, ascending.
        energy_weight: (B,) w_E.
        context: (B,).
        teaches: (B,), of all machines' data together.
        rounds: (B,) played.
        progress: (B,).
        gain: (B,) of the last round.
        trend: (B,) exponential mean of it.
        steps: (B,) last H.
        spent: (B, 3) seconds, joules, bytes.
        totals: (B, N_TOTALS) of the last round.
        surplus: (B, K_max), see `appraisal`.
        out: (B, K_max x N_MACHINE + N_FLEET), changed.
    """
    at = out.shape[1] - N_FLEET
    for b in range(len(out)):
        machines, f = int(fleet[b, c.MACHINES]), out[b, at:]
        f[:] = 0.0
        f[_PROGRESS], f[_GAIN], f[_TREND] = progress[b], 10.0 * gain[b], 10.0 * trend[b]
        for i in range(3):
            f[_TIME_USED + i] = spent[b, i] / budgets[b, i]
            f[_TIME_VS_REFERENCE + i] = spent[b, i] / reference[b, i]
        f[_ROUNDS_USED] = rounds[b] / budgets[b, 3]
        here = 0.0
        for k in range(machines):
            here += out[b, k * N_MACHINE + _AVAILABLE]
            out[b, k * N_MACHINE + _SURPLUS] = _clip(10.0 * surplus[b, k])
        f[_AVAILABLE_FRACTION], f[_MACHINES] = here / machines, min(machines / MANY, 1.0)
        f[_ENERGY_WEIGHT], f[_CONTEXT], f[_FLEET_TEACHES] = energy_weight[b], context[b], teaches[b]
        if rounds[b] > 0:
            f[_LAST_STEPS] = np.log10(max(float(steps[b]), 1.0))
            f[_LAST_TIME] = np.log10(totals[b, c.ROUND_S] / (reference[b, 0] / reference[b, 3]))
            f[_LAST_ENERGY] = np.log10(totals[b, c.TOTAL_ENERGY_J] / (reference[b, 1] / reference[b, 3]) + 1e-4)
            f[_LAST_BYTES] = np.log10(totals[b, c.TOTAL_BYTES] / (reference[b, 2] / reference[b, 3]) + 1e-4)
        clock = 2.0 * np.pi * ((fleet[b, c.START_S] + spent[b, 0]) % DAY_S) / DAY_S
        f[_DAY_SIN], f[_DAY_COS] = np.sin(clock), np.cos(clock)
        f[_SHORTEST], f[_LONGEST] = np.log10(float(menu[b, 0])), np.log10(float(menu[b, -1]))
        f[_REFERENCE_ROUNDS] = 0.5 * np.log10(reference[b, 3])
        for i in range(N_FLEET):
            f[i] = _clip(f[i])
