"""Ranked policies give to whom they say."""

import numpy as np
import pytest

import scenarios
from agents.family import FASTEST, FIXED, THRIFTIEST, TURNS, family, ranked
from envs.crews import unasked
from envs.observation import split
from envs.orchestration import OrchestrationEnv
from envs.patterns import finish_time, ready, round_energy
from envs.spaces import decode
from fedcore.world import compile_world


def some_rounds(name: str) -> tuple[OrchestrationEnv, np.ndarray]:
    """An observation after three rounds of whoever was first by time."""
    env = OrchestrationEnv(scenarios.load(name))
    observation, _ = env.reset(seed=3)
    first = ranked(env.core.world(), (1,), shares=(0.25,))
    assert first.rank[0] == FASTEST
    for _ in range(3):
        observation = env.step(first.decide(np.array([0]), observation[None])[0])[0]
    return env, observation


@pytest.mark.parametrize("rank", [FASTEST, THRIFTIEST, TURNS])
@pytest.mark.parametrize("keep", [1, 3])
def test_shares_go_to_the_first_of_the_rank(rank: int, keep: int) -> None:
    env, observation = some_rounds("farm-lte")
    world, view = env.core.world(), split(observation)
    policies = ranked(world, (1, 3), shares=(0.25,))
    [which] = np.flatnonzero((policies.rank == rank) & (policies.keep == keep) & (policies.steps == policies.steps.max()))
    action = policies.decide(np.array([which]), observation[None])
    shares, level = (part[0] for part in decode(action, env.core.levels))
    steps = world.scenario.decision.sync_intervals[level]
    assert steps == policies.steps[which] == max(world.scenario.decision.sync_intervals)
    whole = np.ones_like(view.machine["exists"])
    seconds, joules = finish_time(view, whole, steps), round_energy(view, whole, steps)
    cost = {FASTEST: seconds, THRIFTIEST: joules, TURNS: seconds / (1.0 + unasked(view))}[rank]
    able = np.flatnonzero(ready(view))
    chosen = sorted(able[np.argsort(cost[able], kind="stable")][:keep])
    assert np.flatnonzero(shares).tolist() == chosen
    assert shares[chosen] == pytest.approx(0.25, abs=0.01)


def test_the_ranks_differ_and_fixed_policies_are_as_they_were() -> None:
    env, observation = some_rounds("farm-lte")
    policies = family(env.core.world())
    rows = np.arange(len(policies.rank))
    played = policies.decide(rows, np.repeat(observation[None], len(rows), axis=0))
    fixed = policies.rank == FIXED
    assert np.array_equal(played[fixed], policies.action[fixed])
    of_one = (policies.keep == 1) & (policies.share == 1.0) & (policies.steps == 10.0)
    [fastest], [turns] = (played[of_one & (policies.rank == rank)] for rank in (FASTEST, TURNS))
    assert not np.array_equal(fastest, turns)  # the fastest has just had its turn, or never had one


def test_no_more_machines_are_asked_than_there_are() -> None:
    assert set(ranked(compile_world(scenarios.load("two-servers")), (1, 2, 3)).keep) == {1, 2}
