"""The benchmark's cells: kept, named by content, the same however they are played; and the pages made of them."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import scenarios
from agents import leaderboard
from agents.agent_key import agent_key
from agents.episodes import EpisodeResult, play_episode, play_together
from agents.frozen import policy_path
from agents.heuristics import HEURISTICS
from agents.leaderboard import Played, play, scenario_key, write
from agents.splits import Case
from agents.standings import Standings
from agents.standings_tables import ABLATIONS
from envs.orchestration import OrchestrationEnv
from scenarios import Scenario


def small(agents: tuple[str, ...] = ("equal", "speed"), **more: int) -> Played:
    content = scenarios.load("two-servers").model_dump(mode="json")
    content["decision"]["sync_intervals"] = (40,)
    case = Case("own", Scenario.model_validate(content))
    return Played(agents, (case,), **{"seeds": 3, "planned": 1, "workers": 1, **more})


def test_cells_are_kept_and_workers_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leaderboard, "cache_folder", lambda name: tmp_path / "a")
    play(small(("equal",)))  # as if interrupted after the first agent
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "a").glob("*.json")}
    assert len(kept) == 2
    resumed = play(small())
    assert all(path.stat().st_mtime_ns == when for path, when in kept.items())
    monkeypatch.setattr(leaderboard, "cache_folder", lambda name: tmp_path / "b")
    assert play(small(workers=2)) == resumed
    assert resumed.regret("equal", ["two-servers"])[1] == 1

    folder = tmp_path / "out"
    (tmp_path / "page.md").write_text("# Old\n\n## Told by hand\n\nWhat people should know.\n")
    page, markdown, table, summary, copied = write(resumed, small(), folder, "the command", page=tmp_path / "page.md")
    assert copied.read_text().endswith("\n\n## Told by hand\n\nWhat people should know.\n")
    assert copied.read_text().startswith(markdown.read_text().replace("](", "](page-").rstrip())
    assert "![performance profiles](page-profiles.png)" in copied.read_text()
    for plot in ("scores", "profiles"):
        assert (tmp_path / f"page-{plot}.png").read_bytes() == (folder / f"{plot}.png").read_bytes()
    assert "data:image/png;base64," in page.read_text()
    assert "Made by `the command`. 2 agents, 1 scenarios, 3 held-out seeds" in markdown.read_text()
    rows = list(csv.DictReader(table.open()))
    assert len(rows) == 2 * 3 + 1
    assert {float(r["log_efficiency"]) for r in rows if r["agent"] == "equal"} == {
        r.log_efficiency for r in resumed.episodes["equal", "two-servers"]
    }
    told = json.loads(summary.read_text())["all"]
    assert set(told) == {"equal", "speed"}
    assert told["equal"]["regret_to_clairvoyant"]["episodes"] == 1
    assert told["equal"]["probability_of_improvement"]["speed"] + told["speed"]["probability_of_improvement"]["equal"] == 1.0
    assert told["equal"]["co2e_kg"] > 0.0
    assert told["equal"]["regret_to_best_static"] is told["equal"]["less_than_fedavg"] is None
    assert {p.name for p in folder.glob("*.png")} == {
        "costs.png", "improvement.png", "profiles.png", "scenarios.png", "scores.png"
    }  # fmt: skip


def test_both_ways_to_play_count_the_same_decisions() -> None:
    scenario = small().cases[0].scenario
    env = OrchestrationEnv(scenario, reward="efficiency")
    for agent in (HEURISTICS["round-robin"](), HEURISTICS["equal"]()):
        together, alone = play_together(agent, scenario, [7])[0], play_episode(agent, env, 7)
        assert replace(together, curve=alone.curve) == alone
        asked = np.array([point[5] for point in alone.curve])
        assert alone.asked * alone.share == pytest.approx(asked.mean())
        assert alone.interval == 1.0  # the one that there is
    assert (HEURISTICS["round-robin"].name, alone.asked) == ("round-robin", 2.0)
    assert play_episode(HEURISTICS["round-robin"](), env, 7).asked == 1.0


def test_the_default_benchmark_has_both_sides_of_every_ablation() -> None:
    assert {name for pair in ABLATIONS for name in pair[:2]} <= set(leaderboard.AGENTS)


def test_a_cell_is_named_by_what_decides_its_result(tmp_path: Path) -> None:
    policy = tmp_path / "mine.py"
    policy.write_text("def decide(o): return 0")
    key = agent_key(f"{policy}:decide")
    assert key == agent_key(f"{policy}:decide") != agent_key(f"{policy}:other")
    policy.write_text("def decide(o): return 1")
    assert agent_key(f"{policy}:decide") != key
    assert agent_key("equal") != agent_key("fedavg")
    # A policy by name is its file.
    assert agent_key("ppo-default") == agent_key(str(policy_path("ppo-default"))) != agent_key("dqn-default")
    (case,) = small().cases
    other = case.scenario.model_copy(update={"title": "another"})
    assert scenario_key(case) != scenario_key(Case("own", other))


def test_traces_count_by_content_wherever_they_lie(tmp_path: Path) -> None:
    def traced(folder: str, rate: int) -> Case:
        path = tmp_path / folder / "link.csv"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"second,uplink_mbps,downlink_mbps\n0,{rate},5\n9,2,4\n")
        content = scenarios.load("two-servers").model_dump(mode="json")
        content["fleet"]["groups"][0]["link"]["trace"] = str(path)
        return Case("own", Scenario.model_validate(content))

    here = scenario_key(traced("a", 3))
    assert scenario_key(traced("b", 3)) == here
    assert scenario_key(traced("b", 4)) != here


def test_an_unknown_agent_is_refused_before_anything_is_played(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leaderboard, "play", lambda what: pytest.fail("played"))
    with pytest.raises(scenarios.InputError, match="agent 'nobody' is unknown"):
        leaderboard.run(small(("equal", "nobody")), tmp_path, "command")


def test_the_best_agents_and_the_reference_go_to_real_training(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(leaderboard, "judge_with_bars", lambda cells, told, folder, workers: asked.extend(cells) or [])
    cases = tuple(Case("named", scenarios.load(name)) for name in ("farm-lte", "two-servers"))
    scores = {"equal": 0.0, "speed": 1.0, "enough": 3.0, "deadline": 2.0}
    episodes = {
        (agent, case.scenario.name): [EpisodeResult(agent, case.scenario.name, s, v, True, 1.0, 1.0, 1.0, 1.0, 1.0, 1, [])
                                      for s in range(3)]
        for agent, v in scores.items() for case in cases
    }  # fmt: skip
    standings = Standings(cases, tuple(scores), episodes, {})
    leaderboard.on_training(standings, Played(tuple(scores), cases), 2, 2)
    # One scenario of the one workload, the best two and the reference, two runs each.
    told = [(cell.agent, cell.scenario["name"], cell.seed) for cell in asked]
    assert told == [(agent, "farm-lte", run) for agent in ("enough", "deadline", "equal") for run in range(2)]


def test_what_lies_beside_a_persons_agent_is_part_of_what_names_its_cells(tmp_path: Path) -> None:
    policy = tmp_path / "mine.py"
    policy.write_text("def decide(o): return 0")
    bare = agent_key(f"{policy}:decide")
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "weights.pt").write_bytes(b"1")
    loaded = agent_key(f"{policy}:decide")
    (tmp_path / "checkpoint" / "weights.pt").write_bytes(b"22")
    assert len({bare, loaded, agent_key(f"{policy}:decide")}) == 3
    # What it writes, and what we write of it, changes nothing.
    now = agent_key(f"{policy}:decide")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "results.json").write_text("{}")
    (tmp_path / "notes.log").write_text("a line")
    (tmp_path / "out" / "deeper").mkdir(parents=True)
    for name in ("report.html", "results.json", "deeper/encoder.safetensors"):
        (tmp_path / "out" / name).write_text("an evaluation's")
    assert agent_key(f"{policy}:decide") == now


@pytest.mark.parametrize(
    "name",
    ["agent.cleanrl_model", "model.keras", "w.PT", "checkpoint", "settings.toml", "a/b/c.txt", "runs/x/agent.cleanrl_model"],
)
def test_whatever_an_agent_may_load_is_noticed(name: str, tmp_path: Path) -> None:
    policy = tmp_path / "mine.py"
    policy.write_text("def decide(o): return 0")
    place = tmp_path / name
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text("1")
    before = agent_key(f"{policy}:decide")
    place.write_text("12")
    assert agent_key(f"{policy}:decide") != before


def test_the_clairvoyant_is_played_again_where_policies_that_it_begins_with_change(monkeypatch: pytest.MonkeyPatch) -> None:
    before = agent_key("clairvoyant")
    monkeypatch.setattr("agents.agent_key.named_policies", lambda: ["dqn-default"])
    assert agent_key("clairvoyant") != before
