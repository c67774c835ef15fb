"""Play episodes: one on either tier, or many side by side on the fast one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from gymnasium.utils.seeding import np_random
from numpy.typing import NDArray

from agents.base import Orchestrator
from agents.heuristics.base import Heuristic
from envs.core import REACHED, Core, SimulatedLearner
from envs.single import SingleEnv
from fedcore.costs import GRID
from fedcore.world import compile_world
from scenarios import InputError, Scenario


@dataclass(frozen=True)
class EpisodeResult:
    """One episode.

    Attributes:
        agent: name of the orchestrator.
        scenario: name.
        seed: of the episode.
        log_efficiency: ln of the score.
        reached: whether the target was reached.
        progress: at the end.
        time_s: simulated seconds.
        energy_j: joules.
        bytes: up and down.
        co2e_kg: carbon.
        rounds: number of rounds.
        curve: per round (seconds, progress, joules, bytes, H, sum of shares).
        asked: machines given a share, mean over rounds; this and what follows is None where it was not counted.
        share: that they got, mean over them.
        whole: fraction of them that got all that fits their memory.
        interval: H over the longest of the scenario's, mean over rounds.
    """

    agent: str
    scenario: str
    seed: int
    log_efficiency: float
    reached: bool
    progress: float
    time_s: float
    energy_j: float
    bytes: float
    co2e_kg: float
    rounds: int
    curve: list[list[float]]
    asked: float | None = None
    share: float | None = None
    whole: float | None = None
    interval: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    @staticmethod
    def of(
        agent: str, scenario: str, seed: int, info: dict[str, Any], score: float, reached: bool, curve: list[list[float]],
        decided: Sequence[float] = (),
    ) -> EpisodeResult:
        """Of the last round's info, what the episode scored, and what `Decided` counted."""
        return EpisodeResult(
            agent, scenario, seed, score, reached, info["progress"], info["time_s"], info["energy_j"], info["bytes"],
            info["co2e_kg"], info["round"], curve, *decided,
        )  # fmt: skip


class Decided:
    """What is decided in episodes of one scenario, counted round by round.

    Args:
        core: of the episodes.
    """

    def __init__(self, core: Core) -> None:
        world = core.world()
        self._largest, self._longest = world.max_share_index / GRID, max(world.scenario.decision.sync_intervals)
        self._sums, self._rounds = np.zeros((core.num_envs, 4)), np.zeros(core.num_envs)

    def count(self, core: Core, rows: NDArray[np.int64]) -> None:
        """Take in the last round of a core whose episodes (B,) are these."""
        shares, asked = core.shares, core.shares > 0.0
        whole = asked & (shares >= self._largest)
        self._sums[rows] += np.stack([asked.sum(1), shares.sum(1), whole.sum(1), core.steps / self._longest], axis=1)
        self._rounds[rows] += 1.0

    def means(self, row: int) -> list[float]:
        """`EpisodeResult`'s asked, share, whole and interval."""
        (asked, shares, whole, intervals), rounds = self._sums[row].tolist(), float(self._rounds[row])
        return [asked / rounds, shares / max(asked, 1.0), whole / max(asked, 1.0), intervals / rounds]


def curve_point(info: dict[str, Any]) -> list[float]:
    """A round's entry in `EpisodeResult.curve`."""
    names = ("time_s", "progress", "energy_j", "bytes", "sync_interval")
    return [*(info[name] for name in names), float(info["shares"].sum())]


@contextmanager
def _where(scenario: Scenario, seed: int, rounds: int) -> Iterator[None]:
    """Around a decision: what is told of it says where it was to be made."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{error} (scenario {scenario.name}, seed {seed}, round {rounds + 1})") from error


def play_episode(
    agent: Orchestrator,
    env: SingleEnv,
    seed: int,
    on_round: Callable[[dict[str, Any]], None] = lambda info: None,
) -> EpisodeResult:
    """Play one episode to its end.

    Args:
        agent: who decides.
        env: either tier.
        seed: of the episode.
        on_round: called with every round's info.
    """
    observation, info = env.reset(seed=seed)
    scenario = env.core.world().scenario
    agent.begin(scenario)
    curve: list[list[float]] = []
    decided, only = Decided(env.core), np.zeros(1, dtype=np.int64)
    ended = False
    while not ended:
        with _where(scenario, seed, len(curve)):
            action = agent.decide(observation)
        observation, _, ended, _, info = env.step(action)
        curve.append(curve_point(info))
        decided.count(env.core, only)
        on_round(info)
    return EpisodeResult.of(
        agent.name, scenario.name, seed, info, info["log_efficiency"], info["reached"], curve, decided.means(0)
    )


def play_together(agent: Orchestrator, scenario: Scenario, seeds: Sequence[int]) -> list[EpisodeResult]:
    """The same as `play_episode` on the fast tier, seed by seed and bit for bit, with all episodes side by side: several
    times as fast. No curves are kept.

    Args:
        agent: who decides; every episode gets a shallow copy of its own, so `begin` must renew what `decide` changes.
        scenario: where.
        seeds: of the episodes.
    """
    core = Core([compile_world(scenario)], len(seeds), SimulatedLearner(), "efficiency")
    core.reset(np.arange(len(seeds)), [np_random(seed)[0] for seed in seeds])
    playing: list[Any] = [copy(agent) for _ in seeds]
    for one in playing:
        one.begin(scenario)

    def decided(row: int, observation: NDArray[np.floating]) -> NDArray[np.float32]:
        with _where(scenario, seeds[row], rounds):
            return np.asarray(playing[row].decide(observation))

    rows, rounds, counted = np.arange(len(seeds)), 0, Decided(core)
    results: dict[int, EpisodeResult] = {}
    while len(rows):
        observations = core.observe().copy()
        if isinstance(agent, Heuristic) and agent.memoryless:
            actions = playing[0].decide_many(observations)
        else:
            actions = np.stack([decided(int(row), o) for row, o in zip(rows, observations, strict=True)])
        _, reason = core.step(actions)
        rounds += 1
        counted.count(core, rows)
        scores = core.log_efficiency()
        for b in np.flatnonzero(reason):
            info = core.info(int(b))
            reached = bool(reason[b] == REACHED)
            results[int(rows[b])] = EpisodeResult.of(
                agent.name, scenario.name, seeds[rows[b]], info, float(scores[b]), reached, [], counted.means(int(rows[b]))
            )  # fmt: skip
        goes_on = np.flatnonzero(reason == 0)
        if len(goes_on) < len(rows):
            rows, core = rows[goes_on], core.copies(goes_on)
    return [results[i] for i in range(len(seeds))]
