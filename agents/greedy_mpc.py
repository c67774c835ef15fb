"""greedy-mpc: model-predictive control on the fitted dynamics, without clairvoyance.

Every round each policy of a small family is played from what is known of the present to the end of the episode, in a few
futures drawn by the scenario's own laws; the best on average decides this round, and the next one is planned anew (a rollout
algorithm as `agents.clairvoyant`, whose family it shares, under uncertainty: Bertsekas 2005, "Dynamic programming and
suboptimal control: a survey from ADP to MPC").

It knows the scenario file, its calibration, and what observations tell; what they do not is drawn: each machine's luck in
learning, clouds, where a trace stands. So links are expected at their last measured rates, forgetting them as the file says;
load and presence as the last heartbeat told, changing as the file says. Its futures have nothing to do with the episode's.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from agents.base import Orchestrator
from agents.family import Family, ranked
from agents.rollout import Floor, best_of, play_out
from envs.core import Core, SimulatedLearner
from envs.memory import AGE, DOWN_BPS, LOST, SLOW, UP_BPS
from envs.observation import MACHINE_FEATURES, N_FLEET, View, machines_of, split
from fedcore.dynamics import recent_samples, remember, rote_after, round_work, spreads_of
from fedcore.fleet import columns as c
from fedcore.fleet.conditions import HOT_FROM
from fedcore.freshness import refresh
from fedcore.world import World, compile_world
from scenarios import Scenario

Floats = NDArray[np.float64]
SEED = 9_000_000
"""Of the futures: far from training's, the search's and the held-out episodes'."""


class Belief:
    """The present of an episode as far as observations tell it, in as many copies as futures are drawn.

    Args:
        world: compiled scenario.
        samples: how many futures.
    """

    def __init__(self, world: World, samples: int) -> None:
        self.world, self.samples = world, samples
        rng = np.random.default_rng(SEED)
        learner = SimulatedLearner()
        self.core = Core([world], samples, learner, "efficiency")
        self.core.reset(np.arange(samples), [np.random.default_rng([SEED, m]) for m in range(samples)])
        self.drawn, d = self.core.conditions.copy(), world.dynamics
        shape = learner.fortune.shape
        lucky, leans = spreads_of(world.samples, d.machine_spread, d.tilt_spread, d.spread_power)
        luck = d.run_spread * rng.normal(size=(samples, 1)) + lucky * rng.normal(size=shape)
        learner.fortune[:] = np.exp(luck - 0.5 * lucky**2)
        learner.leaning[:] = leans * rng.normal(size=shape)
        self.participation, self.last_part, self.rote = np.zeros((1, shape[1])), np.zeros(shape[1]), np.zeros(1)
        self.fresh = 1.0
        self.link_noise = rng.normal(size=shape)
        self.round = 0

    def listen(self, observation: NDArray[np.floating]) -> None:
        """Take in what an observation (size,) tells; of every round, in order."""
        view = split(np.asarray(observation, dtype=np.float64))
        self._progress(view)
        self._conditions(view)
        core = self.core
        used = np.array([view.fleet[f"{name}_used"] for name in ("time", "energy", "bytes")], dtype=np.float64)
        core.spent[:] = used * self.world.budgets[:3]
        core.round[:] = self.round
        core.observed[:, : observation.shape[0] - N_FLEET] = observation[:-N_FLEET]
        self.round += 1

    def _progress(self, view: View) -> None:
        """What is learned follows from measured progress and the gap that the model expects."""
        m, f, d, samples = view.machine, view.fleet, self.world.dynamics, self.world.samples
        if self.round:
            done = m["last_outcome"] > 0.5
            self.participation = remember(self.participation, done[None], np.array([self.round - 1]))
            back, steps = np.where(done, m["last_share"], 0.0), float(10.0 ** f["last_steps"])
            if done.any():
                self.fresh = refresh(self.last_part, back, samples, steps)
                work, _ = round_work(back, samples, steps, self.core.dynamics_table[0])
                self.rote = rote_after(self.rote, work, d.rate, d.gap_fade)
        gap = d.gap(self.rote, recent_samples(self.participation, samples[None]), np.array([self.fresh]))
        learner = self.core.learner
        assert isinstance(learner, SimulatedLearner)
        learner.participation[:], learner.rote[:] = self.participation, self.rote
        self.core.progress[:] = self.core.standing[:] = f["progress"]
        self.core.surplus[:], self.core.last_part[:] = 0.1 * m["surplus"], self.last_part
        learner.learned[:] = np.minimum(max(float(f["progress"]), 0.0) + gap, 0.999 * d.ceiling)

    def _conditions(self, view: View) -> None:
        """Links, load, heat, presence and charge."""
        m, p, core = view.machine, self.world.arrays.parameters, self.core
        exists = p[:, c.FLOPS_PER_S] > 0.0
        x, heard = core.conditions, core.heard
        x[:] = self.drawn
        constants = core.machine_constants[0]
        rate = {
            name: 10.0 ** (constants[:, MACHINE_FEATURES.index(name)] - m[name]) for name in ("upload_time", "download_time")
        }
        heard[:, :, UP_BPS], heard[:, :, DOWN_BPS] = rate["upload_time"], rate["download_time"]
        heard[:, :, SLOW] = slow = 10.0 ** m["slowdown"]
        age = 10.0 * np.arctanh(np.minimum(m["measurement_age"], 0.9999))
        heard[:, :, AGE], heard[:, :, LOST] = age, 2.0 * np.arctanh(np.minimum(m["leaves"], 0.9999))
        # ln(rate over advertised), split between what lasts the episode and what fades, by their variances.
        up, down = np.maximum(p[:, c.UP_BPS], 1.0), np.maximum(p[:, c.DOWN_BPS], 1.0)
        told = 0.5 * (np.log(rate["upload_time"] / up) + np.log(rate["download_time"] / down))
        spread, sigma = p[:, c.LINK_SPREAD] ** 2, p[:, c.LINK_SIGMA] ** 2
        lasting = spread / np.maximum(spread + sigma, 1e-12)
        measured = (age < self.round - 0.5) & exists
        reference = self.world.reference
        kept = np.exp(-age * reference.time_s / reference.rounds / np.maximum(p[:, c.LINK_TAU_S], 1e-9))
        fading = told * (1.0 - lasting) / np.sqrt(np.maximum(sigma, 1e-12)) + 0.5 * np.sqrt(sigma)
        x[:, :, c.LINK_MEAN] = np.where(measured & (spread > 0.0), np.exp(told * lasting), x[:, :, c.LINK_MEAN])
        drawn = kept * fading + np.sqrt(1.0 - kept**2) * self.link_noise
        x[:, :, c.LINK_X] = np.where(measured & (sigma > 0.0), drawn, x[:, :, c.LINK_X])
        x[:, :, c.OUT] = 0.0
        busy = (p[:, c.SLOWDOWN] > 1.0) & (slow >= 0.999 * p[:, c.SLOWDOWN])
        x[:, :, c.BUSY] = busy
        rest = slow / np.where(busy, p[:, c.SLOWDOWN], 1.0)
        throttled = np.clip((rest - 1.0) / np.maximum(p[:, c.THROTTLE] - 1.0, 1e-9), 0.0, 1.0)
        warm = np.where(m["last_share"] > 0.0, HOT_FROM, 0.0)  # it worked, and is not hot yet
        x[:, :, c.HEAT] = np.where(throttled > 1e-6, HOT_FROM + (1.0 - HOT_FROM) * throttled, warm)
        here = m["available"] > 0.5
        x[:, :, c.ON] = here | (p[:, c.OFF_S] <= 0.0)
        reserve = p[:, c.BATTERY_RESERVE]
        x[:, :, c.CHARGE_J] = (m["charge"] * (1.0 - reserve) + reserve) * p[:, c.BATTERY_J]


