"""greedy-mpc: plans on what is observed, and on nothing else."""

import numpy as np
import pytest

import scenarios
from agents.episodes import play_together
from agents.greedy_mpc import Belief, GreedyMpc, WholeMpc
from agents.heuristics import HEURISTICS
from agents.rollout import best_of, play_out
from envs.core import Core, SimulatedLearner
from envs.observation import MACHINE_FEATURES, N_MACHINE
from envs.orchestration import OrchestrationEnv
from envs.spaces import decode
from fedcore.world import compile_world
from scenarios import Scenario


@pytest.fixture
def scenario() -> Scenario:
    content = scenarios.load("farm-lte").model_dump(mode="json")
    content["decision"]["sync_intervals"] = (10, 40)
    return Scenario.model_validate(content)


def test_it_decides_by_observations_alone(scenario: Scenario) -> None:
    env = OrchestrationEnv(scenario)
    seen, taken, agent = [], [], GreedyMpc()
    observation, _ = env.reset(seed=3)
    agent.begin(scenario)
    for _ in range(3):
        seen.append(observation.copy())
        taken.append(agent.decide(observation))
        observation, *_ = env.step(taken[-1])
    again = GreedyMpc()
    again.begin(scenario)  # no episode behind it: the same observations, the same decisions
    assert all(np.array_equal(again.decide(o), a) for o, a in zip(seen, taken, strict=True))


def test_whole_models_only(scenario: Scenario) -> None:
    env = OrchestrationEnv(scenario)
    observation, _ = env.reset(seed=0)
    agent = WholeMpc()
    agent.begin(scenario)
    shares = decode(agent.decide(observation)[None], env.core.levels)[0][0]
    assert set(np.round(shares, 6)) <= {0.0, 1.0}
    assert shares.max() == 1.0


def test_it_beats_the_reference(scenario: Scenario) -> None:
    planned, usual = (play_together(a, scenario, [1, 2, 3]) for a in (GreedyMpc(), HEURISTICS["equal"]()))
    assert all(p.log_efficiency > u.log_efficiency + 1.0 for p, u in zip(planned, usual, strict=True))


def test_what_it_believes_is_what_was_observed(scenario: Scenario) -> None:
    env = OrchestrationEnv(scenario)
    observation, _ = env.reset(seed=5)
    world = compile_world(scenario)
    belief = Belief(world, 3)
    action = np.zeros(17, dtype=np.float32)
    for _ in range(4):
        belief.listen(observation)
        observation, _, ended, _, _ = env.step(action)
        assert not ended
    belief.listen(observation)
    core, true = belief.core, env.core
    assert core.progress == pytest.approx(np.full(3, true.progress[0]), rel=1e-5)
    assert core.spent == pytest.approx(np.repeat(true.spent, 3, axis=0), rel=1e-5)
    assert (core.round == 4).all()
    assert core.heard == pytest.approx(np.repeat(true.heard, 3, axis=0), rel=1e-3, abs=1e-3)
    assert core.last_part == pytest.approx(np.repeat(true.last_part, 3, axis=0), rel=1e-3, abs=1e-3)
    assert true.last_part.any()
    told = core.observe()
    assert np.array_equal(told[0, : 16 * N_MACHINE], observation[: 16 * N_MACHINE])
    assert told[0, MACHINE_FEATURES.index("exists")] == 1.0


def test_rollouts_that_cannot_matter_are_left(scenario: Scenario) -> None:
    def core() -> Core:
        out = Core([compile_world(scenario)], 6, SimulatedLearner(), "efficiency")
        out.reset(np.arange(6), [np.random.default_rng(1) for _ in range(6)])
        return out

    actions = np.full((6, 17), -1.0, dtype=np.float32)
    actions[:, 16] = 1.0
    for b in range(6):
        actions[b, b % 6] = 1.0  # one machine alone, another in every row
    whole = play_out(core(), lambda rows, _: actions[rows])
    best = play_out(core(), lambda rows, _: actions[rows], best_of(2))
    assert np.isfinite(whole).all()
    order = np.argsort(-whole)
    assert best[order[:2]] == pytest.approx(whole[order[:2]], abs=0.0)
    assert all(best[i] in (-np.inf, whole[i]) for i in order[2:])
