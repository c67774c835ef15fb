"""Policies from outside: functions, classes, and sentences about what does not fit."""

import sys
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
    with pytest.raises(InputError, match=rf"{words}.* \(scenario two-servers, seed 1, round 1\)$"):
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


BESIDE = """
from __future__ import annotations
import pickle
from dataclasses import dataclass
import numpy as np
from its_own_helper import LEVEL

@dataclass
class Args:
    level: float = LEVEL

def decide(observation):
    args = pickle.loads(pickle.dumps(Args()))
    return np.full((len(observation) - 24) // 20 + 1, args.level, dtype=np.float32)
"""


def test_a_file_imports_what_lies_beside_it_and_two_helpers_of_one_name_are_two(tmp_path: Path) -> None:
    scenario = load("two-servers")
    observation = np.zeros(16 * 20 + 24, dtype=np.float32)
    for folder, level in (("one", 0.25), ("two", 0.5), ("one", 0.25)):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / "its_own_helper.py").write_text(f"LEVEL = {level}")
        (tmp_path / folder / "policy.py").write_text(BESIDE)
        agent = orchestrator(f"{tmp_path}/{folder}/policy.py:decide", scenario)
        assert agent.decide(observation)[0] == np.float32(level)


def test_what_an_agent_imports_later_is_found_beside_it_still(tmp_path: Path) -> None:
    scenario, agents = load("two-servers"), []
    for folder in ("first", "second"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f"late_{folder}.py").write_text("LEVEL = 0.5")
        (tmp_path / folder / "policy.py").write_text(
            f"import numpy as np\ndef decide(o):\n    import late_{folder}\n    return np.full(17, late_{folder}.LEVEL)\n"
        )
        agents.append(orchestrator(f"{tmp_path}/{folder}/policy.py:decide", scenario))
    before = set(sys.modules)
    for agent in agents:
        assert agent.decide(np.zeros(16 * 20 + 24, dtype=np.float32))[0] == 0.5
    orchestrator(f"{tmp_path}/first/policy.py:decide", scenario)
    assert before <= set(sys.modules)
    assert "__main__" in sys.modules


FAULTY = """
import torch
def raises(observation):
    return {}["no such key"]
class Bare:
    pass
class Wants:
    def __init__(self, weights): pass
def grad(observation):
    return torch.zeros(17, requires_grad=True) + 0.5
def leaves(observation):
    raise SystemExit("no\\nmore")
def imaginary(observation):
    return [1j] * 17
"""


def test_an_agent_that_fails_is_named_with_the_line(tmp_path: Path) -> None:
    scenario = load("two-servers")
    file = tmp_path / "faulty.py"
    file.write_text(FAULTY)
    for name, words in (
        ("raises", r"agent raises raises KeyError: 'no such key' \(faulty.py, line 4\) in decide"),
        ("Bare", r"agent Bare: a Bare has no decide\(observation\), expected one"),
        ("Wants", r"agent Wants raises TypeError: .* as its episode begins"),
        ("imaginary", "expected 17 numbers"),
        ("leaves", r"agent leaves raises SystemExit: no more \(faulty.py, line \d+\) in decide"),
    ):
        with pytest.raises(InputError, match=words):
            play_together(orchestrator(f"{file}:{name}", scenario), scenario, [1])
    with pytest.raises(InputError, match=r"faulty\.py' is a file: expected .*faulty\.py:NAME, a function or a class in it"):
        orchestrator(str(file), scenario)
    assert play_together(orchestrator(f"{file}:grad", scenario), scenario, [1])[0].rounds > 0
    (tmp_path / "leaves.py").write_text("import sys\nsys.exit(3)\n")
    with pytest.raises(InputError, match=r"leaves\.py raises SystemExit: 3"):
        orchestrator(f"{tmp_path}/leaves.py:decide", scenario)
