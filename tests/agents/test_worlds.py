import numpy as np
import pytest
import yaml

from agents import worlds as agents_worlds
from agents.worlds import described, random_world, random_worlds, training_worlds, trial_worlds
from fedcore.world import UnreachableError
from scenarios import InputError, load, random_scenario
from scenarios.generate import RANGES


def scenarios_of(number, seed, split="train"):
    return [w.scenario for w in random_worlds(number, seed, split)]


def test_random_worlds_are_seeded_and_of_the_training_range():
    first = scenarios_of(3, 0)
    assert first == scenarios_of(3, 0)
    assert first != scenarios_of(3, 1)
    assert first == [random_scenario(np.random.default_rng([0, i])) for i in range(3)]
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
    drawn = [random_scenario(np.random.default_rng([0, i, agents_worlds.TRIAL]), "validation") for i in range(2)]
    assert [w.scenario for w in tried_in] == drawn
    assert not {s.name for s in drawn} & {s.name for s in scenarios_of(2, 0, "validation")}  # twins of what is learnt in
    assert not {w.scenario.name for w in tried_in} & {w.scenario.name for w in worlds}
    assert trial_worlds("two-servers", 0, worlds) is worlds


def test_processes_change_nothing_about_what_is_compiled(monkeypatch):
    monkeypatch.setattr("agents.worlds.MANY", 2)
    alone, together = random_worlds(3, 0), random_worlds(3, 0, workers=2)
    for one, other in zip(alone, together, strict=True):
        assert one.scenario == other.scenario
        np.testing.assert_array_equal(one.costs, other.costs)
        assert one.reference == other.reference


def test_a_draw_that_nobody_can_finish_is_followed_by_another():
    """Of a training by seed 3: one machine that comes and goes has nearly all of the text."""
    with pytest.raises(UnreachableError, match="does not reach the target within"):
        agents_worlds.compile_world(random_scenario(np.random.default_rng([3, 562])))
    world = random_world((3, 562), "train")
    assert world.scenario == random_scenario(np.random.default_rng([3, 562, 1]))


def test_a_draw_whose_reference_needs_more_rounds_than_there_are_is_followed_by_another():
    first = agents_worlds.compile_world(random_scenario(np.random.default_rng([123, 282])))
    assert first.reference.rounds > first.budgets[3]
    world = random_world((123, 282), "train")
    assert world.scenario == random_scenario(np.random.default_rng([123, 282, 1]))
    assert world.reference.rounds < world.budgets[3]


def test_a_range_in_which_nothing_can_be_finished_is_told(monkeypatch):
    def never(scenario):
        raise UnreachableError("no")

    monkeypatch.setattr("agents.worlds.compile_world", never)
    with pytest.raises(InputError, match=r"split ood: of 100 random scenarios \(seeds \[3, 5\]\) none has"):
        random_world((3, 5), "ood")


def test_who_pays_by_something_else_than_the_score_trains_nobody(tmp_path):
    content = load("two-servers").model_dump(mode="json")
    content["reward"]["kind"] = "ratio"
    file = tmp_path / "own.yaml"
    file.write_text(yaml.safe_dump(content))
    with pytest.raises(InputError, match=r"reward\.kind is 'ratio', but policies are trained by the score"):
        training_worlds(str(file), 0)
