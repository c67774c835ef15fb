"""What one step and one reset do to the rows of a batch, in one pass over each row while it is in the processor's cache."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from envs.memory import forget, listen, remember
from envs.observation import write_machines
from fedcore.costs import GRID
from fedcore.fleet import columns as c
from fedcore.fleet.compile import Fleets
from fedcore.fleet.conditions import begin
from fedcore.fleet.draws import of_round
from fedcore.fleet.round import play_round
from fedcore.kernel import kernel
from fedcore.world import share_indices

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@kernel()
def to_grid(exists: NDArray[np.bool_], shares: Floats, index: Ints) -> None:
    """Shares in [0, 1] to the nearest on the cost table's grid, 0 of machines that there are not: `shares` (B, K) is changed,
    and `index` overwritten by their places."""
    for b in range(len(shares)):
        for k in range(shares.shape[1]):
            index[b, k] = share_indices(shares[b, k]) if exists[b, k] else 0
            shares[b, k] = index[b, k] / GRID


@kernel()
def step_rows(
    fleets: Fleets,
    costs: Floats,
    constants: Floats,
    world: Ints,
    conditions: Floats,
    share_index: Ints,
    steps: Ints,
    elapsed_s: Floats,
    key: NDArray[np.uint64],
    counter: Ints,
    telemetry: Floats,
    totals: Floats,
    shares: Floats,
    heard: Floats,
    observed: NDArray[np.float32],
    done: NDArray[np.bool_],
    scratch: Floats,
) -> None:
    """Play a round in every episode, remember what it measured, and write the machines' part of the observations.

    Arguments as `play_rounds` and `write_machines`; `elapsed_s` is before the round, and `done` (B, K) is overwritten by whose
    blocks came back.
    """
    for b in range(len(world)):
        w, hashed = world[b], of_round(key[b], counter[b])
        play_round(
            fleets, costs, w, conditions, share_index, steps[b], elapsed_s[b], hashed, telemetry, totals, b, scratch
        )
        for k in range(done.shape[1]):
            done[b, k] = telemetry[b, k, c.STATUS] == c.DONE
        now_s = elapsed_s[b] + totals[b, c.ROUND_S]
        remember(fleets, w, telemetry, heard, b)
        listen(fleets, w, conditions, now_s, heard, b)
        write_machines(fleets, constants, w, telemetry, totals, shares, heard, observed, b)


@kernel()
def reset_rows(
    fleets: Fleets,
    constants: Floats,
    world: Ints,
    conditions: Floats,
    key: NDArray[np.uint64],
    telemetry: Floats,
    totals: Floats,
    shares: Floats,
    heard: Floats,
    observed: NDArray[np.float32],
    which: Ints,
) -> None:
    """Begin the episodes `which`; the other arguments as `step_rows`."""
    for b in which:
        w = world[b]
        telemetry[b], totals[b], shares[b] = 0.0, 0.0, 0.0
        begin(fleets, w, key[b], conditions, b)
        forget(fleets, w, heard, b)
        listen(fleets, w, conditions, 0.0, heard, b)
        write_machines(fleets, constants, w, telemetry, totals, shares, heard, observed, b)
