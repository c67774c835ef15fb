import numpy as np
import pytest

import scenarios
from agents.benchmark import benchmark, bootstrap, compare, orchestrator, play_episode, summarise
from agents.best_static import search_static, share_patterns
from agents.heuristics import HEURISTICS
from envs.observation import split
from envs.orchestration import OrchestrationEnv
from envs.patterns import finish_time, ready
from envs.spaces import decode
from fedcore.world import compile_world
from scenarios import InputError


@pytest.mark.parametrize("scenario", scenarios.names())
@pytest.mark.parametrize("name", sorted(HEURISTICS))
def test_every_heuristic_finishes_every_scenario(name, scenario):
    env = OrchestrationEnv(scenario)
    result = play_episode(HEURISTICS[name](), env, seed=1)
    assert np.isfinite(result.log_efficiency)
    assert result.rounds == len(result.curve)
    assert result.reached or result.progress < 1


def first_view(scenario):
    env = OrchestrationEnv(scenario)
    observation, _ = env.reset(seed=0)
    return env, observation, split(observation.astype(np.float64))


def shares_of(name, env, observation):
    agent = HEURISTICS[name]()
    agent.begin(env.core.world().scenario)
    return decode(agent.decide(observation)[None], env.core.levels)[0][0]


def test_equal_gives_the_reference_share_to_everyone_there():
    env, observation, view = first_view("farm-lte")
    assert np.allclose(shares_of("equal", env, observation), 0.5 * ready(view), atol=1e-6)


def test_speed_is_proportional_to_reported_speed():
    env, observation, view = first_view("farm-lte")
    shares = shares_of("speed", env, observation)
    speed = ready(view) * 10 ** -view.machine["step_time"]
    assert shares.max() == pytest.approx(1.0, abs=0.01)
    assert shares == pytest.approx(np.where(ready(view), np.maximum(speed / speed.max(), 0.05), 0.0), abs=0.01)
    # A machine under load gets less than its idle twin: the heartbeat says so.
    slowed = view.machine["slowdown"] > 0.1
    assert slowed.any()
    assert shares[slowed & ready(view)].max() < shares[~slowed & ready(view)].max()


def test_makespan_balances_finish_times():
    env, observation, view = first_view("one-strong-many-weak")
    shares = shares_of("makespan", env, observation)
    times = finish_time(view, shares, 10.0)
    inside = (shares > 0.06) & (shares < 0.99)
    assert inside.sum() >= 2
    assert np.ptp(times[inside]) < 0.02 * times[inside].max()


def test_energy_asks_half_of_the_machines():
    env, observation, view = first_view("farm-lte")
    shares = shares_of("energy", env, observation)
    assert (shares > 0).sum() == np.ceil(ready(view).sum() / 2)


def test_deadline_keeps_everyone_within_the_median():
    env, observation, view = first_view("phones")
    able = ready(view)
    shares = shares_of("deadline", env, observation)
    limit = np.median(finish_time(view, np.full(16, 0.5), 10.0)[able])
    asked = shares > 0
    assert asked.any()
    assert (finish_time(view, shares, 10.0)[asked] <= limit * 1.001).all()


def test_adacomm_shortens_the_interval_as_progress_grows():
    env = OrchestrationEnv("farm-lte")
    result = play_episode(HEURISTICS["adacomm"](), env, seed=0)
    steps = [row[4] for row in result.curve]
    assert steps[0] == 20
    assert steps[-1] < steps[0]


def test_best_static_beats_the_reference_on_fresh_episodes():
    scenario = scenarios.load("lab-lan")
    world = compile_world(scenario)
    found = search_static(world, episodes=8)
    assert found.candidates == len(share_patterns(world)) * 5
    results = benchmark([found.policy, HEURISTICS["equal"]()], scenario, 10)
    assert compare(results, "best-static", "equal").difference > 0


def test_reference_policy_scores_about_one():
    results = benchmark([HEURISTICS["equal"]()], scenarios.load("two-servers"), 40)
    assert abs(summarise(results)[0].mean) < 0.15


def test_unknown_agent_is_named():
    with pytest.raises(InputError, match="agent 'nobody' is unknown"):
        orchestrator("nobody", scenarios.load("farm-lte"))


def test_bootstrap_interval_covers_the_mean_and_shrinks():
    rng = np.random.default_rng(0)
    small, large = rng.normal(size=20), rng.normal(size=2000)
    for values in (small, large):
        low, high = bootstrap(values)
        assert low < values.mean() < high
    assert np.ptp(bootstrap(large)) < np.ptp(bootstrap(small)) / 3
