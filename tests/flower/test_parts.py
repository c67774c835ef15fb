"""The parts around Flower that need no Flower: processes that end together, the node's socket, the app's files."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
import tomllib
from pathlib import Path

import pytest
import torch

from fedcore.flower import superlink
from fedcore.flower.app import write_app, write_connection
from fedcore.flower.frames import ask
from fedcore.flower.node import supernode_command
from fedcore.flower.processes import Processes, flower_environment, free_ports
from fedcore.flower.worker import serve
from fedcore.remote.node import Node
from fedcore.samples import Samples
from fedcore.wire import Packet
from scenarios import InputError
from scenarios.schema import Workload

ROOT = Path(__file__).parents[2]
WORKLOAD = Workload(image_px=12)


def alive(number: int) -> bool:
    status = Path(f"/proc/{number}/stat")
    return status.exists() and status.read_text().rsplit(")", 1)[1].split()[0] != "Z"


def test_without_flower_one_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setattr(superlink, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"^--engine flower needs Flower.*pip install 'intrafed\[flower\]'$"):
        superlink.need_flower()


STUBBORN = "import signal, subprocess, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
FAMILY = f"""
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", {STUBBORN!r}])
other = subprocess.Popen([sys.executable, "-c", {STUBBORN!r}], start_new_session=True)
open(sys.argv[1], "w").write(f"{{child.pid}} {{other.pid}}")
time.sleep(600)
"""


def started(path: Path) -> list[int]:
    until = time.monotonic() + 60
    while not path.exists() or not path.read_text():
        assert time.monotonic() < until
        time.sleep(0.05)
    return [int(number) for number in path.read_text().split()]


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
def test_leaving_the_context_ends_whole_groups_even_deaf_ones_in_sessions_of_their_own(tmp_path):
    numbers = []

    def fail() -> None:
        with Processes() as processes:
            parent = processes.start([sys.executable, "-c", FAMILY, str(tmp_path / "child")], tmp_path / "log", os.environ)
            numbers.extend([parent.pid, *started(tmp_path / "child")])
            assert all(alive(number) for number in numbers)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert not any(alive(number) for number in numbers)


OWNER = """
import os, sys, time
from pathlib import Path
from fedcore.flower.processes import Processes
with Processes() as processes:
    child = processes.start([sys.executable, "-c", "import time; time.sleep(600)"], Path(sys.argv[1] + ".log"), os.environ)
    open(sys.argv[1], "w").write(str(child.pid))
    time.sleep(600)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="children follow a killed parent on Linux only")
@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_killed_owner_takes_its_children_along(tmp_path, sent):
    def hears_ctrl_c() -> None:
        # Whatever runs the tests in the background may have had it ignored.
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    command = [sys.executable, "-c", OWNER, str(tmp_path / "child")]
    with subprocess.Popen(command, cwd=ROOT, preexec_fn=hears_ctrl_c) as owner:
        try:
            [child] = started(tmp_path / "child")
            owner.send_signal(sent)
            owner.wait(30)
        finally:
            owner.kill()
    until = time.monotonic() + 30
    while alive(child):
        assert time.monotonic() < until
        time.sleep(0.05)


def test_the_worker_answers_at_a_socket_that_only_its_user_may_open(tmp_path):
    path = tmp_path / "socket"
    node = Node("north", lambda workload: Samples(torch.zeros(5, 1, 12, 12, dtype=torch.uint8)))
    threading.Thread(target=serve, args=(node, path), daemon=True).start()
    until = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < until
        time.sleep(0.01)
    assert path.stat().st_mode & 0o077 == 0
    hello = Packet({"kind": "hello", "workload": WORKLOAD.model_dump_json()}, {}).to_bytes()
    for message, kind in ((hello, "hello"), (b"nonsense", "failed"), (hello, "hello")):
        telemetry, reply = ask(str(path), message)
        values = Packet.from_bytes(reply, "north").values
        assert values["kind"] == kind
        assert json.loads(telemetry)["node_s"] == values["node_s"] >= 0


def test_the_app_is_names_of_installed_code_and_nothing_else(tmp_path):
    write_app(tmp_path, "agents.flower_server:app")
    assert [path.name for path in tmp_path.iterdir()] == ["pyproject.toml"]
    flwr = tomllib.loads((tmp_path / "pyproject.toml").read_text())["tool"]["flwr"]["app"]
    assert flwr["components"] == {"serverapp": "agents.flower_server:app", "clientapp": "fedcore.flower.client:app"}
    write_connection(tmp_path / "home", "127.0.0.1:9", None)
    assert tomllib.loads((tmp_path / "home" / "config.toml").read_text())["superlink"]["intrafed"]["insecure"] is True
    write_connection(tmp_path / "home", "h:9", tmp_path / "ca.crt")
    connection = tomllib.loads((tmp_path / "home" / "config.toml").read_text())["superlink"]["intrafed"]
    assert connection == {"address": "h:9", "root-certificates": str(tmp_path / "ca.crt")}


def test_flowers_processes_send_nothing_home(tmp_path):
    environment = flower_environment(tmp_path)
    assert environment["FLWR_TELEMETRY_ENABLED"] == "0"
    assert environment["FLWR_HOME"] == str(tmp_path)
    assert len(set(free_ports(3))) == 3


def test_names_and_paths_are_quoted_for_flower(tmp_path):
    command = supernode_command("h:1", 'a "b"', tmp_path / "socket", 5, ["--insecure"])
    assert command[-1].startswith('machine="a \\"b\\"" socket="')


def node_script(*arguments: str, cwd: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "fedcore.flower.node", "--superlink", "h:1", "--machine", "m", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, check=False)


@pytest.mark.parametrize(("arguments", "words"), [
    (["--data", "nowhere", "--insecure"], "--data nowhere does not exist"),
    (["--data", "."], "give --root-certificates FILE, or --insecure"),
    (["--data", ".", "--root-certificates", "ca.crt"], "ca.crt does not exist"),
])  # fmt: skip
def test_a_node_refuses_bad_input_in_a_sentence(tmp_path, arguments, words):
    done = node_script(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr
