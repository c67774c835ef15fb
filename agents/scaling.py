"""What a policy's numbers are scaled by, as digests: a policy that was trained on numbers scaled otherwise would decide at
random, and nothing would say so."""

from __future__ import annotations

from dataclasses import fields
from functools import cache
from types import SimpleNamespace
from typing import Any, cast

import numpy as np

from envs import crews
from envs.memory import HERE, N_HEARD
from envs.observation import LIMIT, N_FLEET, N_MACHINE, fleet_rows, machine_constants, write_machines
from fedcore.dynamics import Dynamics
from fedcore.files import content_key
from fedcore.fleet import columns as c
from fedcore.fleet.compile import Fleets
from fedcore.world import World


@cache
def observation_digest() -> str:
    """Names how observations are scaled: what comes out of made-up machines and a made-up round, to four digits."""
    at = np.arange
    p = (0.5 + at(float(c.N_PARAMETERS)) / 7.0)[None]
    p[0, c.BATTERY_RESERVE] = 0.2
    dynamics = Dynamics(*(0.3 + 0.05 * at(len(fields(Dynamics)))))
    world = SimpleNamespace(
        arrays=SimpleNamespace(parameters=p), reference=SimpleNamespace(time_s=70.0, rounds=7, energy_j=900.0),
        costs=1.0 + at(10.0).reshape(2, 5), data=np.array([0.8]), samples=np.array([3.0]), max_share_index=np.array([100]),
        dynamics=dynamics,
    )  # fmt: skip
    constants = machine_constants(cast(World, world))[None]
    fleet = 1.0 + at(float(c.N_FLEET))[None]
    fleet[0, c.MACHINES] = 1.0
    out, one = np.zeros((1, N_MACHINE + N_FLEET), dtype=np.float32), np.ones(1)
    telemetry = 0.3 + at(float(c.N_TELEMETRY)).reshape(1, 1, -1)
    telemetry[0, 0, c.STATUS] = c.DONE
    totals, heard = 2.0 + at(float(c.N_TOTALS))[None], 0.5 + 0.5 * at(float(N_HEARD)).reshape(1, 1, -1)
    heard[0, 0, HERE] = 1.0
    nothing = np.zeros((0, 2))
    fleets = Fleets(p[None], fleet, one[None], one[None], np.ones((1, 1, 1), dtype=np.bool_), nothing, at(1), nothing.T)
    cast(Any, write_machines).py_func(fleets, constants, 0, telemetry, totals, 0.4 * one[None], heard, out, 0)
    cast(Any, fleet_rows).py_func(
        fleet, np.array([[70.0, 900.0, 50.0, 7.0]]), np.array([[200.0, 4000.0, 170.0, 30.0]]), np.array([[3, 50]]), 0.3 * one,
        0.7 * one, 0.6 * one, np.array([3]), 0.2 * one, 0.02 * one, 0.03 * one, np.array([20]), np.array([[40.0, 300.0, 30.0]]),
        totals, 0.01 * one[None], out,
    )  # fmt: skip
    return content_key(LIMIT, *(f"{value:.4f}" for value in out[0]))


@cache
def pattern_digest() -> str:
    """Names the constants of the share patterns that a policy chooses among."""
    names = ("TURNS", "SURE", "STUCK", "COVERED", "FEW", "WEIGHTS")
    return content_key(*(getattr(crews, name) for name in names))
