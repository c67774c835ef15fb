"""The heart of both environments: B episodes of orchestration side by side, as arrays.

A single environment is this with B = 1, so single and batched environments agree bit for bit. How progress comes
about is a `Learner`'s business: a fitted model in the fast tier, real training in the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import astuple, dataclass
from typing import Any, Protocol

import numpy as np
from gymnasium.error import ResetNeeded
from numpy.typing import NDArray

from envs.appraisal import appraise
from envs.kernels import reset_rows, step_rows, to_grid
from envs.memory import N_HEARD
from envs.observation import N_FLEET, N_MACHINE, fleet_rows, machine_constants, teaches
from envs.rewards import REWARDS, Ledger, Transition
from envs.rows import in_rows
from envs.scoring import log_efficiency
from envs.spaces import decode
from fedcore.dynamics import N_WORTH, Dynamics, learn, teaching
from fedcore.fleet import columns as c
from fedcore.fleet.compile import stack_fleets
from fedcore.fleet.conditions import is_present
from fedcore.fleet.round import scratch_shape
from fedcore.world import World
from scenarios.errors import InputError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

REACHED, TIME, ENERGY, BYTES, ROUNDS = range(1, 6)
END_REASONS = ("running", "target reached", "time budget spent", "energy budget spent", "byte budget spent",
               "round budget spent")  # fmt: skip
LEAST_RESETS = 32
"""Episodes that begin at a time below which a second thread costs more than it gains."""


def draw_key(rng: np.random.Generator) -> int:
    """An episode's key: `rng.integers(2**63)`, which takes ten times as long to come to the same bits of a PCG64."""
    if isinstance(rng.bit_generator, np.random.PCG64):
        return int(rng.bit_generator.random_raw()) >> 1
    return int(rng.integers(2**63, dtype=np.int64))


@dataclass(frozen=True)
class Decisions:
    """Decisions of B episodes after decoding.

    Attributes:
        shares: (B, K_max) in [0, 1], on the cost table's grid.
        index: (B, K_max) their places on the grid.
        steps: (B,) H.
        level: (B,) index of H in the scenario's menu.
    """

    shares: Floats
    index: Ints
    steps: Ints
    level: Ints


class Learner(Protocol):
    """How a round moves progress."""

    @property
    def immutable(self) -> tuple[Any, ...]:
        """What copies of an episode share."""

    def reset(self, core: Core, which: Ints) -> None:
        """Start over in the episodes of these indices."""

    def advance(self, core: Core, decisions: Decisions, done: Bools) -> Floats:
        """Progress (B,) after a round in which the blocks of `done` (B, K_max) came back."""


class SimulatedLearner:
    """The fast tier's: the fitted learning-dynamics model of each episode's world."""

    immutable: tuple[Any, ...] = ()

    def __init__(self) -> None:
        self._make_room(0, 0)

    def _make_room(self, episodes: int, machines: int) -> None:
        shape = (episodes, machines)
        self.participation, self.fortune, self.leaning = (np.zeros(shape) for _ in range(3))
        self.tilt, self.learned, self.rote = (np.zeros(episodes) for _ in range(3))

    def reset(self, core: Core, which: Ints) -> None:
        """Make room; what was learned, and by whom, is forgotten in an episode's first round."""
        shape = (core.num_envs, core.max_machines)
        if self.participation.shape != shape:
            self._make_room(*shape)

    def advance(self, core: Core, decisions: Decisions, done: Bools) -> Floats:
        """See `Learner.advance`."""
        progress = core.progress.copy()
        in_rows(
            learn, (core.samples,),
            (core.world_index, done, decisions.steps, core.round, core.key, core.dynamics_table, core.taught, core.worth,
             self.participation, self.fortune, self.leaning, self.tilt, self.learned, self.rote, progress),
        )  # fmt: skip
        return progress


