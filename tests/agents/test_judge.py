"""Real runs are kept by what decides them."""

import shutil
from dataclasses import replace

import numpy as np
import pytest

from agents.agent_key import agent_key
from agents.benchmark import benchmark, orchestrator, play_episode
from agents.frozen import policy_path
from agents.judge import Cell, cell_scenario, encoder_path, judge, play_cell
from fedcore.encoder_file import load_encoder
from scenarios import load, parse


@pytest.fixture
def tiny_cell():
    """Three rounds of an encoder of eight channels on two machines."""
    content = cell_scenario(load("farm-lte"))
    for group in content["fleet"]["groups"]:
        group.update(count=1, images=24)
    content["workload"].update(image_px=16, batch_size=8, encoder_options={"widths": [8, 8, 8]})
    content["decision"]["sync_intervals"] = [1, 2]
    content["reference"]["sync_interval"] = 2
    content["budgets"].update(rounds=3, time_s=1e6, energy_j=1e12, bytes=1e12)
    return Cell("equal", content, 0, target_infonce=4.0)


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


def test_damaged_cells_are_played_again_and_encoders_are_kept_where_asked_for(tmp_path, tiny_cell):
    [first] = judge([tiny_cell], tmp_path, 1)
    path = tmp_path / f"{tiny_cell.key()}.json"
    assert not encoder_path(path).exists()
    for content in ("{}", path.read_text()[:40]):
        path.write_text(content)
        assert judge([tiny_cell], tmp_path, 1) == [first]
    assert judge([tiny_cell], tmp_path, 1, encoders=True) == [first]
    encoder = load_encoder(encoder_path(path))
    assert encoder.workload.image_px == 16
    assert encoder.embed(np.zeros((2, 16, 16, 1), dtype=np.uint8)).shape == (2, 8)


def test_runs_differ_and_the_untrained_encoder_is_the_one_before_training(tmp_path, tiny_cell):
    cells = [replace(tiny_cell, seed=seed) for seed in (0, 1)]
    first, second = judge(cells, tmp_path, 1)
    assert first.result.seed != second.result.seed
    assert first.result.curve != second.result.curve
    assert first.untrained != first.probes
    assert first.raw == second.raw != first.untrained


def test_a_collapse_in_any_round_is_told(tiny_cell, monkeypatch):
    told = iter([False, True])

    def play(agent, env, seed, on_round):
        result = play_episode(agent, env, seed)
        for collapsed in (*told, False):
            on_round({"collapsed": collapsed, "refused": [], "round": 1, "progress": 0.0})
        return result

    monkeypatch.setattr("agents.judge.play_episode", play)
    assert play_cell(tiny_cell).collapsed


def test_fleets_of_any_size_are_played_on_real_training(tmp_path, tiny_cell):
    content = tiny_cell.scenario
    content["fleet"]["groups"][0]["count"] = 18
    scenario = parse(content, "many")
    [judgement] = judge([replace(tiny_cell, agent="ppo-default", scenario=content)], tmp_path, 1)
    assert judgement.result.rounds > 0
    assert len(benchmark([orchestrator("equal", scenario)], scenario, 1)) == 1
