"""Starting Flower's processes for a trial: a SuperLink, a node per machine, and the run, all on this machine."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from fedcore.flower.app import CONNECTION, write_app, write_connection
from fedcore.flower.hosts import Hosts
from fedcore.flower.node import SOCKET, supernode_command, wait_for_socket, worker_command
from fedcore.flower.processes import Processes, flower_environment, free_ports, wait_for_port
from fedcore.flower.words import reason
from fedcore.parallel import WORKER_ENVIRONMENT
from scenarios.errors import InputError

STARTS_S = 120.0


def need_flower() -> None:
    """Refuse to go on without Flower.

    Raises:
        InputError: it is not installed.
    """
    if find_spec("flwr") is None:
        raise InputError("--engine flower needs Flower, which is not installed: pip install 'intrafed[flower]'")


class Superlink:
    """A SuperLink of our own.

    Args:
        hosts: where it listens and machines live.
        processes: that it is started among.
        folder: of its logs and of Flower's files.
        short: folder with a short path, for sockets.

    Raises:
        InputError: it does not start.
    """

    def __init__(self, hosts: Hosts, processes: Processes, folder: Path, short: Path) -> None:
        self.hosts, self.folder, self.short, self._processes = hosts, folder, short, processes
        [self.port] = free_ports(1)
        self.environment = flower_environment(folder / "flower")
        # It starts one process a run: looking for tasks as often as nodes do would be work for nothing.
        environment = self.environment | {"FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "1"}
        command = ["flower-superlink", "--insecure", "--disable-runtime-dependency-installation"]
        command += ["--host", hosts.server, "--port", str(self.port)]
        log = folder / "superlink.log"
        self.process = processes.start(command, log, environment)
        if not wait_for_port(hosts.server, self.port, STARTS_S, self.process):
            raise InputError(f"the SuperLink has not started; see {log}")
        write_connection(folder / "flower", self.address, None)

    @property
    def address(self) -> str:
        """host:port."""
        return f"{self.hosts.server}:{self.port}"

    def start_worker(self, machine: str, data: Path) -> subprocess.Popen[bytes]:
        """A machine's training process; `start_supernode` waits for it."""
        command = worker_command(machine, data, self._socket(machine), self.folder / machine, self.hosts.server)
        environment = WORKER_ENVIRONMENT | self.environment
        return self._processes.start(self.hosts.computing(machine, command), self._log(machine), environment)

    def start_supernode(self, machine: str, worker: subprocess.Popen[bytes]) -> subprocess.Popen[bytes]:
        """A machine's SuperNode, once its worker listens; raises InputError where that does not start."""
        wait_for_socket(self._socket(machine), worker, self._log(machine))
        [port] = free_ports(1)
        command = supernode_command(self.address, machine, self._socket(machine), port, ["--insecure"])
        return self._processes.start(self.hosts.networked(machine, command), self._log(machine), self.environment)

    def _socket(self, machine: str) -> Path:
        folder = self.short / machine
        folder.mkdir(parents=True, exist_ok=True)
        return folder / SOCKET

    def _log(self, machine: str) -> Path:
        return self.folder / machine / "node.log"


def submit(folder: Path, environment: Mapping[str, str], server_app: str, job: Path) -> str:
    """Start a run at the SuperLink that `app.write_connection` named.

    Args:
        folder: where the app is written.
        environment: with the FLWR_HOME that has the connection.
        server_app: "module:attribute" of the ServerApp.
        job: file that it reads, on the SuperLink's machine.

    Returns:
        The run's number, by which `flwr stop` ends it; empty where Flower does not say it.

    Raises:
        InputError: the SuperLink does not take it.
    """
    app = folder / "app"
    shutil.rmtree(app, ignore_errors=True)
    write_app(app, server_app)
    command = ["flwr", "run", str(app), CONNECTION, "--run-config", f'job="{job}"']
    done = subprocess.run(
        command, env=dict(environment), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=STARTS_S
    )
    if done.returncode != 0:
        why = reason(f"{done.stdout}\n{done.stderr}") or "no reason given"
        raise InputError(f"the SuperLink has not taken the run: {why}")
    found = re.search(r"run\D{0,20}(\d{6,})", done.stdout + done.stderr)
    return found.group(1) if found else ""
