"""The search of the recipe's numbers: proposals follow from what is known, trials from their numbers, the page from trials."""

import pytest

import scenarios
from agents.tune import TuneOptions, make_lessons, own, page, propose, space, taught_by
from agents.warm_start import WarmStart
from fedcore.world import compile_world

pytest.importorskip("optuna")
OPTIONS = TuneOptions(trials=5, workers=1)


def known(count: int) -> list:
    """So many trials, of which shorter ones are better."""
    found: list = []
    while len(found) < count:
        found += [{"values": each, "score": -float(each["epochs"])} for each in propose(found, OPTIONS)]
    return found


def test_the_recipe_is_tried_first_and_proposals_follow_from_what_is_known():
    first = propose([], OPTIONS)
    assert first[0] == own()
    assert own().keys() == space().keys()
    assert first == propose([], OPTIONS)
    later = known(4)
    assert known(4) == later
    assert len({str(each["values"]) for each in later}) == 4
    assert len(propose(later, OPTIONS)) == 1  # five are wanted
    for each in later:
        assert all(space()[name]._contains(space()[name].to_internal_repr(v)) for name, v in each["values"].items())


def test_a_trial_follows_from_its_numbers_and_the_lessons(tmp_path, monkeypatch):
    monkeypatch.setattr("agents.tune.WarmStart", lambda: WarmStart(1, 0, 4, 12, 2))
    worlds = [compile_world(scenarios.load("two-servers"))]
    path = tmp_path / "run" / "lessons.pt"
    make_lessons(path, worlds, OPTIONS)
    assert [file.name for file in path.parent.iterdir()] == ["lessons.pt"]
    values = {"learning_rate": 1e-3, "temperature": 0.5, "epochs": 4, "width": 32}
    score = taught_by(values, path, worlds, 0)
    assert taught_by(values, path, worlds, 0) == score
    assert taught_by(values | {"learning_rate": 1e-9}, path, worlds, 0) != score


def test_the_page_ranks_trials_and_marks_the_recipe():
    lines = page(known(4), 1000, OPTIONS).splitlines()
    rows = [line.split("|")[1:-1] for line in lines if line.startswith("| ") and line[2].isdigit()]
    assert len(rows) == 4
    scores = [float(row[-2]) for row in rows]
    assert scores == sorted(scores, reverse=True)
    assert [row[-1].strip() for row in rows].count("the recipe") == 1
