from dataclasses import replace

import numpy as np
import pytest

import scenarios
from agents.benchmark import benchmark, bootstrap, compare, orchestrator, play_episode, summarise
from agents.best_static import STATICS, search_static, static_decisions
from agents.episodes import play_together
from agents.heuristics import HEURISTICS
from envs.observation import FLEET_FEATURES, MACHINE_FEATURES, View, split
from envs.orchestration import OrchestrationEnv
from envs.patterns import finish_time, ready, round_energy
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


def test_energy_asks_the_half_that_uses_least():
    env, observation, view = first_view("farm-lte")
    shares = shares_of("energy", env, observation)
    assert (shares > 0).sum() == np.ceil(ready(view).sum() / 2)
    # The fastest is the hungriest here.
    machines = [{"step_time": 0.3 * i, "step_energy": -0.5 * i} for i in range(6)]
    assert np.flatnonzero(begun("energy").shares(view_of(machines), 10)).tolist() == [3, 4, 5]


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
    assert found.candidates == len(static_decisions(world)) == ((5 + 4) * 5 + 10) * 5
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


@pytest.mark.parametrize("name", sorted(HEURISTICS))
def test_episodes_side_by_side_are_those_played_one_by_one(name):
    scenario = scenarios.load("farm-lte")
    env = OrchestrationEnv(scenario, reward="efficiency")
    agent = HEURISTICS[name]()
    for together, seed in zip(play_together(agent, scenario, [5, 6]), [5, 6], strict=True):
        assert together == replace(play_episode(agent, env, seed), curve=[])


MACHINE = {"exists": 1.0, "available": 1.0, "max_share": 1.0, "charge": 1.0, "data": 0.5, "teaches": 0.5}


def view_of(machines, **fleet):
    names = sorted({name for m in machines for name in m} | set(MACHINE_FEATURES))
    rows = {name: np.array([(MACHINE | m).get(name, 0.0) for m in machines]) for name in names}
    return View(rows, {name: np.float64(fleet.get(name, 0.0)) for name in FLEET_FEATURES})


def begun(name, scenario="farm-lte"):
    agent = HEURISTICS[name]()
    agent.begin(scenarios.load(scenario))
    return agent


def test_memory_takes_the_widest_level_that_fits():
    machines = [{"max_share": m} for m in (1.0, 0.7, 0.5, 0.2, 0.03)] + [{"available": 0.0}]
    assert begun("memory").shares(view_of(machines), 10) == pytest.approx([1.0, 0.5, 0.5, 0.125, 0.03, 0.0])


def test_proven_asks_who_pays_best_by_what_rounds_have_shown():
    agent = begun("proven")
    machines = [{"step_time": 0.0}, {"step_time": 0.3}, {"step_time": 0.6}]
    assert agent.steps(view_of(machines)) == max(scenarios.load("farm-lte").decision.sync_intervals)
    assert agent.shares(view_of(machines), 40).tolist() == [1.0, 0.0, 0.0]
    # Whose rounds come out below what was expected is passed over for the next.
    machines[0]["surplus"] = -1.5
    assert agent.shares(view_of(machines), 40).tolist() == [0.0, 1.0, 0.0]
    machines[2]["surplus"] = 2.0
    assert agent.shares(view_of(machines), 40).tolist() == [0.0, 0.0, 1.0]


def test_battery_follows_charge_and_spares_the_empty():
    agent = begun("battery")
    assert agent.shares(view_of([{}, {"charge": 0.6}, {"charge": 0.1}]), 10) == pytest.approx([1.0, 0.6, 0.0])
    assert agent.shares(view_of([{"charge": 0.1}, {"charge": 0.02}]), 10) == pytest.approx([0.1, 0.05])


def test_round_robin_asks_everyone_before_anyone_twice():
    agent = begun("round-robin")
    rounds = [np.flatnonzero(agent.shares(view_of([{}] * 8), 10)).tolist() for _ in range(5)]
    assert rounds == [[0, 1], [2, 3], [4, 5], [6, 7], [0, 1]]
    assert np.flatnonzero(agent.shares(view_of([{}, {}, {"available": 0.0}, {}, {}, {}, {}, {}]), 10)).tolist() == [3, 4]


