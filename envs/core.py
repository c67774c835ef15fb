"""The heart of both environments: B episodes of orchestration side by side, as arrays.

A single environment is this with B = 1, so single and batched environments agree bit for bit. How progress comes
about is a `Learner`'s business: a fitted model in the fast tier, real training in the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from envs.observation import assemble
from envs.rewards import REWARDS, Ledger, Transition
from envs.scoring import log_efficiency
from envs.spaces import decode
from fedcore.costs import GRID
from fedcore.dynamics import Dynamics, remember, variety
from fedcore.fleet import columns as c
from fedcore.fleet.conditions import DAY_S, initial, present_all
from fedcore.fleet.round import play_rounds
from fedcore.world import World, progress_noise, share_indices

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

REACHED, TIME, ENERGY, BYTES, ROUNDS = range(1, 6)
END_REASONS = ("running", "target reached", "time budget spent", "energy budget spent", "byte budget spent",
               "round budget spent")  # fmt: skip


@dataclass(frozen=True)
class Decisions:
    """Decisions of B episodes after decoding.

    Attributes:
        shares: (B, K_max) in [0, 1], on the cost table's grid.
        steps: (B,) H.
        level: (B,) index of H in the scenario's menu.
    """

    shares: Floats
    steps: Ints
    level: Ints


class Learner(Protocol):
    """How a round moves progress."""

    def reset(self, core: Core, which: Ints) -> None:
        """Start over in the episodes of these indices."""

    def advance(self, core: Core, decisions: Decisions, done: Bools) -> Floats:
        """Progress (B,) after a round in which the blocks of `done` (B, K_max) came back."""


class SimulatedLearner:
    """The fast tier's: the fitted learning-dynamics model of each episode's world."""

    def __init__(self) -> None:
        self.participation = np.zeros((0, 0))
        self.path = np.zeros(0)

    def reset(self, core: Core, which: Ints) -> None:
        """Nothing to do: path and participation are forgotten in an episode's first round."""

    def advance(self, core: Core, decisions: Decisions, done: Bools) -> Floats:
        """See `Learner.advance`."""
        coverage = (done * decisions.shares).sum(axis=1)
        data = (done * core.data).sum(axis=1)
        if self.participation.shape != done.shape:
            self.participation, self.path = np.zeros(done.shape), np.zeros(len(done))
        self.participation = remember(self.participation, done, core.round)
        lately = variety(self.participation, core.data)
        work = core.dynamics.work(coverage, data, decisions.steps.astype(np.float64))
        dynamics = core.dynamics
        luck = np.exp(dynamics.run_spread * progress_noise(core.key, np.full_like(core.round, -1)))
        self.path = dynamics.advance(np.where(core.round > 0, self.path, 0.0), luck * work, lately)
        # A round that merged nothing changes nothing, so it measures what the last one did.
        measured = self.path + dynamics.noise * progress_noise(core.key, core.round)
        return np.where(work > 0, measured, core.progress)


