import numpy as np
import pytest

import scenarios
from agents.fixed import parse_fixed
from agents.quality import Quality, quality, quality_grid
from agents.statistics import iqm
from fedcore.world import compile_world


def test_interquartile_mean_by_hand():
    assert iqm(np.array([100.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, -50.0])) == pytest.approx(3.5)


def test_ratios_are_of_the_same_episodes():
    scenario = scenarios.load("two-servers")
    world = compile_world(scenario)
    agent = parse_fixed("fixed:1x20", world)
    (row,) = quality([agent], [scenario], 4, heuristics=("equal", "enough"))
    assert set(row.efficiency) == {agent.name, "equal", "enough", "best-static"}
    assert row.over(agent.name, ["equal"]) == pytest.approx(row.efficiency[agent.name] / row.efficiency["equal"])
    assert row.over("equal", ["equal", "enough"]) <= 1.0
    assert all(np.isfinite(v) and v > 0 for v in row.efficiency.values())


def test_table_names_the_best_rival():
    grid = quality_grid([Quality("a", {"ppo": 3.0, "equal": 1.0, "enough": 2.0, "best-static": 4.0})], ["ppo"], "t")
    assert grid.rows == (("a", "3.00", "enough", "2.00", "4.00", "x 1.50", "x 0.75"),)
