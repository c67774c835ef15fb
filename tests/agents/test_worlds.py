import numpy as np

from agents.worlds import compiled, described, random_scenarios, training_worlds, trial_worlds
from scenarios.generate import RANGES


def test_random_worlds_are_seeded_and_of_the_training_range():
    first = random_scenarios(3, 0)
    assert first == random_scenarios(3, 0)
    assert first != random_scenarios(3, 1)
    assert [w.scenario for w in training_worlds("random", 0, draws=2)] == first[:2]
    low, high = RANGES["train"].machines
    assert all(low <= len(s.fleet.machines) <= high for s in first)


def test_one_scenario_by_name_and_what_a_card_says():
    assert [w.scenario.name for w in training_worlds("two-servers", 0)] == ["two-servers"]
    assert described("two-servers") == {}
    assert np.isclose(described("random")["variability"], RANGES["train"].variability).all()


def test_a_policy_for_any_fleet_is_tried_in_worlds_that_it_does_not_learn_in(monkeypatch):
    monkeypatch.setattr("agents.worlds.TRIAL_DRAWS", 2)
    worlds = training_worlds("random", 0, draws=2)
    tried_in = trial_worlds("random", 0, worlds)
    assert [w.scenario for w in tried_in] == random_scenarios(2, 0, "validation")
    assert not {w.scenario.name for w in tried_in} & {w.scenario.name for w in worlds}
    assert trial_worlds("two-servers", 0, worlds) is worlds


def test_processes_change_nothing_about_what_is_compiled(monkeypatch):
    monkeypatch.setattr("agents.worlds.MANY", 2)
    chosen = random_scenarios(3, 0)
    alone, together = compiled(chosen), compiled(chosen, workers=2)
    assert [w.scenario for w in together] == chosen
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one.costs, other.costs)
        assert one.reference == other.reference
