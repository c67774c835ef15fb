"""The page of scenarios: what is measured, kept, refused and said."""

import dataclasses
from pathlib import Path

import pytest

from agents import headroom
from agents.benchmark import Comparison
from agents.headroom import Headroom, HeadroomOptions, headrooms, measured, page
from agents.heuristics import HEURISTICS
from scenarios import InputError, load


def row(scenario: str, factor: float, low: float, static: str = "fastest 1 at 1, H = 40") -> Headroom:
    comparison = Comparison("best-static", "equal", 0.1, low, 0.2, factor, 2)
    foresight = Comparison("clairvoyant", "best-static", 0.3, low, 0.4, 2.0 * factor, 2)
    return Headroom(scenario, f"Title of {scenario}", 3, 12.3, "equal", 0.0, static, 0.1, comparison, 0.4, foresight)


def test_measure_is_the_gain_over_the_best_heuristic() -> None:
    got = measured(load("two-servers").model_dump(mode="json"), 2)
    assert got["heuristic"] in HEURISTICS
    assert got["machines"] == 2
    assert got["comparison"]["over"] == got["heuristic"]
    assert got["comparison"]["difference"] == pytest.approx(got["static_mean"] - got["heuristic_mean"])
    foresight = got["foresight"]
    assert (foresight["agent"], foresight["over"], foresight["episodes"]) == ("clairvoyant", "best-static", 2)
    assert foresight["difference"] == pytest.approx(got["clairvoyant_mean"] - got["static_mean"])
    assert foresight["low"] >= 0.0


def test_the_page_names_what_teaches_nothing() -> None:
    none = dataclasses.replace(row("b", 0.9, -0.1), clairvoyant_mean=0.04)
    text = page([row("a", 3.0, 1.0), none, row("c", 0.8, -0.1, "all 0.5, H = 10")], 24)
    row_a = "| a | Title of a | 3 | 12 | equal | +0.00 | fastest 1 at 1, H = 40 | +0.10 "
    assert row_a + "| x 3.00 (2.72 .. 1.22) | +0.40 | x 6.00 (2.72 .. 1.49) | x 1.49 |" in text
    assert "with nothing to teach: b." in text
    assert "on 2 of 3 scenarios it\nleaves nothing" in text
    assert 'On 2 of 3 scenarios the best fixed decision is "fastest 1 at 1, H = 40"' in text
    assert "it gains x 1.80 to x 6.00." in text
    assert "nothing to teach" not in page([row("a", 3.0, 1.0)], 24)


def test_the_page_names_where_there_is_nothing_to_react_to() -> None:
    text = page([row("a", 3.0, 1.0), row("b", 0.52, -0.1)], 24)
    assert "with nothing to react to: b." in text
    assert "with nothing to react to" not in page([row("a", 3.0, 1.0)], 24)


def test_finished_scenarios_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INTRAFED_CACHE", str(tmp_path))
    made = []

    def run_kept(jobs: dict, workers: int, label: str) -> dict:
        made.append(list(jobs))
        return {path: measured_stub(call[1][0]["name"]) for path, call in jobs.items()}

    def measured_stub(name: str) -> dict:
        from dataclasses import asdict

        return asdict(row(name, 2.0, 0.5))

    monkeypatch.setattr(headroom, "run_kept", run_kept)
    got = headrooms(HeadroomOptions(("two-servers", "lab-lan"), episodes=3))
    assert [h.scenario for h in got] == ["two-servers", "lab-lan"]
    assert got[0].comparison == row("x", 2.0, 0.5).comparison
    headrooms(HeadroomOptions(("lab-lan",), episodes=3))
    headrooms(HeadroomOptions(("lab-lan",), episodes=4))
    assert made[1] == made[0][1:]
    assert made[2] != made[1]
    assert made[0][0].parent.parent == tmp_path


def test_impossible_options_are_told() -> None:
    with pytest.raises(InputError, match="--episodes is 0, expected at least 1"):
        headrooms(HeadroomOptions(episodes=0))
    with pytest.raises(InputError, match="scenario 'farm-lt' is unknown"):
        headrooms(HeadroomOptions(("farm-lt",)))
    with pytest.raises(InputError, match="two scenarios are named 'phones'"):
        headrooms(HeadroomOptions(("phones", "two-servers", "phones")))


def test_only_the_librarys_own_have_pages() -> None:
    text = page([row("phones", 3.0, 1.0), row("mine", 3.0, 1.0)], 24, "elsewhere")
    assert "| [phones](elsewhere/phones.md) |" in text
    assert "| mine |" in text
