import json

import pytest

from agents import tuned
from agents.benchmark import is_agent, orchestrator
from agents.episodes import play_together
from agents.heuristics import HEURISTICS
from agents.tuned import ANY, found, tunable, tuned_heuristic, with_parameters
from scenarios import InputError, load


@pytest.fixture
def told(tmp_path, monkeypatch):
    """Parameters that were found, in a file of their own."""
    content = {"enough": {"field": {"every": 6, "keep": 0.5}, ANY: {"every": 2}}}
    (tmp_path / "tuned.json").write_text(json.dumps(content))
    monkeypatch.setattr(tuned, "FOUND", tmp_path / "tuned.json")
    found.cache_clear()
    yield
    found.cache_clear()


def test_a_familys_parameters_are_taken_in_its_scenarios_and_others_elsewhere(told):
    field = orchestrator("tuned:enough", load("field-hub"))
    assert (field.every, field.keep, field.patience) == (6, 0.5, HEURISTICS["enough"].patience)
    assert orchestrator("tuned:enough", load("farm-lte")).every == 6
    elsewhere = tuned_heuristic("tuned:enough", load("phones"))
    assert (elsewhere.every, elsewhere.keep) == (2, HEURISTICS["enough"].keep)
    assert field.name == "tuned:enough"


@pytest.mark.parametrize("name", tunable())
def test_what_was_found_are_values_of_the_grid_for_every_family(name):
    for parameters in (found(name)[ANY], *found(name).values()):
        assert set(parameters) == set(HEURISTICS[name].tunable)
        for parameter, value in parameters.items():
            assert value in (*HEURISTICS[name].tunable[parameter], getattr(HEURISTICS[name], parameter))
    assert {"field", "lan", "phones", "edge", "mobile", "scale", ANY} == set(found(name))


@pytest.mark.parametrize("name", tunable())
def test_parameters_change_what_a_heuristic_does_and_defaults_do_not(name):
    scenario, grid = load("phones"), HEURISTICS[name].tunable
    usual = {parameter: getattr(HEURISTICS[name], parameter) for parameter in grid}

    def costs(agent):
        return [(r.time_s, r.energy_j, r.bytes) for r in play_together(agent, scenario, [1, 2])]

    plain = costs(HEURISTICS[name]())
    assert costs(with_parameters(name, usual)) == plain
    changes = [(parameter, value) for parameter, values in grid.items() for value in values if value != usual[parameter]]
    assert any(costs(with_parameters(name, {parameter: value})) != plain for parameter, value in changes)


def test_heuristics_without_parameters_and_unknown_ones_are_refused():
    assert "equal" not in tunable()
    assert is_agent("tuned:oort")
    for name in ("tuned:equal", "tuned:nobody"):
        with pytest.raises(InputError, match=f"agent '{name}' is unknown: expected tuned: and one of fedavg"):
            orchestrator(name, load("phones"))
