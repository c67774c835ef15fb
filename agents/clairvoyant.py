"""clairvoyant: what could be gained by knowing the future, the upper reference of the simulated tier.

A rollout algorithm (Bertsekas and Castanon 1999, "Rollout algorithms for stochastic scheduling problems", J. Heuristics 5)
under perfect information. All that chance does in a simulated episode follows from the episode's key and the number of the
round, so copies of the episode tell what any sequence of decisions would really give. At every round each decision worth
trying is played in a copy, which goes on to the end by one of a few base policies; the best of these futures replaces the
incumbent plan if it scores more, and the plan's next decision is taken. The first incumbent is the best of what `followed`
did in the episode and of a family of policies, all candidates of `best_static` among them, so that no episode scores less than
with any of these. What clairvoyance is worth is at least as much: some sequence of decisions that is not found may be better
still.

No orchestrator: it reads the hidden state, links and loads to come, the luck of each machine and the scatter of measured
progress included, none of which can be known at decision time, so it has no `decide(observation)`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from agents.base import Orchestrator
from agents.episodes import EpisodeResult, play_episode
from agents.family import Family, family
from agents.frozen import load_policy, named_policies
from agents.heuristics.enough import Enough
from agents.heuristics.proven import Proven
from envs.core import Core
from envs.observation import split
from envs.orchestration import OrchestrationEnv
from envs.patterns import ready

Ints = NDArray[np.int64]
Actions = NDArray[np.float32]

CLAIRVOYANT = "clairvoyant"
PLANNED = -1
"""Instead of a policy's place in the family: go on as the incumbent plan does."""


@dataclass(frozen=True)
class Plan:
    """Decisions from one round to the end of an episode.

    Attributes:
        actions: (rounds, K_max + 1) of `envs.spaces.action_space`.
        log_efficiency: with which the episode ends.
    """

    actions: Actions
    log_efficiency: float


@cache
def followed() -> tuple[Orchestrator, ...]:
    """Whose own decisions are plans to begin with: the rules and the policies that come nearest to the best found."""
    return (Proven(), Enough(), *map(load_policy, named_policies()))


def clairvoyant(core: Core, b: int = 0, bases: int = 3) -> Plan:
    """The best decisions found for the rest of an episode.

    Args:
        core: simulated episodes, none of which is changed.
        b: which of them; it has begun and not ended.
        bases: how many policies of the family every decision is continued with, beside the incumbent plan's own.

    Raises:
        TypeError: the episode really trains.
        ValueError: it has ended.
    """
    now = core.copies(np.array([b]))
    if now.end_reasons()[0]:
        raise ValueError(f"episode {b} has ended: there is nothing left to plan")
    policies = family(now.world())
    everyone = np.arange(len(policies.rank))
    taken: list[Actions] = []
    best = max((_as_played(now, agent) for agent in followed()), key=_score)
    while not now.end_reasons()[0]:
        begun = policies.decide(everyone, np.repeat(now.observe(), len(everyone), axis=0))
        alone = _futures(now, policies, everyone, begun, best.actions, -np.inf, bases)
        best = max(best, alone[0][1], key=_score)
        after = np.array([*(policy for policy, _ in alone), PLANNED])
        first = _distinct(now, begun)
        trials = _futures(
            now, policies, np.tile(after, len(first)), np.repeat(first, len(after), axis=0), best.actions,
            best.log_efficiency, 1,
        )  # fmt: skip
        best = max([best, *(plan for _, plan in trials)], key=_score)
        taken.append(best.actions[0])
        now.step(best.actions[:1])
        best = Plan(best.actions[1:], best.log_efficiency)
    return Plan(np.stack(taken), best.log_efficiency)


def _as_played(core: Core, agent: Orchestrator) -> Plan:
    """What an agent does in the one episode from here on."""
    now, actions = core.copies(np.zeros(1, dtype=np.int64)), []
    agent.begin(now.world().scenario)
    while not now.end_reasons()[0]:
        actions.append(agent.decide(now.observe()[0]))
        now.step(actions[-1][None])
    return Plan(np.stack(actions), float(now.log_efficiency()[0]))


def _score(plan: Plan) -> float:
    return plan.log_efficiency


def _distinct(core: Core, actions: Actions) -> Actions:
    """Actions (N, K_max + 1) without those that mean what another does in the one episode, as who is away is not asked."""
    able = ready(split(core.observe()))
    meant = np.concatenate([np.where(able, actions[:, :-1], -1.0), actions[:, -1:]], axis=1)
    return actions[np.sort(np.unique(meant, axis=0, return_index=True)[1])]


def _futures(
    core: Core, policies: Family, after: Ints, first: Actions, planned: Actions, above: float, wanted: int
) -> list[tuple[int, Plan]]:
    """Play copies of one episode to the end.

    Args:
        core: the episode.
        policies: of the family.
        after: (N,) which of them each copy goes on with, or PLANNED.
        first: (N, K_max + 1) what each copy begins with.
        planned: (rounds, K_max + 1) what PLANNED does from here on, its last decision for as long as it takes.
        above: log-efficiency that a future must exceed to be of interest.
        wanted: how many of the best are; copies that can no longer be among them are dropped.

    Returns:
        The best of interest, best first: the policy gone on with and the plan.
    """
    rows, now, actions = np.arange(len(after)), core.copies(np.zeros(len(after), dtype=np.int64)), first
    played: list[tuple[Ints, Actions]] = []
    found: list[tuple[float, int, int]] = []
    while True:
        played.append((rows, actions))
        _, reason = now.step(actions)
        score = now.log_efficiency()
        found += [(float(score[i]), int(rows[i]), len(played)) for i in np.flatnonzero((reason > 0) & (score > above))]
        found = sorted(found, key=lambda f: -f[0])[:wanted]
        if len(found) == wanted:
            above = found[-1][0]
        goes_on = np.flatnonzero((reason == 0) & (now.log_efficiency_bound() > above))
        if not len(goes_on):
            break
        rows, now = rows[goes_on], now.copies(goes_on)
        actions, follows = np.empty((len(rows), first.shape[1]), dtype=np.float32), after[rows]
        own = follows != PLANNED
        actions[own] = policies.decide(follows[own], now.observe()[own])
        if not own.all():
            actions[~own] = planned[min(len(played), len(planned) - 1)]
    return [
        (int(after[row]), Plan(np.stack([a[np.searchsorted(r, row)] for r, a in played[:rounds]]), end))
        for end, row, rounds in found
    ]


class _Replay(Orchestrator):
    """Takes a plan's decisions in the very episode that it was made for, whatever it observes."""

    name = CLAIRVOYANT

    def __init__(self, plan: Plan) -> None:
        self._left = iter(plan.actions)

    def decide(self, observation: NDArray[np.floating]) -> Actions:
        """See `Orchestrator.decide`."""
        return np.asarray(next(self._left))


def play_clairvoyant(env: OrchestrationEnv, seed: int) -> EpisodeResult:
    """Plan the episode of that seed and play it."""
    env.reset(seed=seed)
    return play_episode(_Replay(clairvoyant(env.core)), env, seed)
