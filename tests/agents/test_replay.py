"""Decisions made again cost what they cost the first time, and nothing ends them."""

import numpy as np
import pytest

from agents.episodes import play_episode
from agents.heuristics import HEURISTICS
from agents.replay import replay
from envs.orchestration import OrchestrationEnv
from fedcore.world import compile_world
from scenarios import load


@pytest.mark.parametrize("name", ["farm-lte", "field-solar-dusk"])
def test_the_same_decisions_with_the_same_luck_cost_the_same(name: str) -> None:
    scenario, decisions = load(name), []

    def note(info: dict) -> None:
        decisions.append({"shares": [float(s) for s in info["shares"][: info["machines"]]], "steps": info["sync_interval"]})

    played = play_episode(HEURISTICS["oort"](), OrchestrationEnv(scenario), 7, note)
    again, other = replay("oort", decisions, compile_world(scenario), [7, 8])
    for cost in ("time_s", "energy_j", "bytes", "co2e_kg", "rounds"):
        assert getattr(again, cost) == getattr(played, cost)
    assert other.time_s != again.time_s
    assert again.agent == "oort"
    assert np.isnan(again.log_efficiency)


def test_it_goes_on_where_an_episode_would_have_ended() -> None:
    scenario = load("farm-lte")
    everyone = {"shares": [1.0] * 6, "steps": scenario.decision.sync_intervals[0]}
    [result] = replay("all", [everyone] * 12, compile_world(scenario), [0])
    assert result.rounds == 12
    assert result.progress == 0.0
