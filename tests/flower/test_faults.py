"""Faults over a real SuperLink and real SuperNodes: a hostile node, impostors, strangers' keys, a return."""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("flwr", reason="Flower is not installed: pip install 'intrafed[flower]'")

from agents.flower_trial import deal_data
from fedcore.flower.app import write_connection
from fedcore.flower.hosts import Loopback
from fedcore.flower.processes import Processes, flower_environment, free_ports, wait_for_port

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")]

ON_ROUND = {
    1: "is not finite",
    2: "is absurd beside weights",
    3: "array trained is",
    4: "sent a block of round 3, expected round 4",
    5: "sent a block as machine 'server-0', expected its own",
    6: "does not begin as ours do",
    7: "nothing came back within the deadline of 20 s",
}


def every_process() -> dict[int, str]:
    """Number of every process -> its command line."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found[int(path.parent.name)] = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
    return found


class OneHostile(Loopback):
    """server-1 runs hostile.py in place of its worker."""

    def computing(self, machine: str, command: Sequence[str]) -> list[str]:
        if machine != "server-1":
            return list(command)
        at = list(command).index("-m")
        return [*command[:at], str(Path(__file__).with_name("hostile.py")), *command[at + 2 :]]


def test_whatever_a_hostile_node_sends_is_refused_by_name_and_leaves_no_trace(trial: Callable[..., Any]) -> None:
    ten = trial(10, deadline_s=20.0)
    told = ten.play(hosts=nullcontext(OneHostile()))
    for round_index, words in ON_ROUND.items():
        about = [line for line in ten.lines() if line.startswith(f"round {round_index}:") and "server-1" in line]
        assert len(about) == 1, ten.lines()
        assert words in about[0]
    assert told["result"]["rounds"] == 10
    assert ten.came() == [[True, round_index == 0] for round_index in range(10)]
    assert ten.statuses("server-1")[7:] == ["late", "away", "away"]
    assert ten.ends_as_in_process(told["decisions"], ten.came())
    assert ten.processes() == {}


def node_command(address: str, machine: str, data: Path, folder: Path, *safety: str) -> list[str]:
    return [
        sys.executable, "-m", "fedcore.flower.node", "--superlink", address, "--machine", machine, "--data", str(data),
        "--folder", str(folder), *(safety or ("--insecure",)),
    ]  # fmt: skip


def address_of(folder: Path) -> str:
    found = re.search(r'address = "([^"]+)"', (folder / "flower" / "config.toml").read_text())
    assert found is not None
    return found[1]


@contextmanager
def nodes() -> Iterator[Callable[[list[str], Path], subprocess.Popen[bytes]]]:
    """Starts nodes as their operators do, and ends them as Ctrl-C does."""
    with ExitStack() as stack:
        started: list[subprocess.Popen[bytes]] = []

        def start(command: list[str], log: Path) -> subprocess.Popen[bytes]:
            file = stack.enter_context(log.open("wb"))
            started.append(subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True))
            return started[-1]

        try:
            yield start
        finally:
            for node in started:
                node.send_signal(signal.SIGINT)
            for node in started:
                assert node.wait(30) in (2, 130, -signal.SIGKILL)  # the last by a test


def test_a_killed_node_that_is_started_again_takes_part_again(trial: Callable[..., Any], tmp_path: Path) -> None:
    many = trial(40, deadline_s=20.0)
    killed: list[int] = []

    with nodes() as start:

        def on_event(event: dict[str, Any]) -> None:
            if event["kind"] != "round":
                return
            if event["round"] == 1:
                killed.extend(
                    n for n, command in many.processes().items()
                    if "flower.worker --machine server-1" in command
                    or ("flower-supernode" in command and 'machine="server-1"' in command)
                )  # fmt: skip
                assert len(killed) == 2
                for process in killed:
                    os.kill(process, signal.SIGKILL)
            if event["round"] == 3:
                data = many.folder / "server-1"
                start(node_command(address_of(many.folder), "server-1", data, tmp_path / "again"), tmp_path / "again.log")

        told = many.play(on_event)
    statuses = many.statuses("server-1")
    assert statuses[0] == "done"
    assert "done" not in statuses[1:3]
    assert statuses.count("done") > 3, many.lines()
    assert statuses[-1] == "done"
    assert any("machine server-1 is back" in line for line in many.lines())
    assert many.ends_as_in_process(told["decisions"], many.came())
    assert many.processes() == {}


def test_impostors_and_strangers_are_turned_away(trial: Callable[..., Any], tmp_path: Path) -> None:
    many = trial(16, deadline_s=30.0)

    with nodes() as start:

        def on_event(event: dict[str, Any]) -> None:
            if event["kind"] == "round" and event["round"] == 1:
                for name in ("server-0", "nobody"):
                    folder, data = tmp_path / name, many.folder / "server-1"
                    start(node_command(address_of(many.folder), name, data, folder), tmp_path / f"{name}.log")

        told = many.play(on_event)
    turned = [line for line in many.lines() if line.startswith("turned away")]
    assert len(turned) == 2, many.lines()
    assert any("says it is machine server-0, which node" in line for line in turned), turned
    assert any("says it is machine 'nobody', expected one of server-0, server-1" in line for line in turned), turned
    assert many.came() == [[True, True]] * 16
    assert many.ends_as_in_process(told["decisions"], many.came())


@pytest.mark.skipif(any(shutil.which(name) is None for name in ("openssl", "ssh-keygen")), reason="needs openssl, ssh-keygen")
def test_registered_keys_are_let_in_over_tls_and_an_unregistered_one_is_not(trial: Callable[..., Any], tmp_path: Path) -> None:
    """docs/deploy.md, its own commands, on the loopback interface."""
    page = (Path(__file__).parents[2] / "docs" / "deploy.md").read_text()
    [certificates] = re.findall(r"```bash\n( *mkdir -p keys.*?)```", page, re.DOTALL)
    [keygen] = re.findall(r"^ssh-keygen.*?(?= *#)", page, re.MULTILINE)
    [superlink] = re.findall(r"(flower-superlink --ssl.*?)\n *```", page, re.DOTALL)
    [register] = re.findall(r"flwr supernode register .*", page)
    [port] = free_ports(1)
    environment = flower_environment(tmp_path / "flower")

    def shell(command: str) -> None:
        done = subprocess.run(
            ["bash", "-ec", command], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr

    two = trial(2)
    deal_data(two.job)
    shell(certificates.replace("SERVER", "localhost"))
    for name in ("server-0", "server-1", "insider", "stranger"):
        shell(keygen.replace("node-key", f"{name}-key"))
    with Processes() as processes, nodes() as start:
        command = superlink.replace("--port 8000", f"--port {port}").replace("0.0.0.0", "127.0.0.1").replace("\\\n", " ")
        link = processes.start(["bash", "-ec", f"cd {tmp_path} && exec {command}"], tmp_path / "superlink.log", environment)
        assert wait_for_port("127.0.0.1", port, 60.0, link), (tmp_path / "superlink.log").read_text()
        write_connection(tmp_path / "flower", f"localhost:{port}", tmp_path / "keys" / "ca.crt")
        for name in ("server-0", "server-1", "insider"):
            shell(register.replace("node-key.pub lab", f"{name}-key.pub intrafed").replace("NAME", name))
        safety = ["--root-certificates", str(tmp_path / "keys" / "ca.crt")]
        for name, machine in (
            ("stranger", "server-0"), ("insider", "server-0"), ("server-0", "server-0"), ("server-1", "server-1"),
        ):  # fmt: skip
            safe = [*safety, "--key", str(tmp_path / f"{name}-key")]
            command_ = node_command(f"localhost:{port}", machine, two.folder / machine, tmp_path / name, *safe)
            start(command_, tmp_path / f"{name}.log")
        (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(two.content))

        def submitted(out: str, *options: str) -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                [sys.executable, "-m", "agents.flower_submit", "--scenario", str(tmp_path / "tiny.yaml"), "--agent", "equal",
                 "--superlink", f"localhost:{port}", *(options or safety), "--out", str(tmp_path / out)],
                capture_output=True, text=True, check=False, timeout=400,
            )  # fmt: skip

        def plays(out: str) -> str:
            run = submitted(out)
            assert run.returncode == 0, run.stderr + run.stdout
            assert "round 2:" in run.stdout
            assert "server-0 done, server-1 done" in run.stdout
            return run.stdout

        turned = [line for line in plays("out").splitlines() if "turned away" in line]
        assert len(turned) == 1, turned  # the stranger did not even come to say who it is
        assert "says it is machine 'server-0', but its key is registered as 'insider'" in turned[0]
        assert "Failed to activate SuperNode" in (tmp_path / "stranger" / "node.log").read_text()
        assert "does not let this machine in yet" in (tmp_path / "stranger.log").read_text()
        assert "greeted by the server; " in (tmp_path / "server-1.log").read_text()
        without_tls = submitted("none", "--load-port", "0")
        assert without_tls.returncode == 2
        assert "has not taken the run: " in without_tls.stderr
        assert "onnection" in without_tls.stderr

        # Killed, and started again at once, while the SuperLink still counts it as connected; then the SuperLink itself.
        mine = f"{tmp_path / 'server-1'}"
        for number, told in every_process().items():
            if "server-1-key" in told or mine in told:
                os.kill(number, signal.SIGKILL)
        start(command_, tmp_path / "server-1-again.log")
        processes.stop(link, signal.SIGKILL)
        link = processes.start(["bash", "-ec", f"cd {tmp_path} && exec {command}"], tmp_path / "superlink.log", environment)
        assert wait_for_port("127.0.0.1", port, 60.0, link), (tmp_path / "superlink.log").read_text()
        plays("again")
