"""The fast tier: training is a calibrated learning-dynamics model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from envs.core import SimulatedLearner
from envs.single import ScenarioLike, SingleEnv, compile_simulated
from fedcore.allocation import allocate
from fedcore.workload import model_for


class OrchestrationEnv(SingleEnv):
    """Spread the neurons of every layer over unequal machines, round by round, at the least cost.

    ## Description

    A fleet of machines trains one encoder without labels. Each round you say how large a *share* of every layer's
    neurons each machine trains and how many local steps *H* it takes before blocks are merged. The simulated fleet
    then downloads, computes and uploads: links fade and are shared, background work slows machines down, some leave,
    batteries run low. Training itself is a learning-dynamics model fitted to recorded real rounds, so an episode takes
    milliseconds; `IntraFed/Training-v0` has the same spaces and really trains.

    ## Observation Space

    `Box(-5, 5, (K_max * 20 + 24,), float32)`: 20 features of each of K_max machines (zeros beyond the fleet's size),
    then 24 of the fleet, in the order of `envs.observation.MACHINE_FEATURES` and `FLEET_FEATURES`, where each has its
    meaning beside it; `envs.observation.split` takes an observation apart by name. Only what a real orchestrator knows
    is in it: heartbeats (who is there, its load and its battery), telemetry of past rounds, advertised figures,
    label-free progress, what the workload's calibration says of so many samples. Never other hidden conditions.

    ## Action Space

    `Box(-1, 1, (K_max + 1,), float32)`.

    | entry | meaning |
    |---|---|
    | 0 .. K_max-1 | share of machine k: (a + 0.5) / 1.5 on a grid of 1/256; at or below -0.5 it sits this round out |
    | K_max | sync interval: [-1, 1] is cut into equal parts, one per entry of the scenario's menu |

    Entries of machines that do not exist or are away are ignored. Values outside [-1, 1] are clipped. NaN, infinity,
    wrong shapes and what are no real numbers raise `ValueError`. All shares 0 is allowed: `server.wait_s` and the
    overhead pass and nobody trains. A block that does not fit a machine's memory is not trained.

    `info["status"]` says what became of every machine in the last round: "done" (its block came back), "resting", "away",
    "left", "late", "flat" (its battery) or "infeasible" (its memory); before the first round, "ready" or "away".
    `info["shares"]` (K_max,) and `info["telemetry"]` (K_max, `fedcore.fleet.columns.N_TELEMETRY`) have zeros beyond the
    fleet's `info["machines"]`.

    ## Reward

    `reward="efficiency"` (default): change of the projected log-efficiency; its sum over an episode is the episode's
    log-efficiency, ln of 1 / ((T / T_ref) C), C = w_E E / E_ref + w_B B / B_ref, where T_ref, E_ref and B_ref are what
    the scenario's reference policy needs: equal shares and a fixed H, 0.5 and 10 unless it says otherwise. An episode that
    misses the target scores p / ((T_budget / T_ref) C_budget), as if it had spent every budget, p being its progress, at
    least 0.001. `"ratio"` and `"lagrangian"`: see `envs.rewards`. `info["vector_reward"]` has
    (progress, -time, -energy, -bytes) of the round for multi-objective work.

    ## Starting State

    Progress 0; link rates, load and presence are drawn from their stationary laws, batteries start as the scenario says.
    With several scenarios, one is drawn per episode.

    ## Episode End

    Terminated when progress reaches 1 or a budget (time, energy, bytes, rounds) is spent; never truncated. The last
    `info` has `end_reason`, `reached`, `efficiency` and `log_efficiency`.

    ## Arguments

    - `scenario`: name, path of a YAML file, `scenarios.Scenario`, or a sequence of them. Default `"farm-lte"`.
    - `reward`: `"efficiency"`, `"ratio"`, `"lagrangian"`, or None for the scenario's own.
    - `max_machines`: K_max, default 16.
    - `render_mode`: None, `"rgb_array"` or `"ansi"`.

    ## Version History

    - v0: first version.
    """

    def __init__(
        self,
        scenario: ScenarioLike | Sequence[ScenarioLike] = "farm-lte",
        reward: str | None = None,
        max_machines: int = 16,
        render_mode: str | None = None,
    ) -> None:
        super().__init__(compile_simulated(scenario, max_machines), SimulatedLearner(), reward, render_mode)

    def blocks(self) -> list[list[NDArray[np.int64]]]:
        """Blocks as the real loop would draw them for the last round's shares."""
        world = self.core.world()
        workload, machines = world.scenario.workload, world.arrays.machines
        model = model_for(workload, 1, world.scenario.name)
        r = max(int(self.core.round[0]) - 1, 0)
        rng = np.random.default_rng([int(self.core.key[0]) % 2**32, 1, r])
        shares = [float(s) for s in self.core.shares[0, :machines]]
        blocks = allocate(model.neuron_map, shares, workload.context, workload.selection, r, rng)
        return [[] if b is None else [index.numpy() for index in b.trained.values()] for b in blocks]