class Core:
    """B episodes as arrays.

    Args:
        worlds: compiled scenarios that an episode's is drawn from at every reset; all with the same K_max.
        num_envs: B.
        learner: how rounds move progress.
        reward: a name in `envs.rewards.REWARDS`, or None for each scenario's own kind.

    Raises:
        ValueError: unknown reward, or worlds of different K_max.
    """

    def __init__(self, worlds: Sequence[World], num_envs: int, learner: Learner, reward: str | None = None) -> None:
        kinds = {reward} if reward is not None else {w.scenario.reward.kind for w in worlds}
        unknown = kinds - set(REWARDS)
        if unknown:
            raise ValueError(f"reward {sorted(unknown)} is unknown, expected one of {', '.join(REWARDS)}")
        if len(kinds) > 1:
            raise ValueError(f"scenarios ask for different rewards {sorted(kinds)}: name one")
        self.reward = REWARDS[kinds.pop()]
        self.worlds, self.num_envs, self.learner = tuple(worlds), num_envs, learner
        self.max_machines = len(worlds[0].data)
        if any(len(w.data) != self.max_machines for w in worlds):
            raise ValueError("all worlds of one core must be compiled for the same max_machines")
        b, k = num_envs, self.max_machines
        self.world_index = np.zeros(b, dtype=np.int64)
        self._worlds = {
            "parameters": np.stack([w.arrays.parameters for w in worlds]),
            "fleet": np.stack([w.arrays.fleet for w in worlds]),
            "link_up": np.stack([w.arrays.link_up_bps for w in worlds]),
            "link_down": np.stack([w.arrays.link_down_bps for w in worlds]),
            "via": np.stack([w.arrays.via for w in worlds]),
            "costs": np.stack([w.costs for w in worlds]),
            "data": np.stack([w.data for w in worlds]),
            "max_share": np.stack([w.max_share_index / GRID for w in worlds]),
            "reference": np.array([(w.reference.time_s, w.reference.energy_j, w.reference.bytes, w.reference.rounds)
                                   for w in worlds]),
            "budgets": np.array([w.budgets for w in worlds], dtype=np.float64),
            "levels": np.array([len(w.scenario.decision.sync_intervals) for w in worlds]),
            "energy_weight": np.array([w.scenario.reward.energy_weight for w in worlds]),
            "context": np.array([w.scenario.workload.context for w in worlds]),
            "dynamics_table": np.array([astuple(w.dynamics) for w in worlds]),
        }  # fmt: skip
        most = int(self._worlds["levels"].max())
        menu = [w.scenario.decision.sync_intervals for w in worlds]
        self._worlds["menu"] = np.array([list(m) + [m[-1]] * (most - len(m)) for m in menu], dtype=np.int64)
        self.parameters = np.empty((b, k, c.N_PARAMETERS))
        for name, value in self._worlds.items():
            setattr(self, name, np.empty((b, *value.shape[1:]), dtype=value.dtype))
        self.conditions = np.zeros((b, k, c.N_CONDITIONS))
        self.key = np.zeros(b, dtype=np.uint64)
        self.round = np.zeros(b, dtype=np.int64)
        self.progress, self.gain, self.trend = np.zeros(b), np.zeros(b), np.zeros(b)
        self.spent = np.zeros((b, 3))  # seconds, joules, bytes
        self.co2e_kg = np.zeros(b)
        self.telemetry = np.zeros((b, k, c.N_TELEMETRY))
        self.totals = np.zeros((b, c.N_TOTALS))
        self.shares = np.zeros((b, k))
        self.steps = np.zeros(b, dtype=np.int64)
        # What the orchestrator remembers of measurements; starts as advertised.
        self.slow, self.up_bps, self.down_bps = np.ones((b, k)), np.ones((b, k)), np.ones((b, k))
        self.age, self.lost = np.zeros((b, k)), np.zeros((b, k))

    parameters: Floats
    fleet: Floats
    link_up: Floats
    link_down: Floats
    via: Bools
    costs: Floats
    data: Floats
    max_share: Floats
    reference: Floats
    budgets: Floats
    levels: Ints
    energy_weight: Floats
    context: Floats
    menu: Ints
    dynamics_table: Floats

    def reset(self, which: Ints, generators: Sequence[np.random.Generator]) -> None:
        """Start new episodes.

        Args:
            which: indices of the episodes.
            generators: one per index; the world and the episode's key are drawn from it.
        """
        for b, rng in zip(which, generators, strict=True):
            w = int(rng.integers(len(self.worlds)))
            self.world_index[b] = w
            for name, value in self._worlds.items():
                getattr(self, name)[b] = value[w]
            self.key[b] = rng.integers(2**63, dtype=np.int64)
            self.conditions[b] = initial(self.parameters[b], self.key[b])
        for array in (self.round, self.progress, self.gain, self.trend, self.spent, self.co2e_kg, self.telemetry,
                      self.totals, self.shares, self.steps, self.age, self.lost):  # fmt: skip
            array[which] = 0
        self.slow[which] = 1.0
        self._heartbeat(which)
        self.up_bps[which] = np.maximum(self.parameters[which, :, c.UP_BPS], 1.0)
        self.down_bps[which] = np.maximum(self.parameters[which, :, c.DOWN_BPS], 1.0)
        self.learner.reset(self, which)

    @property
    def dynamics(self) -> Dynamics:
        """Learning dynamics of all episodes, every parameter (B,)."""
        return Dynamics(*self.dynamics_table.T)

    def world(self, b: int = 0) -> World:
        """The world of an episode."""
        return self.worlds[int(self.world_index[b])]

    def ledger(self) -> Ledger:
        """Where the episodes stand."""
        scaled = self.spent / self.reference[:, :3]
        return Ledger(self.progress.copy(), self.dynamics.work_done(self.progress), scaled[:, 0], scaled[:, 1], scaled[:, 2])

    def decisions(self, actions: NDArray[np.floating]) -> Decisions:
        """Decode actions (B, K_max + 1) for these episodes; raises ValueError as `spaces.decode`."""
        if np.shape(actions) != (self.num_envs, self.max_machines + 1):
            raise ValueError(
                f"actions have shape {np.shape(actions)}, expected ({self.num_envs}, {self.max_machines + 1})"
            )
        shares, level = decode(actions, self.levels)
        exists = self.parameters[:, :, c.FLOPS_PER_S] > 0
        shares = np.where(exists, share_indices(shares) / GRID, 0.0)
        return Decisions(shares, self.menu[np.arange(self.num_envs), level], level)

    def step(self, actions: NDArray[np.floating]) -> tuple[Floats, Ints]:
        """Play one round in every episode.

        Args:
            actions: (B, K_max + 1).

        Returns:
            (B,) rewards, (B,) reason of the end, 0 while it goes on (see `END_REASONS`).
        """
        decisions = self.decisions(actions)
        before = self.ledger()
        play_rounds(
            self.parameters, self.fleet, self.link_up, self.link_down, self.via, self.costs, self.conditions,
            share_indices(decisions.shares), decisions.steps, self.spent[:, 0].copy(), self.key, self.round,
            self.telemetry, self.totals,
        )  # fmt: skip
        status = self.telemetry[:, :, c.STATUS]
        done = status == c.DONE
        progress = self.learner.advance(self, decisions, done)
        self.gain = progress - self.progress
        self.trend = 0.7 * self.trend + 0.3 * self.gain
        self.progress = progress
        self.spent = self.spent + self.totals[:, [c.ROUND_S, c.TOTAL_ENERGY_J, c.TOTAL_BYTES]]
        self.co2e_kg = self.co2e_kg + self.totals[:, c.TOTAL_CO2E_KG]
        self.round += 1
        self.shares, self.steps = decisions.shares, decisions.steps
        self._remember(status, done)
        after = self.ledger()
        reason = self._reason()
        transition = Transition(
            before, after, self.energy_weight, self.reference[:, 3], reason > 0, self.log_efficiency(after)
        )
        return self.reward(transition), reason

    def _remember(self, status: Floats, done: Bools) -> None:
        """Keep what this round measured (link rates of those who came back) and what the heartbeat reports now."""
        t = self.telemetry
        self._heartbeat(np.arange(self.num_envs))
        self.up_bps = np.where(done, t[:, :, c.MEASURED_UP_BPS], self.up_bps)
        self.down_bps = np.where(done, t[:, :, c.MEASURED_DOWN_BPS], self.down_bps)
        self.age = np.where(done, 0.0, self.age + 1.0)
        self.lost += (status == c.LEFT) | (status == c.FLAT)

    def _heartbeat(self, which: Ints) -> None:
        """Machines that answer report their load, as any operating system knows it; the others' last word stands."""
        p, x = self.parameters[which], self.conditions[which]
        load = np.where(x[:, :, c.BUSY] > 0.5, p[:, :, c.SLOWDOWN], 1.0)
        self.slow[which] = np.where(present_all(p, x), load, self.slow[which])

    def _step_seconds(self, shares: Floats) -> Floats:
        """Seconds per step of every machine at a share under its reported load; (B, K_max)."""
        flops = np.take_along_axis(self.costs[:, :, 0], share_indices(shares), axis=1)
        rate = np.maximum(self.parameters[:, :, c.FLOPS_PER_S], 1.0)
        return (self.parameters[:, :, c.STEP_OVERHEAD_S] + flops / rate) * self.slow

    def _reason(self) -> Ints:
        reason = np.zeros(self.num_envs, dtype=np.int64)
        reason[self.round >= self.budgets[:, 3]] = ROUNDS
        for i, code in ((2, BYTES), (1, ENERGY), (0, TIME)):
            reason[self.spent[:, i] >= self.budgets[:, i]] = code
        reason[self.progress >= 1.0] = REACHED
        return reason

    def log_efficiency(self, ledger: Ledger | None = None) -> Floats:
        """Log of the score that each episode would have if it ended now, (B,)."""
        ledger = self.ledger() if ledger is None else ledger
        w = self.energy_weight
        scaled = self.budgets[:, :3] / self.reference[:, :3]
        budget_cost = w * scaled[:, 1] + (1 - w) * scaled[:, 2]
        cost = w * ledger.energy + (1 - w) * ledger.bytes
        return log_efficiency(self.progress >= 1.0, self.progress, ledger.time, cost, scaled[:, 0], budget_cost)

    def observe(self) -> NDArray[np.float32]:
        """Observations of all episodes, (B, size)."""
        p, t = self.parameters, self.telemetry
        exists = (p[:, :, c.FLOPS_PER_S] > 0).astype(np.float64)
        count = exists.sum(axis=1)
        rounds = self.reference[:, 3]
        round_s = (self.reference[:, 0] / rounds)[:, None]
        round_j = (self.reference[:, 1] / rounds / count)[:, None]
        full = np.ones_like(p[:, :, 0])
        step_s = self._step_seconds(full)
        model_up, model_down = 8.0 * self.costs[:, -1, 1][:, None], 8.0 * self.costs[:, -1, 2][:, None]
        reserve = p[:, :, c.BATTERY_RESERVE]
        battery = p[:, :, c.BATTERY_J]
        charge = self.conditions[:, :, c.CHARGE_J] / np.maximum(battery, 1e-9)
        available = present_all(p, self.conditions)
        status = t[:, :, c.STATUS]
        lost = (status == c.LEFT) | (status == c.LATE) | (status == c.INFEASIBLE) | (status == c.FLAT)
        started = self.round > 0
        clock = 2 * np.pi * ((self.fleet[:, c.START_S] + self.spent[:, 0]) % DAY_S) / DAY_S
        scaled = self.spent / self.reference[:, :3]
        used = self.spent / self.budgets[:, :3]
        with np.errstate(divide="ignore", invalid="ignore"):
            machine = {
                "exists": exists,
                "available": available.astype(np.float64),
                "step_time": np.log10(step_s / (round_s / 10.0)),
                "slowdown": np.log10(self.slow),
                "upload_time": np.log10(model_up / self.up_bps / round_s),
                "download_time": np.log10(model_down / self.down_bps / round_s),
                "measurement_age": np.tanh(self.age / 10.0),
                "step_energy": np.log10(p[:, :, c.ACTIVE_W] * step_s / (round_j / 10.0)),
                "radio_energy": np.log10(
                    (model_up * p[:, :, c.TX_J_PER_BIT] + model_down * p[:, :, c.RX_J_PER_BIT]) / round_j + 1e-4
                ),
                "idle_energy": np.log10(p[:, :, c.IDLE_W] * round_s / round_j + 1e-4),
                "charge": np.where(battery > 0, (charge - reserve) / np.maximum(1.0 - reserve, 1e-9), 1.0),
                "data": 0.5 * self.data * count[:, None],
                "max_share": self.max_share,
                "last_share": self.shares,
                "last_outcome": (status == c.DONE) * 1.0 - lost,
                "last_idle": t[:, :, c.IDLE_S] / np.maximum(self.totals[:, c.ROUND_S], 1e-9)[:, None],
                "step_saving": full * (self.costs[:, 1, 0] / self.costs[:, -1, 0])[:, None],
                "leaves": np.tanh(self.lost / 2.0),
            }
            fleet = {
                "progress": self.progress,
                "last_gain": 10.0 * self.gain,
                "gain_trend": 10.0 * self.trend,
                "last_steps": np.where(started, np.log10(np.maximum(self.steps, 1)), 0.0),
                "time_used": used[:, 0],
                "energy_used": used[:, 1],
                "bytes_used": used[:, 2],
                "rounds_used": self.round / self.budgets[:, 3],
                "time_vs_reference": scaled[:, 0],
                "energy_vs_reference": scaled[:, 1],
                "bytes_vs_reference": scaled[:, 2],
                "available_fraction": (available * exists).sum(axis=1) / count,
                "machines": count / self.max_machines,
                "energy_weight": self.energy_weight,
                "context": self.context,
                "last_round_time": np.where(started, np.log10(self.totals[:, c.ROUND_S] / round_s[:, 0]), 0.0),
                "last_round_energy": np.where(
                    started, np.log10(self.totals[:, c.TOTAL_ENERGY_J] / (self.reference[:, 1] / rounds) + 1e-4), 0.0
                ),
                "last_round_bytes": np.where(
                    started, np.log10(self.totals[:, c.TOTAL_BYTES] / (self.reference[:, 2] / rounds) + 1e-4), 0.0
                ),
                "day_sin": np.sin(clock),
                "day_cos": np.cos(clock),
                "shortest_interval": np.log10(self.menu[:, 0]),
                "longest_interval": np.log10(self.menu[:, -1]),
                "reference_rounds": 0.5 * np.log10(rounds),
            }
        return assemble(machine, fleet)

    def info(self, b: int) -> dict[str, Any]:
        """What episode b's last round cost and gave, for `info` of one environment."""
        names = self.world(b).arrays.names
        status = self.telemetry[b, : len(names), c.STATUS].astype(int)
        return {
            "round": int(self.round[b]),
            "sync_interval": int(self.steps[b]),
            "shares": self.shares[b, : len(names)].copy(),
            "status": [c.STATUS_NAMES[s] for s in status],
            "progress": float(self.progress[b]),
            "time_s": float(self.spent[b, 0]),
            "energy_j": float(self.spent[b, 1]),
            "bytes": float(self.spent[b, 2]),
            "co2e_kg": float(self.co2e_kg[b]),
            "round_time_s": float(self.totals[b, c.ROUND_S]),
            "round_energy_j": float(self.totals[b, c.TOTAL_ENERGY_J]),
            "round_bytes": float(self.totals[b, c.TOTAL_BYTES]),
            "telemetry": self.telemetry[b, : len(names)].copy(),
        }
