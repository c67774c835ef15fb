"""Policies from outside: functions, classes, and sentences about what does not fit."""

from pathlib import Path

import numpy as np
import pytest

from agents.benchmark import orchestrator
from agents.episodes import play_together
from scenarios import InputError, load

TEXT = """
import numpy as np
number = 3
def sound(observation):
    return np.zeros((len(observation) - 24) // 19 + 1)
def short(observation):
    return [0.0, 1.0]
def nan(observation):
    return np.full((len(observation) - 24) // 19 + 1, np.nan)
def words(observation):
    return "everyone"
class Counts:
    made = 0
    def __init__(self):
        type(self).made += 1
        self.rounds = 0
    def begin(self, scenario):
        self.scenario = scenario.name
    def decide(self, observation):
        self.rounds += 1
        assert self.scenario == "two-servers"
        return sound(observation) + 0.01 * min(self.rounds, 50)
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(TEXT)
    return path


def test_a_function_and_a_class_play(file: Path) -> None:
    scenario = load("two-servers")
    for name in ("sound", "Counts"):
        agent = orchestrator(f"{file}:{name}", scenario)
        results = play_together(agent, scenario, [1, 2, 3])
        assert [r.agent for r in results] == [name] * 3
        assert all(np.isfinite(r.log_efficiency) for r in results)


def test_a_class_is_made_anew_for_every_episode(file: Path) -> None:
    scenario = load("two-servers")
    agent = orchestrator(f"{file}:Counts", scenario)
    both = play_together(agent, scenario, [1, 1])
    assert both[0].log_efficiency == both[1].log_efficiency
    assert play_together(agent, scenario, [1])[0].log_efficiency == both[0].log_efficiency


@pytest.mark.parametrize(
    ("name", "words"),
    [("short", r"shape \(2,\), expected 17"), ("nan", "NaN or infinity"), ("words", "'everyone', expected 17 numbers")],
)
def test_what_is_no_action_is_told(file: Path, name: str, words: str) -> None:
    scenario = load("two-servers")
    with pytest.raises(InputError, match=words):
        play_together(orchestrator(f"{file}:{name}", scenario), scenario, [1])


def test_what_does_not_load_is_told(file: Path, tmp_path: Path) -> None:
    scenario = load("two-servers")
    (tmp_path / "broken.py").write_text("import nowhere_at_all\n")
    for name, words in (
        (f"{file}:missing", "has no 'missing', expected one of sound"),
        (f"{file}:number", "number is a int, expected a function"),
        (f"{tmp_path}/none.py:decide", "does not exist, expected FILE.py:NAME"),
        (f"{tmp_path}/broken.py:decide", "raises ModuleNotFoundError"),
    ):
        with pytest.raises(InputError, match=words):
            orchestrator(name, scenario)