class GreedyMpc(Orchestrator):
    """See the module's text.

    Attributes:
        samples: futures.
        finalists: policies that are played in all of them, the best in the first.
        shares: that its policies give.
    """

    name = "greedy-mpc"
    samples = 4
    finalists = 8
    shares: tuple[float, ...] = (0.5, 1.0)

    def begin(self, scenario: Scenario) -> None:
        """Know nothing but the scenario."""
        self.scenario = scenario
        self.belief: Belief | None = None
        self.policies: Family | None = None

    def decide(self, observation: NDArray[np.floating]) -> NDArray[np.float32]:
        """See `Orchestrator.decide`."""
        observation = np.asarray(observation, dtype=np.float32)
        if self.belief is None or self.policies is None:
            world = compile_world(self.scenario, machines_of(observation.shape[0]))
            n, levels = world.arrays.machines, len(self.scenario.decision.sync_intervals)
            self.belief = Belief(world, self.samples)
            self.policies = ranked(world, (1, 2, (n + 1) // 2, n), self.shares, max(levels - 3, 0))
        self.belief.listen(observation)
        best = 0
        if not self.belief.core.end_reasons().any():  # else a budget is all but spent, as far as rounding tells
            everyone = np.arange(len(self.policies.rank))
            first = self._scores(everyone, np.zeros(1, dtype=np.int64), best_of(self.finalists))[:, 0]
            last = np.sort(np.argsort(-first, kind="stable")[: self.finalists])
            others = self._scores(last, np.arange(1, self.samples))
            best = int(last[np.argmax(first[last] + others.sum(axis=1))])
        return self.policies.decide(np.array([best]), observation[None])[0]

    def _scores(self, policies: NDArray[np.int64], futures: NDArray[np.int64], floor: Floor | None = None) -> Floats:
        """ln efficiency of policies (P,) in futures (M,), (P, M)."""
        assert self.belief is not None
        assert self.policies is not None
        family, which = self.policies, np.repeat(policies, len(futures))
        core = self.belief.core.copies(np.tile(futures, len(policies)))
        return play_out(core, lambda rows, seen: family.decide(which[rows], seen), floor).reshape(len(policies), len(futures))


class WholeMpc(GreedyMpc):
    """The same with whole models only: what intra-layer shares are worth to a planner."""

    name = "greedy-mpc-whole"
    shares = (1.0,)


PLANNERS = {cls.name: cls for cls in (GreedyMpc, WholeMpc)}
"""By name; they plan with what observations tell."""
