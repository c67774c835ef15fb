"""The clairvoyant planner: never below what it builds on, true to the episode, and without a trace in it."""

import numpy as np
import pytest

import scenarios
from agents.benchmark import play_episode
from agents.best_static import Static, static_decisions
from agents.clairvoyant import Plan, clairvoyant, family, followed, play_clairvoyant
from agents.heuristics import HEURISTICS
from agents.heuristics.proven import Proven
from envs.core import Core
from envs.orchestration import OrchestrationEnv
from envs.training import TrainingEnv
from envs.vector import OrchestrationVectorEnv
from fedcore.world import compile_world
from scenarios import Scenario, load


def coarse(name: str, intervals: tuple[int, ...] = (10, 40), rounds: int = 200) -> Scenario:
    """A scenario with so short a menu that everything can be tried."""
    content = load(name).model_dump(mode="json")
    content["decision"]["sync_intervals"] = intervals
    content["budgets"]["rounds"] = rounds
    return Scenario.model_validate(content)


def standing(core: Core) -> dict[str, bytes]:
    """Everything that the episodes' future depends on, as bytes."""
    things = {**vars(core), **{f"learner.{name}": value for name, value in vars(core.learner).items()}}
    return {name: value.tobytes() for name, value in things.items() if isinstance(value, np.ndarray)}


@pytest.mark.parametrize("name", ["phones", "two-servers"])
def test_no_policy_that_it_builds_on_scores_more_in_any_episode(name: str) -> None:
    scenario = coarse(name, (40,))
    world, env = compile_world(scenario), OrchestrationEnv(scenario)
    policies = family(world)
    for seed in (1, 2):
        planned = play_clairvoyant(env, seed).log_efficiency
        for words, action in static_decisions(world):
            assert play_episode(Static(action), env, seed).log_efficiency <= planned + 1e-9, words
        for p in range(len(policies.rank)):
            observation, _ = env.reset(seed=seed)
            ended, info = False, {}
            while not ended:
                observation, _, ended, _, info = env.step(policies.decide(np.array([p]), observation[None])[0])
            assert info["log_efficiency"] <= planned + 1e-9, p


@pytest.mark.parametrize("name", ["field-hub", "lab-lan"])
def test_no_rule_or_policy_whose_decisions_it_begins_with_scores_more(name: str) -> None:
    scenario = coarse(name, (40, 80))
    env = OrchestrationEnv(scenario, reward="efficiency")
    planned = play_clairvoyant(env, 1_000_000).log_efficiency
    assert {agent.name for agent in followed()} == {"proven", "enough", "ppo-default", "dqn-default"}
    for agent in followed():
        assert play_episode(agent, env, 1_000_000).log_efficiency <= planned + 1e-9, agent.name


def test_it_begins_with_what_agents_do_in_that_very_episode(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing is tried beside it, the plan is an agent's own episode."""
    env = OrchestrationEnv(load("field-hub"), reward="efficiency")
    env.reset(seed=4)
    monkeypatch.setattr("agents.clairvoyant.followed", lambda: (Proven(),))
    monkeypatch.setattr("agents.clairvoyant._futures", lambda *_: [(0, Plan(np.zeros((1, 17), dtype=np.float32), -np.inf))])
    plan = clairvoyant(env.core)
    alone = play_episode(Proven(), env, 4)
    assert plan.log_efficiency == pytest.approx(alone.log_efficiency, abs=1e-12)
    assert len(plan.actions) == alone.rounds


def test_it_gains_by_changing_its_decision() -> None:
    scenario = coarse("phones", (40,))
    env = OrchestrationEnv(scenario)
    best = max(play_episode(Static(action), env, 1).log_efficiency for _, action in static_decisions(compile_world(scenario)))
    assert play_clairvoyant(env, 1).log_efficiency > best + 0.1


@pytest.mark.parametrize("name", scenarios.names())
def test_plans_come_true_in_every_scenario(name: str) -> None:
    env = OrchestrationEnv(coarse(name, (40,), rounds=5))
    env.reset(seed=3)
    plan = clairvoyant(env.core, bases=1)
    ended, info = False, {}
    for action in plan.actions:
        assert not ended
        _, _, ended, _, info = env.step(action)
    assert ended
    assert info["log_efficiency"] == pytest.approx(plan.log_efficiency, abs=1e-9)


def test_planning_leaves_the_episode_as_it_was() -> None:
    env = OrchestrationVectorEnv(3, [coarse("phones"), coarse("farm-lte")])
    actions = np.random.default_rng(0).uniform(-1, 1, (4, 3, 17)).astype(np.float32)
    env.reset(seed=5)
    for action in actions[:2]:
        env.step(action)
    before, state = standing(env.core), env.get_state()
    assert {"conditions", "spent", "observed", "learner.learned", "learner.participation", "last_part"} <= before.keys()
    plans = [clairvoyant(env.core, b) for b in range(3)]
    assert standing(env.core) == before
    after = [env.step(action)[0].tobytes() for action in actions[2:]]
    env.set_state(state)
    assert [env.step(action)[0].tobytes() for action in actions[2:]] == after
    # Each episode of the batch has a plan of its own, from the middle on.
    env.set_state(state)
    for t in range(max(len(plan.actions) for plan in plans)):
        _, _, ended, _, info = env.step(np.stack([plan.actions[min(t, len(plan.actions) - 1)] for plan in plans]))
        for b, plan in enumerate(plans):
            if t == len(plan.actions) - 1:
                assert ended[b]
                assert info["log_efficiency"][b] == pytest.approx(plan.log_efficiency, abs=1e-9)


def test_what_cannot_be_planned_is_refused() -> None:
    env = OrchestrationEnv(coarse("two-servers"))
    env.reset(seed=0)
    ended = False
    while not ended:
        ended = env.step(np.full(17, -1.0, dtype=np.float32))[2]
    with pytest.raises(ValueError, match="episode 0 has ended"):
        clairvoyant(env.core)
    with pytest.raises(TypeError, match="RealLearner has no rows to copy"):
        clairvoyant(TrainingEnv(coarse("two-servers")).core)


def test_it_is_no_orchestrator() -> None:
    assert "clairvoyant" not in HEURISTICS
