import json

import numpy as np
import pytest

from agents import tune_heuristics, tuned
from agents.heuristics import HEURISTICS
from agents.tune_heuristics import TuneHeuristicsOptions, choose, page, scores, settings, tune
from agents.tuned import ANY, found, tunable
from scenarios import load


@pytest.mark.parametrize("name", tunable())
def test_settings_are_the_defaults_first_and_then_others_of_the_grid(name):
    tried, grid = settings(name, 20), HEURISTICS[name].tunable
    assert tried == settings(name, 20)
    assert tried[0] == {parameter: getattr(HEURISTICS[name], parameter) for parameter in grid}
    assert len({json.dumps(each) for each in tried}) == len(tried) == min(20, len(settings(name, 1000)))
    for setting in tried[1:]:
        assert all(value in grid[parameter] for parameter, value in setting.items())
    assert settings(name, 1) == tried[:1]


def test_the_best_of_a_family_is_by_its_scenarios_and_any_by_all():
    tried = [{"a": 1.0}, {"a": 2.0}, {"a": 3.0}]
    played = {"field-hub": [0.0, 5.0, 0.0], "farm-lte": [1.0, 0.0, 3.0], "phones": [9.0, 0.0, 1.0]}
    assert choose(played, tried) == {"field": tried[1], "phones": tried[0], ANY: tried[0]}


def test_the_search_finds_writes_and_tells(tmp_path, monkeypatch):
    monkeypatch.setenv("INTRAFED_CACHE", str(tmp_path))
    monkeypatch.setattr(tune_heuristics, "FOUND", tmp_path / "tuned.json")
    monkeypatch.setattr(tuned, "FOUND", tmp_path / "tuned.json")
    for module in (tune_heuristics, tuned):
        monkeypatch.setattr(module, "tunable", lambda: ["energy", "makespan"])
    monkeypatch.setattr(tune_heuristics, "names", lambda: ["phones", "lab-lan"])
    found.cache_clear()
    options = TuneHeuristicsOptions(trials=3, episodes=2, held_out=2, workers=1)
    tune(options)
    written = json.loads((tmp_path / "tuned.json").read_text())
    assert set(written) == {"energy", "makespan"}
    seeds = [tune_heuristics.SEED, tune_heuristics.SEED + 1]
    for name in written:
        assert set(written[name]) == {"phones", "lan", ANY}
        for family, scenario in (("phones", "phones"), ("lan", "lab-lan")):
            where = load(scenario).model_dump(mode="json")
            means = [np.mean(scores(name, setting, where, seeds)) for setting in settings(name, 3)]
            assert written[name][family] == settings(name, 3)[int(np.argmax(means))]
    text = page(options)
    assert "| energy |" in text
    assert "| ppo-default |" in text
    assert "tuned:oort" in text
    found.cache_clear()
