"""Real SuperLink, real SuperNodes, on the loopback interface: slow, since Flower starts a process for every message."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("flwr", reason="Flower is not installed: pip install 'intrafed[flower]'")

from agents.real_run import RESULT
from fedcore.flower.namespaces import Namespaces, lacking

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")]


def test_weights_equal_those_in_process_bit_for_bit_and_nothing_is_left_running(trial: Callable[..., Any]) -> None:
    three = trial(3)
    told = three.play()
    assert told["result"]["rounds"] == 3
    assert three.ends_as_in_process(told["decisions"], [[True, True]] * 3)
    assert three.processes() == {}


def test_a_node_killed_in_mid_run_is_lost_and_the_others_go_on(trial: Callable[..., Any]) -> None:
    three = trial(3, deadline_s=60.0)
    killed: list[int] = []

    def kill_one(event: dict[str, Any]) -> None:
        if event["kind"] == "round" and not killed:
            [node] = [n for n, command in three.processes().items() if "flower.worker --machine server-1" in command]
            killed.append(node)
            os.kill(node, signal.SIGKILL)

    told = three.play(kill_one)
    assert three.statuses("server-0") == ["done"] * 3
    assert three.statuses("server-1")[0] == "done" != three.statuses("server-1")[-1]
    assert three.ends_as_in_process(told["decisions"], three.came())
    assert three.processes() == {}


CUT_S = 30.0


@pytest.mark.skipif(bool(lacking()), reason=f"machines cannot be made out of this one: {lacking()}")
def test_a_connection_that_is_cut_for_half_a_minute_costs_time_and_no_block(trial: Callable[..., Any]) -> None:
    four = trial(4)
    hosts = Namespaces(four.scenario.fleet, [0.6, 0.6], np.random.default_rng(0))
    threads: list[threading.Thread] = []

    def cut() -> None:
        hosts.connect("server-1", on=False)
        time.sleep(CUT_S)
        hosts.connect("server-1", on=True)

    def on_event(event: dict[str, Any]) -> None:
        if event["kind"] == "round" and not threads:
            threads.append(threading.Thread(target=cut))
            threads[0].start()

    told = four.play(on_event, hosts)
    threads[0].join()
    assert told["result"]["rounds"] == 4
    came = [[m["status"] == "done" for m in event["machines"].values()] for event in four.events()]
    seconds = [event["seconds"] for event in four.events()]
    assert came == [[True, True]] * 4, four.lines()
    assert max(seconds[1:]) > CUT_S - 5.0
    assert four.ends_as_in_process(told["decisions"], came)
    assert four.processes() == {}


PLAY = """
import json, sys
from agents.flower_trial import play_trial
from agents.real_run import Job
from scenarios.errors import told
with told("interrupted"):
    play_trial(Job(**json.load(open(sys.argv[1]))), lambda event: print(event["kind"], flush=True))
"""


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_ctrl_c_and_kill_leave_nothing_running_and_the_run_goes_on_from_there(
    trial: Callable[..., Any], tmp_path: Path, sent: signal.Signals
) -> None:
    three = trial(3)
    three.job.write(tmp_path / "job.json")
    command = [sys.executable, "-c", PLAY, str(tmp_path / "job.json")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.strip() == "round":
                break
        process.send_signal(sent)
        assert process.wait(60) == (130 if sent == signal.SIGINT else -9)
    until = time.monotonic() + 60
    while three.processes():
        assert time.monotonic() < until, three.processes()
        time.sleep(0.5)
    assert not (three.folder / RESULT).exists()
    told = three.play()
    went_on = [line for line in three.lines() if line.startswith("going on from the checkpoint after round ")]
    assert went_on in (["going on from the checkpoint after round 1"], ["going on from the checkpoint after round 2"])
    assert told["result"]["rounds"] == 3
    assert three.ends_as_in_process(told["decisions"], [[True, True]] * 3)
