"""A fleet played with any method's costs: seconds, joules and bytes of rounds whose machines each cost their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedcore.fleet import columns as c
from fedcore.fleet.compile import compile_fleet, stack_fleets
from fedcore.fleet.conditions import begin
from fedcore.fleet.draws import of_round
from fedcore.fleet.round import play_round, scratch_shape
from fedcore.methods.base import RoundCost
from scenarios.schema import Scenario


@dataclass(frozen=True)
class PlayedRound:
    """What a round cost.

    Attributes:
        done: (K,) whose work came back.
        telemetry: (K, N_TELEMETRY), see `columns`.
        time_s: wall time.
        energy_j: of machines and their traffic.
        bytes: up and down, all machines.
    """

    done: NDArray[np.bool_]
    telemetry: NDArray[np.float64]
    time_s: float
    energy_j: float
    bytes: float


class FleetPlayer:
    """One fleet from its first round on; conditions move as in the simulator.

    Args:
        scenario: whose fleet and deadline.
        seed: of all conditions.
    """

    def __init__(self, scenario: Scenario, seed: int) -> None:
        machines = len(scenario.fleet.machines)
        self.fleets = stack_fleets([compile_fleet(scenario.fleet, scenario.decision.deadline_s, machines)])
        self.key = np.random.default_rng([seed, 5]).integers(2**63, size=1).astype(np.uint64)[0]
        self.conditions = np.zeros((1, machines, c.N_CONDITIONS))
        begin(self.fleets, 0, self.key, self.conditions, 0)
        self.counter = 0
        self.elapsed_s = 0.0

    def play(self, costs: Sequence[RoundCost | None], steps: int, one_by_one: bool = False) -> PlayedRound:
        """Play one round.

        Args:
            costs: per machine, None where it rests.
            steps: H.
            one_by_one: machines take turns (a relay), so that their times add up.
        """
        turns: list[list[int]] = [list(range(len(costs)))]
        if one_by_one:
            turns = [[k] for k, cost in enumerate(costs) if cost is not None] or turns
        done = np.zeros(len(costs), dtype=np.bool_)
        telemetry = np.zeros((len(costs), c.N_TELEMETRY))
        spent = np.zeros(3)
        for turn in turns:
            part, totals = self._turn([cost if k in turn else None for k, cost in enumerate(costs)], steps)
            telemetry[turn] = part[turn]
            done[turn] = part[turn, c.STATUS] == c.DONE
            spent += totals[[c.ROUND_S, c.TOTAL_ENERGY_J, c.TOTAL_BYTES]]
        return PlayedRound(done, telemetry, *(float(v) for v in spent))

    def _turn(
        self, costs: Sequence[RoundCost | None], steps: int
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        n = len(costs)
        parameters = self.fleets.parameters.copy()
        # Row k + 1 of the cost table is machine k's own, so that the simulator's round serves unchanged.
        table, index = np.zeros((1, n + 1, 5)), np.zeros((1, n), dtype=np.int64)
        for k, cost in enumerate(costs):
            if cost is None:
                continue
            table[0, k + 1] = (cost.step_flops, cost.upload_bytes, cost.download_bytes, cost.memory_bytes, cost.row_flops)
            index[0, k] = k + 1
            parameters[0, k, c.MOST] = n if cost.memory_bytes <= parameters[0, k, c.MEMORY_BYTES] else 0
            # A round charges its latency at download and at upload: one round trip, as every exchange is.
            parameters[0, k, c.LATENCY_S] *= 1 + cost.exchanges
        telemetry, totals = np.zeros((1, n, c.N_TELEMETRY)), np.zeros((1, c.N_TOTALS))
        play_round(
            self.fleets._replace(parameters=parameters), table, 0, self.conditions, index, steps, self.elapsed_s,
            np.uint64(of_round(self.key, self.counter)), telemetry, totals, 0,
            np.zeros(scratch_shape(n, self.fleets.via.shape[2])),
        )  # fmt: skip
        self.counter += 1
        self.elapsed_s += float(totals[0, c.ROUND_S])
        return telemetry[0], totals[0]