class Core:
    """B episodes as arrays.

    Args:
        worlds: compiled scenarios that an episode's is drawn from at every reset; all with the same K_max.
        num_envs: B.
        learner: how rounds move progress.
        reward: a name in `envs.rewards.REWARDS`, or None for each scenario's own kind.

    Raises:
        ValueError: unknown reward, no episode, no world, or worlds of different K_max.
    """

    def __init__(self, worlds: Sequence[World], num_envs: int, learner: Learner, reward: str | None = None) -> None:
        if num_envs < 1 or not worlds:
            raise ValueError(f"got {num_envs} episodes of {len(worlds)} scenarios, expected at least one of each")
        asked = {w.scenario.reward.kind for w in worlds}
        kinds = asked if reward is None else {reward}
        for kind in sorted((kinds | asked) - set(REWARDS)):
            asking = [w.scenario.name for w in worlds if w.scenario.reward.kind == kind]
            field = f"scenario {asking[0]}: reward.kind" if asking else "reward"
            raise InputError(f"{field} {kind!r} is unknown, expected one of {', '.join(REWARDS)}")
        if len(kinds) > 1:
            raise ValueError(f"scenarios ask for different rewards {sorted(kinds)}: name one")
        self.reward = REWARDS[kinds.pop()]
        self.worlds, self.num_envs, self.learner = tuple(worlds), num_envs, learner
        self.max_machines = len(worlds[0].samples)
        if any(len(w.samples) != self.max_machines for w in worlds):
            raise ValueError("all worlds of one core must be compiled for the same max_machines")
        b, k = num_envs, self.max_machines
        # By world, and looked up: too large to be copied to every episode.
        self.fleets = stack_fleets([w.arrays for w in worlds])
        self.costs = np.stack([w.costs for w in worlds])
        self.samples = np.stack([w.samples for w in worlds])
        self.machine_constants = np.stack([machine_constants(w) for w in worlds])
        most = max(len(w.scenario.decision.sync_intervals) for w in worlds)
        menu = [w.scenario.decision.sync_intervals for w in worlds]
        self._by_world = {
            "exists": np.arange(k) < self.fleets.fleet[:, [c.MACHINES]],
            "fleet": self.fleets.fleet,
            "reference": np.array([astuple(w.reference) for w in worlds]),
            "budgets": np.array([w.budgets for w in worlds], dtype=np.float64),
            "levels": np.array([len(m) for m in menu]),
            "menu": np.array([list(m) + [m[-1]] * (most - len(m)) for m in menu], dtype=np.int64),
            "energy_weight": np.array([w.scenario.reward.energy_weight for w in worlds]),
            "context": np.array([w.scenario.workload.context for w in worlds]),
            "teaches": np.array([float(teaches(w, w.samples.sum())) for w in worlds]),
            "dynamics_table": np.array([astuple(w.dynamics) for w in worlds]),
        }
        for name, value in self._by_world.items():
            setattr(self, name, np.empty((b, *value.shape[1:]), dtype=value.dtype))
        self.world_index = np.zeros(b, dtype=np.int64)
        self.conditions = np.zeros((b, k, c.N_CONDITIONS))
        self.key = np.zeros(b, dtype=np.uint64)
        self.round = np.zeros(b, dtype=np.int64)
        self.progress, self.gain, self.trend, self.earned = (np.zeros(b) for _ in range(4))
        self.spent = np.zeros((b, 3))  # seconds, joules, bytes
        self.co2e_kg = np.zeros(b)
        self.telemetry = np.zeros((b, k, c.N_TELEMETRY))
        self.totals = np.zeros((b, c.N_TOTALS))
        self.shares = np.zeros((b, k))
        self.steps = np.zeros(b, dtype=np.int64)
        self.heard = np.zeros((b, k, N_HEARD))
        self.standing, self.worth = np.zeros(b), np.zeros((b, N_WORTH))
        self.surplus, self.last_part, self.taught = (np.zeros((b, k)) for _ in range(3))
        self.ledgers: tuple[Ledger, Ledger] | None = None  # before and after the last round
        self.began = False
        # Two, in turns: what a step gave is still there after the next one, for learners that store transitions.
        self.observed, self._other = (np.zeros((b, k * N_MACHINE + N_FLEET), dtype=np.float32) for _ in range(2))

    exists: Bools
    fleet: Floats
    reference: Floats
    budgets: Floats
    levels: Ints
    menu: Ints
    energy_weight: Floats
    context: Floats
    teaches: Floats
    dynamics_table: Floats

    def reset(self, which: Ints, generators: Sequence[np.random.Generator]) -> None:
        """Start new episodes.

        Args:
            which: indices of the episodes.
            generators: one per index; the world and the episode's key are drawn from it.
        """
        several, keys = len(self.worlds), []
        for b, rng in zip(which, generators, strict=True):
            if several > 1:
                self.world_index[b] = rng.integers(several)
            keys.append(draw_key(rng))
        self.key[which] = keys
        if several > 1 or not self.began:  # one world's figures stay as they are
            changed = which if several > 1 else np.arange(self.num_envs)
            for name, value in self._by_world.items():
                getattr(self, name)[changed] = value[self.world_index[changed]]
        self.began = True
        for array in (self.round, self.progress, self.gain, self.trend, self.earned, self.spent, self.co2e_kg, self.steps,
                      self.standing, self.surplus, self.last_part):  # fmt: skip
            array[which] = 0
        in_rows(
            reset_rows,
            (self.fleets, self.machine_constants, self.world_index, self.conditions, self.key, self.telemetry, self.totals,
             self.shares, self.heard, self.observed),
            (which,), least=LEAST_RESETS,
        )  # fmt: skip
        self.learner.reset(self, which)

    @property
    def dynamics(self) -> Dynamics:
        """Learning dynamics of all episodes, every parameter (B,)."""
        return Dynamics(*self.dynamics_table.T)

    @property
    def came_back(self) -> Bools:
        """Whose blocks came back in the last round, (B, K_max)."""
        return np.asarray(self.telemetry[:, :, c.STATUS] == c.DONE)

    @property
    def parameters(self) -> Floats:
        """Each episode's machines, (B, K_max, N_PARAMETERS)."""
        return self.fleets.parameters[self.world_index]

    @property
    def immutable(self) -> tuple[Any, ...]:
        """What copies of an episode share."""
        own = (*self.worlds, self.fleets, self.costs, self.samples, self.machine_constants, self._by_world)
        return own + self.learner.immutable

    def copies(self, rows: Ints) -> Core:
        """A core of its own whose episodes stand where these do and have the same future before them.

        Args:
            rows: index of each copy's original, in any order and number, repeated or not.

        Raises:
            TypeError: these episodes really train: only simulated ones can be copied in rows.
        """
        if not isinstance(self.learner, SimulatedLearner):
            raise TypeError(f"a core with a {type(self.learner).__name__} has no rows to copy: expected a SimulatedLearner")
        shared = {id(part) for part in self.immutable}
        other, learner = copy(self), copy(self.learner)
        for thing in (other, learner):
            for name, value in vars(thing).items():
                if isinstance(value, np.ndarray) and id(value) not in shared:
                    setattr(thing, name, value[rows])
        other.num_envs, other.learner = len(rows), learner
        other.ledgers = None  # of the last round of all: none of theirs
        return other

    def world(self, b: int = 0) -> World:
        """The world of an episode."""
        return self.worlds[int(self.world_index[b])]

    def ledger(self) -> Ledger:
        """Where the episodes stand."""
        scaled = self.spent / self.reference[:, :3]
        return Ledger(self.progress.copy(), self.dynamics.work_done(self.progress), scaled[:, 0], scaled[:, 1], scaled[:, 2])

    def vector_reward(self) -> NDArray[np.float32]:
        """(B, 4) float32 what the last round brought: progress, and minus its time, energy and bytes in the reference's."""
        assert self.ledgers is not None, "no round was played yet"
        before, after = self.ledgers
        spent = (before.time - after.time, before.energy - after.energy, before.bytes - after.bytes)
        return np.stack([after.progress - before.progress, *spent], axis=1).astype(np.float32)

    def decisions(self, actions: NDArray[np.floating]) -> Decisions:
        """Decode actions (B, K_max + 1) for these episodes; raises ValueError as `spaces.decode`."""
        if np.shape(actions) != (self.num_envs, self.max_machines + 1):
            raise ValueError(
                f"actions have shape {np.shape(actions)}, expected ({self.num_envs}, {self.max_machines + 1})"
            )
        shares, level = decode(actions, self.levels)
        index = np.empty(shares.shape, dtype=np.int64)
        in_rows(to_grid, (), (self.exists, shares, index))
        return Decisions(shares, index, self.menu[np.arange(self.num_envs), level], level)

    def step(self, actions: NDArray[np.floating]) -> tuple[Floats, Ints]:
        """Play one round in every episode.

        Args:
            actions: (B, K_max + 1) float.

        Returns:
            (B,) rewards, and (B,) why an episode ended (0 where it goes on, else an index into END_REASONS).

        Raises:
            ValueError: actions of a wrong shape, or not finite.
            ResetNeeded: no episode began yet.
        """
        if not self.began:
            raise ResetNeeded("no episode began yet: call reset() first")
        decisions = self.decisions(actions)
        before = self.ledger()
        self.shares, self.steps = decisions.shares, decisions.steps
        self.observed, self._other = self._other, self.observed
        progress = self.play(decisions)
        self.gain = progress - self.progress
        self.trend = 0.7 * self.trend + 0.3 * self.gain
        self.progress = progress
        in_rows(appraise, (), (self.dynamics_table, self.taught, self.worth, progress, self.standing, self.surplus))
        self.spent = self.spent + self.totals[:, [c.ROUND_S, c.TOTAL_ENERGY_J, c.TOTAL_BYTES]]
        self.co2e_kg = self.co2e_kg + self.totals[:, c.TOTAL_CO2E_KG]
        self.round += 1
        after = self.ledger()
        self.ledgers = (before, after)
        reason = self.end_reasons()
        score = self.log_efficiency(after)
        rewards = self.reward(Transition(before, after, self.energy_weight, reason > 0, score, self.earned))
        self.earned = self.earned + rewards
        return rewards, reason

    def play(self, decisions: Decisions) -> Floats:
        """Let the round happen: its telemetry and totals, what is remembered of machines, their part of the observation.

        Returns:
            Progress (B,) after it.
        """
        done = np.empty((self.num_envs, self.max_machines), dtype=np.bool_)
        in_rows(
            step_rows, (self.fleets, self.costs, self.machine_constants),
            (self.world_index, self.conditions, decisions.index, self.steps, self.spent[:, 0].copy(), self.key, self.round,
             self.telemetry, self.totals, self.shares, self.heard, self.observed, done),
            scratch=scratch_shape(self.max_machines, self.fleets.via.shape[2]),
        )  # fmt: skip
        self.note_teaching(decisions, done)
        return self.learner.advance(self, decisions, done)

    def note_teaching(self, decisions: Decisions, done: Bools) -> None:
        """Keep who has taught how much in a round in which the blocks of `done` (B, K_max) came back, and what it was worth."""
        in_rows(
            teaching, (self.samples,),
            (self.world_index, done, decisions.shares, decisions.steps, self.dynamics_table, self.last_part, self.taught,
             self.worth),
            scratch=(self.max_machines,),
        )  # fmt: skip

    def end_reasons(self) -> Ints:
        """Why episodes have ended, (B,) indices into END_REASONS; 0 where they go on."""
        reason = np.zeros(self.num_envs, dtype=np.int64)
        reason[self.round >= self.budgets[:, 3]] = ROUNDS
        for i, code in ((2, BYTES), (1, ENERGY), (0, TIME)):
            reason[self.spent[:, i] >= self.budgets[:, i]] = code
        reason[self.progress >= 1.0] = REACHED
        return reason

    def log_efficiency(self, ledger: Ledger | None = None) -> Floats:
        """Log of the score that each episode would have if it ended now, (B,)."""
        return self._score(self.progress >= 1.0, self.ledger() if ledger is None else ledger)

    def log_efficiency_bound(self) -> Floats:
        """Log of the score that each episode would have had its target just been reached, (B,): whatever follows, one that
        is still running cannot score more."""
        return self._score(np.ones(self.num_envs, dtype=np.bool_), self.ledger())

    def _score(self, reached: Bools, ledger: Ledger) -> Floats:
        w = self.energy_weight
        scaled = self.budgets[:, :3] / self.reference[:, :3]
        budget_cost = w * scaled[:, 1] + (1 - w) * scaled[:, 2]
        cost = w * ledger.energy + (1 - w) * ledger.bytes
        return log_efficiency(reached, self.progress, ledger.time, cost, scaled[:, 0], budget_cost)

    def observe(self) -> NDArray[np.float32]:
        """Observations of all episodes after the last step or reset, (B, size): a buffer that the step after the next one
        overwrites, so copy what is to be kept."""
        in_rows(
            fleet_rows, (),
            (self.fleet, self.reference, self.budgets, self.menu, self.energy_weight, self.context, self.teaches, self.round,
             self.progress, self.gain, self.trend, self.steps, self.spent, self.totals, self.surplus, self.observed),
        )  # fmt: skip
        return self.observed

    def status(self, b: int) -> list[str]:
        """What became of every machine of episode b in the last round, a name of `columns.STATUS_NAMES`; before the first,
        whether it is there: "ready" or "away"."""
        w = int(self.world_index[b])
        machines = range(len(self.world(b).arrays.names))
        if self.round[b]:
            return [c.STATUS_NAMES[int(self.telemetry[b, k, c.STATUS])] for k in machines]
        parameters, windows, start_s = self.fleets.parameters, self.fleets.windows, self.fleet[b, c.START_S]
        here = (is_present(parameters, w, k, self.conditions, b, windows, start_s, 0.0) for k in machines)
        return [c.READY if there else c.STATUS_NAMES[c.AWAY] for there in here]

    def info(self, b: int) -> dict[str, Any]:
        """What episode b's last round cost and gave, for `info` of one environment; arrays have K_max rows, whatever the
        fleet, so that fleets of any size stand side by side in a vector environment."""
        return {
            "round": int(self.round[b]),
            "machines": len(self.world(b).arrays.names),
            "sync_interval": int(self.steps[b]),
            "shares": self.shares[b].copy(),
            "status": self.status(b),
            "progress": float(self.progress[b]),
            "time_s": float(self.spent[b, 0]),
            "energy_j": float(self.spent[b, 1]),
            "bytes": float(self.spent[b, 2]),
            "co2e_kg": float(self.co2e_kg[b]),
            "round_time_s": float(self.totals[b, c.ROUND_S]),
            "round_energy_j": float(self.totals[b, c.TOTAL_ENERGY_J]),
            "round_bytes": float(self.totals[b, c.TOTAL_BYTES]),
            "telemetry": self.telemetry[b].copy(),
        }
