"""Real SuperLink, real SuperNodes, on the loopback interface: slow, since Flower starts a process for every message."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

pytest.importorskip("flwr", reason="Flower is not installed: pip install 'intrafed[flower]'")

from agents.flower_trial import play_trial
from agents.real_run import ENCODER, EVENTS, RESULT, Job
from envs.training import learner_seed
from fedcore.engines import InProcessEngine
from fedcore.flower.namespaces import Namespaces, lacking
from fedcore.workload import build_training, method_of, prepare_data, recipe_of
from scenarios import load, parse

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")]
SEED = 1_000_000


def scenario(rounds: int, deadline_s: float | None = None) -> dict[str, Any]:
    content = load("two-servers").model_dump(mode="json")
    content["budgets"].update(rounds=rounds, time_s=1e9, bytes=1e12, energy_j=1e12)
    content["workload"].update(image_px=16, batch_size=8, encoder_options={"widths": [8, 8, 8]}, precision="fp32")
    content["decision"].update(sync_intervals=[1, 2])
    content["reference"]["sync_interval"] = 2
    content["fleet"]["groups"][0]["images"] = 24
    return content


def replayed(content: dict[str, Any], decisions: list[dict[str, Any]], came: list[list[bool]]) -> dict[str, torch.Tensor]:
    tiny, seed = parse(content, "tiny"), learner_seed(SEED)
    data = prepare_data(tiny, seed=seed)
    engine = InProcessEngine(data.samples(), recipe_of(tiny.workload))
    training = build_training(tiny, data, None, seed, method_of(tiny.workload), engine=engine)
    for decision, back in zip(decisions, came, strict=True):
        training.play(decision["shares"], decision["steps"], back)
    return training.state


def rounds_of(folder: Path) -> list[dict[str, Any]]:
    events = [json.loads(line) for line in (folder / EVENTS).read_text().splitlines()]
    return [event for event in events if event["kind"] == "round"]


def ours(folder: Path) -> dict[int, str]:
    """Live processes whose command or environment names this folder: number -> command."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            environment = (entry / "environ").read_bytes().decode(errors="replace")
        except OSError:
            continue
        if command and (str(folder) in command or f"FLWR_HOME={folder}" in environment):
            found[int(entry.name)] = command
    found.pop(os.getpid(), None)
    return found


def test_weights_equal_those_in_process_bit_for_bit_and_nothing_is_left_running(tmp_path: Path) -> None:
    content = scenario(3)
    told = play_trial(Job("fixed:0.5x2", content, SEED, str(tmp_path)))
    assert told["result"]["rounds"] == 3
    state = replayed(content, told["decisions"], [[True, True]] * 3)
    weights = load_file(str(tmp_path / ENCODER))
    assert weights.keys() == state.keys()
    assert all(torch.equal(weights[name], state[name]) for name in state)
    assert ours(tmp_path) == {}


def test_a_node_killed_in_mid_run_is_lost_and_the_others_go_on(tmp_path: Path) -> None:
    content = scenario(3)
    content["decision"]["deadline_s"] = 60.0
    killed: list[int] = []

    def kill_one(event: dict[str, Any]) -> None:
        if event["kind"] == "round" and not killed:
            [node] = [n for n, command in ours(tmp_path).items() if "flower.worker --machine server-1" in command]
            killed.append(node)
            os.kill(node, signal.SIGKILL)

    told = play_trial(Job("fixed:0.5x2", content, SEED, str(tmp_path)), kill_one)
    rounds = rounds_of(tmp_path)
    assert [event["status"]["server-0"] for event in rounds] == ["done"] * 3
    came = [[True, event["status"]["server-1"] == "done"] for event in rounds]
    assert came[0][1]
    assert not came[-1][1]
    state = replayed(content, told["decisions"], came)
    weights = load_file(str(tmp_path / ENCODER))
    assert all(torch.equal(weights[name], state[name]) for name in state)
    assert ours(tmp_path) == {}


CUT_S = 30.0


@pytest.mark.skipif(bool(lacking()), reason=f"machines cannot be made out of this one: {lacking()}")
def test_a_connection_that_is_cut_for_half_a_minute_costs_time_and_no_block(tmp_path: Path) -> None:
    content = scenario(4)
    fleet = parse(content, "tiny").fleet
    hosts = Namespaces(fleet, [0.6, 0.6], np.random.default_rng(0))
    cut_off = fleet.machine_names[1]
    threads: list[threading.Thread] = []

    def cut() -> None:
        hosts.connect(cut_off, on=False)
        time.sleep(CUT_S)
        hosts.connect(cut_off, on=True)

    def on_event(event: dict[str, Any]) -> None:
        if event["kind"] == "round" and not threads:
            threads.append(threading.Thread(target=cut))
            threads[0].start()

    told = play_trial(Job("fixed:0.5x2", content, SEED, str(tmp_path)), on_event, hosts)
    threads[0].join()
    assert told["result"]["rounds"] == 4
    came = [[m["status"] == "done" for m in event["machines"].values()] for event in rounds_of(tmp_path)]
    seconds = [event["seconds"] for event in rounds_of(tmp_path)]
    assert max(seconds[1:]) > CUT_S - 5.0 or not all(all(both) for both in came)
    assert all(came[-1])
    state = replayed(content, told["decisions"], came)
    weights = load_file(str(tmp_path / ENCODER))
    assert all(torch.equal(weights[name], state[name]) for name in state)
    assert ours(tmp_path) == {}


PLAY = """
import json, sys
from agents.flower_trial import play_trial
from agents.real_run import Job
from scenarios.errors import told
with told("interrupted"):
    play_trial(Job(**json.load(open(sys.argv[1]))), lambda event: print(event["kind"], flush=True))
"""


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_ctrl_c_and_kill_leave_nothing_running_and_the_run_goes_on_from_there(tmp_path: Path, sent: signal.Signals) -> None:
    content, folder = scenario(3), tmp_path / "run"
    job = Job("fixed:0.5x2", content, SEED, str(folder))
    job.write(tmp_path / "job.json")
    command = [sys.executable, "-c", PLAY, str(tmp_path / "job.json")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.strip() == "round":
                break
        process.send_signal(sent)
        assert process.wait(60) == (130 if sent == signal.SIGINT else -9)
    until = time.monotonic() + 60
    while ours(folder):
        assert time.monotonic() < until, ours(folder)
        time.sleep(0.5)
    assert not (folder / RESULT).exists()
    told = play_trial(job)
    assert told["result"]["rounds"] == 3
    state = replayed(content, told["decisions"], [[True, True]] * 3)
    weights = load_file(str(folder / ENCODER))
    assert all(torch.equal(weights[name], state[name]) for name in state)
