"""Real runs without Flower's processes: measured observations, checkpoints, and the same weights as training in process."""

import contextlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from agents.checkpoint import read_kept, restore, save_checkpoint
from agents.heuristics import HEURISTICS
from agents.real_run import CHECKPOINT, ENCODER, EVENTS, RESULT, Job, run_job
from envs.measured import MeasuredEnv
from envs.observation import split
from envs.training import TrainingEnv, learner_seed
from fedcore.dynamics import Calibration, load_calibration
from fedcore.engines import InProcessEngine
from fedcore.engines.remote import RemoteEngine
from fedcore.fleet import columns as c
from fedcore.methods.private import spent_epsilon
from fedcore.remote import load
from fedcore.remote.ear import Ear
from fedcore.remote.node import Node
from fedcore.workload import build_training, method_of, prepare_data, recipe_of
from fedcore.world import compile_world
from scenarios import InputError, Scenario, parse

SEED = 1_000_000
ROUNDS = 4


@pytest.fixture
def scenario(tmp_path: Path) -> dict[str, Any]:
    """Two machines, 24 images each, an encoder of eight channels."""
    from scenarios import load

    content = load("farm-lte").model_dump(mode="json")
    for group in content["fleet"]["groups"]:
        group.update(count=1, images=24)
    content["name"] = "tiny"
    content["workload"].update(
        image_px=16, batch_size=8, encoder_options={"widths": [8, 8, 8]}, precision="fp32", selection="importance"
    )
    content["decision"]["sync_intervals"] = [1, 2]
    content["reference"]["sync_interval"] = 2
    content["budgets"].update(rounds=ROUNDS, time_s=1e6, energy_j=1e12, bytes=1e12)
    return content


def join(
    threads: Any, content: dict[str, Any], wrap: Callable[[Node], Any] = lambda node: node, **options: Any
) -> None:
    scenario = parse(content, "tiny")
    data = prepare_data(scenario, seed=learner_seed(SEED)).samples()
    for k, name in enumerate(scenario.fleet.machine_names):
        threads.join(10 + k, wrap(Node(name, lambda workload, k=k: data[k], **options)))


