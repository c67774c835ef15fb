"""The one observation: per-machine and fleet features that a real orchestrator knows when it must decide."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

Floats = NDArray[np.float64]
LIMIT = 5.0

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
    "charge",  # battery above its reserve, 1 = full or mains
    "data",  # images over the fleet's mean, halved
    "max_share",  # largest share that fits its memory
    "last_share",  # what it trained last round
    "last_outcome",  # 1 its block came back, -1 it was lost, 0 it was not asked
    "last_idle",  # fraction of the last round that it waited
    "step_saving",  # step FLOPs at the smallest over those at the full share: what a small share saves here
    "leaves",  # whether machines of its kind have been seen to leave in this episode
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
    "machines",  # of K_max
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
)
N_MACHINE, N_FLEET = len(MACHINE_FEATURES), len(FLEET_FEATURES)


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


def assemble(machine: dict[str, Floats], fleet: dict[str, Floats]) -> NDArray[np.float32]:
    """Stack named features, (B, K_max) and (B,), into observations (B, size); padding machines are all 0."""
    body = np.stack([machine[name] for name in MACHINE_FEATURES], axis=2)
    body = np.where(machine["exists"][:, :, None] > 0, body, 0.0)
    tail = np.stack([fleet[name] for name in FLEET_FEATURES], axis=1)
    out = np.concatenate([body.reshape(len(body), -1), tail], axis=1)
    return np.clip(np.nan_to_num(out, nan=0.0, posinf=LIMIT, neginf=-LIMIT), -LIMIT, LIMIT).astype(np.float32)


