"""Heuristics with parameters tuned by family of scenarios: "tuned:oort" is `oort` as `agents.tune_heuristics` found it best."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

from agents.heuristics import HEURISTICS, Heuristic
from agents.splits import family
from scenarios import InputError, Scenario

TUNED = "tuned:"
ANY = "any"
"""Parameters for scenarios of no family of the library."""
FOUND = Path(__file__).parent / "heuristics" / "tuned.json"


@cache
def found(heuristic: str) -> dict[str, dict[str, float]]:
    """Family -> its best parameters.

    Raises:
        InputError: it was never tuned.
    """
    best = json.loads(FOUND.read_text(encoding="utf-8"))
    if heuristic not in best:
        raise InputError(f"heuristic {heuristic!r} is not tuned yet: expected python -m agents.tune_heuristics before")
    return dict(best[heuristic])


def tunable() -> list[str]:
    """Heuristics that have parameters."""
    return [name for name, cls in HEURISTICS.items() if cls.tunable]


def with_parameters(name: str, parameters: dict[str, float]) -> Heuristic:
    """A heuristic with some of its parameters, those of its `tunable`, set."""
    heuristic = HEURISTICS[name]()
    for parameter, value in parameters.items():
        setattr(heuristic, parameter, value)
    return heuristic


def tuned_heuristic(agent: str, scenario: Scenario) -> Heuristic:
    """A heuristic as tuned for the family of a scenario.

    Args:
        agent: "tuned:" and a heuristic's name.
        scenario: where it is going to decide.

    Raises:
        InputError: no heuristic that has parameters.
    """
    name = agent.removeprefix(TUNED)
    if name not in tunable():
        raise InputError(f"agent {agent!r} is unknown: expected {TUNED} and one of {', '.join(tunable())}")
    best = found(name)
    heuristic = with_parameters(name, best.get(family(scenario.name), best[ANY]))
    heuristic.name = agent
    return heuristic