def test_oort_lets_slower_machines_in_once_progress_flags_and_comes_back_to_whom_it_has_long_not_asked():
    agent = begun("oort")
    for r in range(41):
        agent._pace(1.0 - 0.9**r)  # ever less per round
    assert agent.percentile == 15.0
    agent = begun("oort")
    for r in range(41):
        agent._pace(0.001 * r**2)  # ever more
    assert agent.percentile == 10.0
    agent.round, agent.asked = 40, np.array([1.0, 39.0, 39.0])
    utility = agent.utility(view_of([{}, {}, {}]), np.ones(3))
    assert utility[0] - utility[1] == pytest.approx(np.sqrt(0.1 * np.log(40)) * (1 - 1 / np.sqrt(39)))


def test_lroas_queue_is_what_was_spent_beyond_the_allowance():
    agent = begun("lroa")
    view = view_of([{"step_time": 0.0}, {"step_time": 0.1}, {"step_time": 0.2}])
    asked = []
    for _ in range(3):
        before = agent.queue.copy() if len(agent.queue) else np.zeros(3)
        shares = agent.shares(view, 10)
        asked.append(int(np.flatnonzero(shares)[0]))
        spent = np.where(shares > 0, round_energy(view, np.ones(3), 10.0), 0.0)
        assert agent.queue == pytest.approx(np.maximum(before + spent - agent.allowed, 0.0))
    assert len(set(asked)) > 1  # who has spent too much gives way


def test_oort_prefers_what_teaches_and_punishes_what_is_slow():
    agent = begun("oort")
    agent.asked, agent.round = np.ones(4), 1
    view = view_of([{"teaches": 0.9}, {}, {"step_time": 0.5}, {"step_time": 1.0}])
    utility = agent.utility(view, finish_time(view, np.ones(4), 10.0))
    assert utility[0] > utility[1] > utility[2] > utility[3]
    slow = utility[2] / utility[3]
    times = finish_time(view, np.ones(4), 10.0)
    assert slow == pytest.approx((times[3] / times[2]) ** 2)  # alpha = 2, both beyond T


def test_oort_tries_machines_that_it_has_not_asked():
    agent, seen = begun("oort"), set()
    for _ in range(12):
        seen |= set(np.flatnonzero(agent.shares(view_of([{"step_time": 0.1 * k} for k in range(6)]), 10)))
    assert seen == set(range(6))


def test_lroa_spares_who_has_spent_its_allowance():
    # The first is fastest and hungry: its queue grows until others are asked.
    agent = begun("lroa")
    view = view_of([{"step_time": -1.0, "step_energy": 1.0}, {"step_time": 0.0}, {"step_time": 0.1}])
    asked = [np.flatnonzero(agent.shares(view, 10)).tolist() for _ in range(6)]
    assert asked[0] == [0]
    assert asked[1] == [1]


def test_adaptive_tau_synchronises_less_often_where_that_costs_more_time():
    wished = []
    for upload in (-1.5, 0.5):
        agent = begun("adaptive-tau")
        machines = [{"upload_time": upload, "teaches": 0.4}] * 4
        agent.steps(view_of(machines, reference_rounds=0.75, teaches=0.8))
        told = {"last_steps": 1.0, "time_used": 0.1, "time_vs_reference": 0.3, "reference_rounds": 0.75, "teaches": 0.8}
        agent.steps(view_of(machines, last_gain=0.5, **told))
        wished.append(agent.steps(view_of(machines, last_gain=0.4, **told)))
    assert wished[0] < wished[1] <= 100


def test_fedlama_doubles_the_interval_where_that_loses_less_than_it_saves():
    for kept, wanted in ((1.0, 20.0), (0.3, 10.0)):
        agent = begun("fedlama")
        tried = []
        for _ in range(5):
            steps = tried[-1] if tried else 10.0
            gain = 0.3 * (1.0 if steps == 10.0 else 2.0 * kept)
            tried.append(agent.steps(view_of([{"upload_time": -0.5}] * 3, last_gain=gain, last_steps=np.log10(steps))))
        assert tried == [10.0, 10.0, 20.0, 20.0, wanted]


def test_searches_with_less_to_choose_from():
    world = compile_world(scenarios.load("farm-lte"))
    levels = np.array([len(world.scenario.decision.sync_intervals)])
    everything = {action.tobytes() for _, action in STATICS["best-static"](world)}
    assert {action.tobytes() for _, action in STATICS["only-shares"](world)} <= everything
    assert {action.tobytes() for _, action in STATICS["only-h"](world)} <= everything
    assert {action.tobytes() for _, action in STATICS["whole-static"](world)} <= everything
    whole = [decode(action[None], levels)[0][0] for _, action in STATICS["whole-static"](world)]
    assert len(whole) == (6 + 5) * 5
    assert all(set(shares) <= {0.0, 1.0} for shares in whole)
