"""Real runs are kept by what decides them."""

import shutil

from agents.agent_key import agent_key
from agents.frozen import policy_path
from agents.judge import Cell, cell_scenario
from scenarios import load


def test_a_cell_is_named_by_its_agents_content_and_not_by_where_it_lies(tmp_path):
    scenario = cell_scenario(load("two-servers"))
    copied = tmp_path / "mine.safetensors"
    shutil.copy(policy_path("ppo-default"), copied)
    key = Cell("ppo-default", scenario, 0).key()
    assert Cell(str(copied), scenario, 0).key() == key
    shutil.copy(policy_path("dqn-default"), copied)
    assert Cell(str(copied), scenario, 0).key() != key
    assert len({Cell(agent, scenario, seed).key() for agent in ("equal", "fedavg", "fixed:1x40/1") for seed in (0, 1)}) == 6
    assert Cell("equal", cell_scenario(load("farm-lte")), 0).key() != Cell("equal", scenario, 0).key()


def test_a_name_that_means_nothing_stands_for_itself():
    assert agent_key("reference") == "reference"