def replayed(content: dict[str, Any], decisions: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Weights of the same decisions in process."""
    scenario = parse(content, "tiny")
    seed = learner_seed(SEED)
    data = prepare_data(scenario, seed=seed)
    engine = InProcessEngine(data.samples(), recipe_of(scenario.workload))
    training = build_training(scenario, data, None, seed, method_of(scenario.workload), engine=engine)
    for decision in decisions:
        training.play(decision["shares"], decision["steps"])
    return training.state


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(str(folder / ENCODER))


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_the_seed_of_dealt_data_is_the_episodes(scenario: dict[str, Any]) -> None:
    env = TrainingEnv(parse(scenario, "tiny"), target_infonce=4.0)
    env.reset(seed=SEED)
    assert env.learner.training is not None
    assert env.learner.training.seed == learner_seed(SEED)


def test_a_run_ends_with_the_weights_that_its_decisions_give_in_process(
    scenario: dict[str, Any], threads: Any, tmp_path: Path
) -> None:
    join(threads, scenario)
    result = run_job(Job("adacomm", scenario, SEED, str(tmp_path)), threads, lambda line: None)
    told = json.loads((tmp_path / RESULT).read_text())
    assert result.rounds == ROUNDS == len(told["decisions"])
    assert equal(weights(tmp_path), replayed(scenario, told["decisions"]))
    rounds = [json.loads(line) for line in (tmp_path / EVENTS).read_text().splitlines()]
    rounds = [event for event in rounds if event["kind"] == "round"]
    assert sum(event["seconds"] for event in rounds) == pytest.approx(result.time_s)
    assert sum(event["bytes"] for event in rounds) == pytest.approx(result.bytes)
    assert all(set(event["status"].values()) == {"done"} for event in rounds)
    assert told["meter"] in ("power model", "RAPL")


@pytest.mark.parametrize(("agent", "objective"), [("fixed:0.5x2", "simclr"), ("adacomm", "simclr"), ("fixed:0.5x2", "byol")])
def test_a_server_killed_after_any_round_goes_on_to_the_same_end(
    scenario: dict[str, Any], threads: Any, tmp_path: Path, agent: str, objective: str
) -> None:
    scenario["workload"]["objective"] = objective  # BYOL has a target, merged with the blocks
    join(threads, scenario)
    whole = Job(agent, scenario, SEED, str(tmp_path / "whole"))
    run_job(whole, threads, lambda line: None)
    cut = Job(agent, scenario, SEED, str(tmp_path / "cut"))

    class Killed(BaseException):
        pass

    lines: list[str] = []
    for after in (1, 3):
        class Dying:
            """Dies, as a killed process does, when it has sent its part of so many rounds."""

            def __getattr__(self, name: str) -> Any:
                return getattr(threads, name)

            def send(self, node: int, content: bytes, lifetime_s: float, after: int = after) -> str:
                rounds = tmp_path / "cut" / EVENTS
                played = rounds.read_text().count('"kind": "round"') if rounds.is_file() else 0
                if played >= after:
                    raise Killed
                return threads.send(node, content, lifetime_s)

        with pytest.raises(Killed):
            run_job(cut, Dying(), lines.append)
    run_job(cut, threads, lines.append)
    assert [line for line in lines if line.startswith("going on")] == [
        "going on from the checkpoint after round 1", "going on from the checkpoint after round 3",
    ]  # fmt: skip
    assert equal(weights(tmp_path / "whole"), weights(tmp_path / "cut"))
    whole_told, cut_told = (json.loads((tmp_path / n / RESULT).read_text()) for n in ("whole", "cut"))
    assert whole_told["decisions"] == cut_told["decisions"]
    assert [row[1] for row in whole_told["result"]["curve"]] == [row[1] for row in cut_told["result"]["curve"]]


def test_a_server_killed_while_a_machine_is_away_goes_on_without_it(
    scenario: dict[str, Any], threads: Any, tmp_path: Path
) -> None:
    """The second machine is killed after the first round, the server in the third; the machine comes back after it."""
    scenario["budgets"]["rounds"] = 8
    join(threads, scenario)
    first, second = parse(scenario, "tiny").fleet.machine_names
    job = Job("fixed:0.5x2", scenario, SEED, str(tmp_path), gather_s=30.0)

    class Killed(BaseException):
        pass

    def statuses() -> list[dict[str, str]]:
        events = [json.loads(line) for line in (tmp_path / EVENTS).read_text().splitlines()]
        return [event["status"] for event in events if event["kind"] == "round"]

    def dies(event: dict[str, Any]) -> None:
        if event["kind"] == "round" and event["round"] == 1:
            threads.kill(11)
        if event["kind"] == "round" and event["round"] == 3:
            raise Killed

    def revives(event: dict[str, Any]) -> None:
        if event["kind"] == "round" and event["round"] == 3:
            data = prepare_data(parse(scenario, "tiny"), seed=learner_seed(SEED)).samples()
            threads.join(12, Node(second, lambda workload: data[1]))
            time.sleep(1.0)

    lines: list[str] = []
    with pytest.raises(Killed):
        run_job(job, threads, lines.append, dies)
    lines.clear()
    began = time.monotonic()
    run_job(job, threads, lines.append, revives)
    assert time.monotonic() - began < 30.0  # it was not waited for
    assert lines[:2] == [f"machine {first} is back (node 10, 24 samples)", "going on from the checkpoint after round 2"]
    assert f"machine {second} is back (node 12, 24 samples)" in lines
    assert [s[first] for s in statuses()] == ["done"] * 8
    assert [s[second] == "done" for s in statuses()[:3]] == [True, False, False]
    assert statuses()[-1][second] == "done"
    assert json.loads((tmp_path / RESULT).read_text())["result"]["rounds"] == 8


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_a_server_killed_after_its_nodes_have_trained_ends_as_if_it_had_not_been(
    scenario: dict[str, Any], threads: Any, tmp_path: Path, precision: str
) -> None:
    """What rounding left out of the block that nobody took is not in the one that is sent in its place."""
    join(threads, scenario)
    run_job(Job("fixed:0.5x2", scenario, SEED, str(tmp_path / "whole"), precision=precision), threads, lambda line: None)
    cut = Job("fixed:0.5x2", scenario, SEED, str(tmp_path / "cut"), precision=precision)

    class Killed(BaseException):
        pass

    class Dying:
        """Dies when both answers of the third round are there."""

        def __getattr__(self, name: str) -> Any:
            return getattr(threads, name)

        def receive(self, tickets: list[str]) -> Any:
            rounds = tmp_path / "cut" / EVENTS
            if rounds.is_file() and rounds.read_text().count('"kind": "round"') == 2 and len(tickets) == 2:
                until = time.monotonic() + 30
                while not set(tickets) <= threads.answers.keys():
                    assert time.monotonic() < until
                    time.sleep(0.02)
                raise Killed
            return threads.receive(tickets)

    lines: list[str] = []
    with pytest.raises(Killed):
        run_job(cut, Dying(), lambda line: None)
    run_job(cut, threads, lines.append)
    assert "going on from the checkpoint after round 2" in lines
    assert equal(weights(tmp_path / "whole"), weights(tmp_path / "cut"))


def test_a_private_run_tells_what_it_spends_and_goes_on_with_its_own_noise(
    scenario: dict[str, Any], threads: Any, tmp_path: Path
) -> None:
    scenario["workload"] |= {"privacy": {"clip_norm": 2.5, "noise_multiplier": 1.0, "delta": 1e-5}, "selection": "random"}
    join(threads, scenario)
    job = Job("fixed:0.5x2", scenario, SEED, str(tmp_path / "a"))
    run_job(job, threads, lambda line: None)
    told = json.loads((tmp_path / "a" / RESULT).read_text())
    events = [json.loads(line) for line in (tmp_path / "a" / EVENTS).read_text().splitlines()]
    spent = [event["epsilon"] for event in events if event["kind"] == "round"]
    assert spent == pytest.approx([spent_epsilon(n, 1.0, 1e-5) for n in range(1, ROUNDS + 1)])
    assert told["epsilon"] == spent[-1]
    checkpoint = tmp_path / "a" / CHECKPOINT
    assert checkpoint.stat().st_mode & 0o077 == 0  # who reads it knows the noise
    assert not equal(weights(tmp_path / "a"), replayed(scenario, told["decisions"]))
    # Killed before its last round, and gone on with: the round has the noise that it would have had.
    cut = Job("fixed:0.5x2", scenario, SEED, str(tmp_path / "b"))
    kept: list[bytes] = []

    def keep(*args: Any) -> None:
        save_checkpoint(*args)
        kept.append((tmp_path / "b" / CHECKPOINT).read_bytes())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("agents.real_run.save_checkpoint", keep)
        run_job(cut, threads, lambda line: None)
    whole = weights(tmp_path / "b")
    assert not equal(whole, weights(tmp_path / "a"))  # another run, another secret
    (tmp_path / "b" / CHECKPOINT).write_bytes(kept[1])
    run_job(cut, threads, lambda line: None)
    assert equal(weights(tmp_path / "b"), whole)
    assert json.loads((tmp_path / "b" / RESULT).read_text())["epsilon"] == spent[-1]


@pytest.mark.parametrize("name", sorted(HEURISTICS))
def test_whoever_goes_on_from_a_checkpoint_remembers_what_the_other_did(
    scenario: dict[str, Any], threads: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    join(threads, scenario)
    tiny, playing = parse(scenario, "tiny"), HEURISTICS[name]()
    monkeypatch.setattr("agents.real_run.orchestrator", lambda *_: playing)
    job = Job(name, scenario, SEED, str(tmp_path))
    run_job(job, threads, lambda line: None)
    engine = RemoteEngine(threads, tiny.workload, tiny.fleet.machine_names)
    engine.gather(20.0)
    env, other = MeasuredEnv(tiny, engine), HEURISTICS[name]()
    env.reset(seed=SEED)
    other.begin(tiny)
    kept = read_kept(tmp_path / CHECKPOINT, job.identity())
    shown = restore(kept, env, other)
    assert len(shown) == ROUNDS == len(kept.log["decisions"])
    for observation in (env.observation(), *shown[::-1]):
        assert np.array_equal(playing.decide(observation), other.decide(observation))


def test_a_full_disk_loses_neither_the_run_nor_the_checkpoint_before(
    scenario: dict[str, Any], threads: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    join(threads, scenario)
    job = Job("fixed:0.5x2", scenario, SEED, str(tmp_path))
    lines: list[str] = []
    real, kept = os.fsync, []

    def full(handle: int) -> None:
        checkpoint = tmp_path / CHECKPOINT
        if checkpoint.is_file():
            kept.append(checkpoint.read_bytes())
            raise OSError(28, "No space left on device")
        real(handle)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match="No space left on device"):  # its end could not be written either
        run_job(job, threads, lines.append)
    monkeypatch.undo()
    assert sum("no new checkpoint, the one before is kept" in line for line in lines) == ROUNDS - 1
    assert set(kept) == {(tmp_path / CHECKPOINT).read_bytes()}
    assert not list(tmp_path.glob(".checkpoint*"))
    run_job(job, threads, lines.append)
    assert "going on from the checkpoint after round 1" in lines
    assert equal(weights(tmp_path), replayed(scenario, json.loads((tmp_path / RESULT).read_text())["decisions"]))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, of 4 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("a file system cannot be mounted here: not root, or not Linux")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_disk_that_really_fills_up_costs_nothing_once_there_is_room(
    scenario: dict[str, Any], threads: Any, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    join(threads, scenario)
    job = Job("fixed:0.5x2", scenario, SEED, str(small_disk / "run"))
    lines: list[str] = []
    filler = small_disk / "filler"

    def save_and_fill(*args: Any) -> None:
        save_checkpoint(*args)
        with contextlib.suppress(OSError), filler.open("ab", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        assert os.statvfs(small_disk).f_bavail == 0

    monkeypatch.setattr("agents.real_run.save_checkpoint", save_and_fill)
    with pytest.raises(InputError, match="No space left on device"):
        run_job(job, threads, lines.append)
    monkeypatch.undo()
    assert sum("no new checkpoint, the one before is kept" in line for line in lines) == ROUNDS - 1
    assert sorted(path.name for path in (small_disk / "run").iterdir()) == sorted([CHECKPOINT, EVENTS])
    filler.unlink()
    run_job(job, threads, lines.append)
    assert "going on from the checkpoint after round 1" in lines
    decisions = json.loads((small_disk / "run" / RESULT).read_text())["decisions"]
    assert equal(weights(small_disk / "run"), replayed(scenario, decisions))



def test_checkpoints_of_other_runs_and_damaged_ones_are_refused(
    scenario: dict[str, Any], threads: Any, tmp_path: Path
) -> None:
    join(threads, scenario)
    job = Job("fixed:0.5x2", scenario, SEED, str(tmp_path))
    run_job(job, threads, lambda line: None)
    path = tmp_path / CHECKPOINT
    with pytest.raises(InputError, match="is of another run"):
        read_kept(path, Job("fixed:1x2", scenario, SEED, str(tmp_path)).identity())
    # What the calibration says is part of what an orchestrator is told, and of the score.
    own = {**load_calibration(scenario["workload"]["calibration"]).__dict__, "target_infonce": 1.0}
    (tmp_path / "own.json").write_text(Calibration(**own).to_json())
    other = {**scenario, "workload": {**scenario["workload"], "calibration": str(tmp_path / "own.json")}}
    before = Job("fixed:0.5x2", other, SEED, str(tmp_path)).identity()
    (tmp_path / "own.json").write_text(Calibration(**{**own, "target_infonce": 2.0}).to_json())
    load_calibration.cache_clear()
    assert Job("fixed:0.5x2", other, SEED, str(tmp_path)).identity() != before
    save_file({"a": torch.zeros(1)}, path, {"intrafed": "[" * 100_000})
    with pytest.raises(InputError, match="is damaged or cut short"):
        read_kept(path, job.identity())
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(InputError, match="is damaged or cut short"):
        read_kept(path, job.identity())


def test_what_is_observed_is_what_was_measured(scenario: dict[str, Any], threads: Any) -> None:
    slow = 0.6
    threads.delay_s[11] = slow
    join(threads, scenario)
    tiny = parse(scenario, "tiny")
    engine = RemoteEngine(threads, tiny.workload, tiny.fleet.machine_names)
    engine.gather(20.0)
    env = MeasuredEnv(tiny, engine)
    observation, _ = env.reset(seed=SEED)
    assert split(observation).machine["available"][:3].tolist() == [1, 1, 0]
    agent = HEURISTICS["equal"]()
    agent.begin(tiny)
    began = time.monotonic()
    observation, _, _, _, info = env.step(agent.decide(observation))
    lasted = time.monotonic() - began
    view, t = split(observation), env.core.telemetry[0]
    assert slow < info["round_time_s"] <= lasted + 0.5
    assert info["status"] == ["done", "done"]
    measured = engine.measured
    assert info["round_bytes"] == sum(m.sent_bytes + m.received_bytes for m in measured.values())
    for k in (0, 1):
        assert t[k, c.SENT_BYTES] == measured[k].sent_bytes > 0
        assert t[k, c.COMPUTE_S] == measured[k].compute_s > 0
        assert t[k, c.DOWNLOAD_S] + t[k, c.UPLOAD_S] == pytest.approx(measured[k].elapsed_s - measured[k].node_s)
        group = tiny.fleet.machines[k]
        own = group.device.active_power_w * t[k, c.COMPUTE_S] + group.device.idle_power_w * t[k, c.IDLE_S]
        assert t[k, c.ENERGY_J] >= own * 0.999
    assert t[1, c.UPLOAD_S] + t[1, c.DOWNLOAD_S] > slow
    assert view.machine["last_outcome"][:3].tolist() == [1, 1, 0]
    assert view.machine["upload_time"][1] > view.machine["upload_time"][0]
    # Its steps' own measured time over what the scenario advertises.
    world = compile_world(tiny)
    index = int(env.core.decisions(agent.decide(observation)[None]).index[0, 0])
    said = world.arrays.parameters[0, c.STEP_OVERHEAD_S] + world.costs[index, 0] / world.arrays.parameters[0, c.FLOPS_PER_S]
    assert view.machine["slowdown"][0] == pytest.approx(np.log10(t[0, c.STEP_S] / said), abs=0.2)


def test_load_of_a_machine_that_rests_is_observed(scenario: dict[str, Any], threads: Any, monkeypatch: Any) -> None:
    """Two machines tell their pace; only the first is ever asked, and the second becomes four times as slow."""
    pace = 0.1
    monkeypatch.setattr(load, "LOOKS_S", 0.02)
    monkeypatch.setattr(load, "PART", 1e3)
    monkeypatch.setattr(load, "enough_pieces", lambda: 1)
    monkeypatch.setattr(load, "work", lambda pieces: pace)
    join(threads, scenario, server="127.0.0.1", tell_every_s=0.1)
    tiny = parse(scenario, "tiny")
    engine = RemoteEngine(threads, tiny.workload, tiny.fleet.machine_names, ear=Ear())
    engine.gather(20.0)
    env = MeasuredEnv(tiny, engine)
    observation, _ = env.reset(seed=SEED)
    greeted = split(observation).machine["slowdown"][:2]
    assert (greeted != 0.0).all()  # what the greeting timed
    first = np.zeros(17, dtype=np.float32)
    first[1:] = -1.0
    env.step(first)
    time.sleep(1.0)
    observation, _, _, _, info = env.step(first)
    assert info["status"] == ["done", "resting"]
    assert split(observation).machine["slowdown"][1] == pytest.approx(greeted[1], abs=1e-5)
    pace = 0.4
    time.sleep(1.0)
    observation, _, _, _, info = env.step(first)
    assert split(observation).machine["slowdown"][1] == pytest.approx(greeted[1] + np.log10(4.0), abs=1e-5)
    assert info["slowness"][tiny.fleet.machine_names[1]] == pytest.approx(10.0 ** (greeted[1] + np.log10(4.0)), rel=1e-4)
    engine.close()


def test_a_battery_is_observed_and_rests_at_its_reserve(scenario: dict[str, Any], threads: Any, tmp_path: Path) -> None:
    """The first of two machines has a battery of which a fifth is kept, the second is on mains and tells one all the same."""
    scenario["fleet"]["groups"][0]["battery"] = {"capacity_j": 72000.0, "reserve_fraction": 0.2}
    file = tmp_path / "capacity"
    file.write_text("60")
    join(threads, scenario, battery=file)
    tiny, lines = parse(scenario, "tiny"), list[str]()
    engine = RemoteEngine(threads, tiny.workload, tiny.fleet.machine_names, on_event=lines.append)
    engine.gather(20.0)
    env = MeasuredEnv(tiny, engine)
    observation, _ = env.reset(seed=SEED)
    assert split(observation).machine["charge"][:2].tolist() == pytest.approx([0.5, 1.0])
    assert split(observation).machine["available"][:2].tolist() == [1, 1]
    everyone = np.full(17, 0.4, dtype=np.float32)
    file.write_text("20")
    observation, _, _, _, info = env.step(everyone)
    first = tiny.fleet.machine_names[0]
    assert info["status"] == ["done", "done"]  # it was above when it was asked
    assert info["charge"] == dict.fromkeys(tiny.fleet.machine_names, 0.2)
    assert split(observation).machine["charge"][:2].tolist() == pytest.approx([0.0, 1.0])
    assert split(observation).machine["available"][:2].tolist() == [0, 1]
    assert lines[-1] == f"machine {first}: battery at 20%, not asked at or below its reserve of 20%"
    _, _, _, _, info = env.step(everyone)
    assert info["status"] == ["away", "done"]
    engine.roll.note_charge(0, 0.9)  # as a word would
    observation, *_ = env.step(everyone)
    assert split(observation).machine["available"][0] == 1
    assert lines[-1] == f"machine {first}: battery at 90%, asked again above its reserve of 20%"
    engine.close()


def test_a_lost_machine_is_observed_as_lost_and_away(scenario: dict[str, Any], threads: Any) -> None:
    join(threads, scenario)
    tiny: Scenario = parse(scenario, "tiny")
    engine = RemoteEngine(threads, tiny.workload, tiny.fleet.machine_names, deadline_s=2.0)
    engine.gather(20.0)
    env = MeasuredEnv(tiny, engine)
    observation, _ = env.reset(seed=SEED)
    env.step(np.full(17, 0.4, dtype=np.float32))
    threads.delay_s[10] = 5.0
    observation, _, _, _, info = env.step(np.full(17, 0.4, dtype=np.float32))
    view = split(observation)
    assert info["status"] == ["late", "done"]
    assert info["lost"] == ["machine new-gateway: nothing came back within the deadline of 2 s"]
    assert view.machine["last_outcome"][:2].tolist() == [-1, 1]
    assert view.machine["available"][:2].tolist() == [0, 1]
    threads.delay_s.clear()
    observation, _, _, _, info = env.step(np.full(17, 0.4, dtype=np.float32))
    assert info["status"] == ["away", "done"]


@pytest.mark.slow
def test_the_same_run_over_ray_ends_with_the_same_weights(scenario: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'intrafed[ray]'")
    from agents.ray_trial import play_over_ray

    seen: list[str] = []
    job = Job("fixed:0.5x2", scenario, SEED, str(tmp_path))
    told = play_over_ray(job, lambda event: seen.append(event["kind"]))
    assert seen.count("round") == told["result"]["rounds"] == ROUNDS
    assert equal(weights(tmp_path), replayed(scenario, told["decisions"]))
    assert play_over_ray(job) == told  # an ended run is read
