"""Standings from hand-made episodes."""

from dataclasses import replace
from math import exp

import numpy as np
import pytest

import scenarios
from agents.episodes import EpisodeResult
from agents.splits import Case
from agents.standings import FIELD, Standings
from agents.standings_tables import decided_grid, group_grid, naive_grid, over_grid, overall_grid, scenario_grid

DECIDED = ("asked", "share", "whole", "interval")


def episode(agent: str, where: str, seed: int, score: float, time: float, energy: float, reached: bool = True) -> EpisodeResult:
    asked = 1.0 if agent == "fedavg" else 0.5 + seed
    return EpisodeResult(agent, where, seed, score, reached, 1.0, time, energy, 10.0, 1.0, 5, [], asked, 0.5, 1.0, 0.25)


@pytest.fixture
def standings() -> Standings:
    cases = (Case("named", scenarios.load("farm-lte")), Case("faults", scenarios.load("two-servers")))
    episodes = {}
    for case in cases:
        where = case.scenario.name
        episodes["fedavg", where] = [episode("fedavg", where, s, -1.0, 100.0, 50.0, s != 3) for s in range(4)]
        episodes["good", where] = [episode("good", where, s, 1.0 + 0.1 * s, 20.0, 25.0, s != 0) for s in range(4)]
    planned = {"farm-lte": [episode("clairvoyant", "farm-lte", 1, 3.1, 1.0, 1.0)]}
    reference = {case.scenario.name: (50.0, 50.0, 20.0, 30.0) for case in cases}
    return Standings(cases, ("fedavg", "good"), episodes, reference, planned)


def test_groups_are_splits_and_families(standings: Standings) -> None:
    assert standings.groups() == {
        "all": ["farm-lte", "two-servers"], "named": ["farm-lte"], "faults": ["two-servers"], FIELD: ["farm-lte"]
    }  # fmt: skip


def test_ratios_count_misses_against_the_agent(standings: Standings) -> None:
    # Of four ratios 0 (a miss), 5, 5, and 5 where the other missed and counts with what it had spent.
    assert standings.thriftier("good", "fedavg", ["farm-lte"], "time_s") == pytest.approx((5.0, 3.75, 5.0))
    assert standings.thriftier("good", "fedavg", ["farm-lte"], "energy_j")[0] == pytest.approx(2.0)


def test_costs_regret_success_and_gain(standings: Standings) -> None:
    names = ["farm-lte", "two-servers"]
    assert standings.costs("good", names) == pytest.approx([0.4, 0.5, 0.5])
    lost, runs = standings.regret("good", names)
    assert (lost.value, runs) == (pytest.approx(2.0), 1)  # 3.1 against its own 1.1 in that very episode
    assert standings.success("good", names) == 0.75
    assert standings.gain("good", "fedavg", names).value == pytest.approx(2.15)
    assert standings.better("good", "fedavg", names).value == 1.0
    assert standings.order(names) == ["good", "fedavg"]


def test_tables_tell_them(standings: Standings) -> None:
    assert overall_grid(standings, 1).rows[0][:2] == ("good", "+1.15")
    assert group_grid(standings).columns[1:] == ("all (2)", "named (1)", "faults (1)", "named: field (1)")
    (over,) = over_grid(standings)
    assert over.rows[0][0] == "fedavg"
    assert over.rows[0][1].startswith(f"x {exp(2.15):.2f}")
    everything, field, each = naive_grid(standings)
    assert each.title.endswith(": good")
    assert each.rows == (("farm-lte", *everything.rows[0][1:]),)
    assert "in 0 of 1 scenarios" in each.note  # 5 times in time, and 2 in energy
    assert everything.rows[0][:3] == ("good", "x 5.0 (3.8 .. 5.0)", "x 2.0 (1.5 .. 2.0)")
    assert "reached 75 %" in field.note
    row = scenario_grid(standings).rows[0]
    assert row[0] == "farm-lte"
    assert row[-1] == "+2.00 (1)"
    assert np.isnan(standings.regret("good", ["two-servers"])[0].value)


def test_regret_has_an_interval_over_all_episodes_that_were_planned(standings: Standings) -> None:
    planned = {"farm-lte": [episode("clairvoyant", "farm-lte", s, 3.0 + 0.3 * s, 1.0, 1.0) for s in range(4)]}
    lost, runs = replace(standings, planned=planned).regret("good", ["farm-lte", "two-servers"])
    assert (lost.value, runs) == (pytest.approx(2.3), 4)
    assert 2.0 <= lost.low < 2.3 < lost.high <= 2.6


def test_what_agents_decide_is_told_with_every_scenario_alike(standings: Standings) -> None:
    grid = decided_grid(standings)
    assert grid.rows == (("good", "2.00", "0.50", "100 %", "0.25"), ("fedavg", "1.00", "0.50", "100 %", "0.25"))
    assert "good asks 2.0 machines in a round, 100 % of them for all that fits, at 0.25 of the longest H." in grid.note
    alone = {
        (agent, where): [replace(r, asked=1.1) for r in played] for (agent, where), played in standings.episodes.items()
    }
    assert "schedules whole models" in decided_grid(replace(standings, episodes=alone)).note
    old = {key: [replace(r, asked=None) for r in played] for key, played in standings.episodes.items()}
    assert not decided_grid(replace(standings, episodes=old)).rows
    of_old = {key: value for key, value in standings.episodes["good", "farm-lte"][0].to_dict().items() if key not in DECIDED}
    assert EpisodeResult(**of_old) == replace(standings.episodes["good", "farm-lte"][0], **dict.fromkeys(DECIDED))


def test_policy_and_rule_are_compared_pair_by_pair(standings: Standings) -> None:
    row = scenario_grid(standings).rows[0]
    assert row[5].startswith(f"good over fedavg x {exp(2.15):.2f} (")
    only = {key: played for key, played in standings.episodes.items() if key[0] == "good"}
    assert scenario_grid(replace(standings, agents=("good",), episodes=only)).rows[0][5] == "-"
