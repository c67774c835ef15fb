"""A node of a real run: this machine's data stay here, blocks come and go over Flower.

    python -m fedcore.flower.node --superlink HOST:8000 --machine NAME --data PATH --root-certificates ca.crt --key node

NAME is the machine's name in the scenario, PATH a folder, a zip or an npz of its images. `--insecure` does without TLS and
without keys, for trials on one machine.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from fedcore.claim import claimed
from fedcore.files import slug
from fedcore.flower.processes import Processes, flower_environment, free_ports
from fedcore.flower.words import LONGEST, plain_lines
from fedcore.parallel import WORKER_ENVIRONMENT
from fedcore.remote.battery import read_charge
from fedcore.remote.meter import read_joules
from scenarios.errors import InputError, told

SOCKET = "socket"
STARTS_S = 120.0
REFUSED = "Failed to activate SuperNode"
"""What a SuperNode says that the SuperLink does not let in: its key is not registered, or its last node, which may have been
killed, still counts as connected."""
TOLD = "intrafed: "
"""How a line of the log begins that is for the machine's operator."""
PATIENCE_S, AGAIN_S = 150.0, 5.0
"""A killed node counts as connected until the SuperLink misses its heartbeats, a minute or two; between two tries."""


def host_of(address: str) -> str:
    """The host of host:port."""
    return address.rpartition(":")[0].strip("[]")


def worker_command(machine: str, data: Path, socket: Path, folder: Path, server: str, **files: Path | None) -> list[str]:
    """The process that trains, and tells the server's host its load; `files` are its `--meter` and its `--battery`."""
    return [
        sys.executable, "-m", "fedcore.flower.worker", "--machine", machine, "--data", str(data), "--socket", str(socket),
        "--folder", str(folder), "--server", server,
        *(part for name, file in files.items() if file is not None for part in (f"--{name}", str(file.resolve()))),
    ]  # fmt: skip


def supernode_command(superlink: str, machine: str, socket: Path, port: int, safety: list[str]) -> list[str]:
    """The process that talks to the SuperLink; `safety` is its TLS and key options, or --insecure."""
    config = f"machine={json.dumps(machine)} socket={json.dumps(str(socket))}"
    return ["flower-supernode", *safety, "--superlink", superlink, "--port", str(port), "--node-config", config]


def wait_for_socket(path: Path, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until the worker listens.

    Raises:
        InputError: it ended instead, or took too long.
    """
    until = time.monotonic() + STARTS_S
    while not path.exists():
        if process.poll() is not None or time.monotonic() > until:
            raise InputError(f"the node's worker has not started; see {log}")
        time.sleep(0.05)


class Log:
    """What a node's processes print, as it comes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._read = self._begun = path.stat().st_size if path.is_file() else 0

    def begin(self) -> None:
        """What was said so far is another process's."""
        self._begun = self.path.stat().st_size if self.path.is_file() else 0

    def said(self) -> str:
        """Everything since."""
        return self._from(self._begun).decode("utf-8", "replace")

    def news(self) -> list[str]:
        """What the worker has had to say to this machine's operator since the last call."""
        content = self._from(self._read)
        whole = content[: content.rfind(b"\n") + 1]
        self._read += len(whole)
        lines = whole.decode("utf-8", "replace").splitlines()
        return [line.removeprefix(TOLD) for line in lines if line.startswith(TOLD)]

    def _from(self, at: int) -> bytes:
        with self.path.open("rb") as file:
            file.seek(at)
            return file.read()


def keep_connected(start: Callable[[], subprocess.Popen[bytes]], worker: subprocess.Popen[bytes], log: Log) -> None:
    """Keep a SuperNode running for as long as the SuperLink lets it in, and pass on what the worker says.

    Args:
        start: starts the SuperNode.
        worker: that trains.
        log: of both.

    Raises:
        InputError: either has ended for good.
    """
    log.begin()
    node, began, refused_at = start(), time.monotonic(), 0.0
    while True:
        for line in log.news():
            print(line, flush=True)
        if worker.poll() is not None:
            raise InputError(f"the worker has ended; see {log.path}")
        if node.poll() is not None:
            now = time.monotonic()
            if now - began > PATIENCE_S:
                refused_at = 0.0  # it was in for long
            refused_at = refused_at or now
            if REFUSED not in log.said() or now - refused_at > PATIENCE_S:
                last = plain_lines(log.said())
                why = next((line for line in reversed(last) if "rror" in line or "xit" in line or "ailed" in line), "")
                raise InputError(f"the SuperNode has ended{f' ({why[:LONGEST]})' if why else ''}; see {log.path}")
            if refused_at == now:
                print(
                    "the SuperLink does not let this machine in yet: its last node may still count as connected there, for a "
                    f"minute or two, or its key is not registered; trying again for {PATIENCE_S:.0f} s", flush=True,
                )  # fmt: skip
            time.sleep(AGAIN_S)
            log.begin()
            node, began = start(), time.monotonic()
        time.sleep(0.5)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=str(__doc__).split("\n\n")[0], epilog="docs/deploy.md has the whole procedure, keys included."
    )
    parser.add_argument("--superlink", required=True, help="host:port of the SuperLink")
    parser.add_argument("--machine", required=True, help="this machine's name in the scenario")
    parser.add_argument("--data", required=True, type=Path, help="folder, zip or npz of its own images")
    parser.add_argument("--root-certificates", type=Path, help="certificate of who signed the SuperLink's")
    parser.add_argument("--key", type=Path, help="this node's private key; its public key is registered at the SuperLink")
    parser.add_argument("--insecure", action="store_true", help="no TLS, no keys: trials only")
    parser.add_argument("--meter", type=Path, help="file that a meter keeps writing this machine's joules to")
    parser.add_argument("--battery", type=Path, help="file that holds its battery's charge in percent, kept up to date")
    parser.add_argument("--folder", type=Path, help="of its log and what it remembers; node-NAME by default")
    options = parser.parse_args()
    if not options.machine:
        raise InputError("--machine is empty, expected this machine's name in the scenario")
    if not host_of(options.superlink) or not options.superlink.rpartition(":")[2].isdigit():
        raise InputError(f"--superlink is {options.superlink!r}, expected host:port, such as server.example:8000")
    if not options.data.exists():
        raise InputError(f"--data {options.data} does not exist, expected a folder, a zip or an npz of images")
    if options.meter is not None:
        read_joules(options.meter)
    if options.battery is not None:
        read_charge(options.battery)
    if options.insecure == (options.root_certificates is not None):
        raise InputError("give --root-certificates FILE, or --insecure for a trial without TLS: expected one of them")
    safety = ["--insecure"]
    if not options.insecure:
        safety = ["--root-certificates", str(options.root_certificates)]
        if options.key is not None:
            safety += ["--auth-supernode-private-key", str(options.key)]
    for path in (options.root_certificates, options.key):
        if path is not None and not path.is_file():
            raise InputError(f"{path} does not exist, expected a file; docs/deploy.md says how it is made")
    if options.data.is_dir() and not any(options.data.iterdir()):
        raise InputError(f"--data {options.data} is empty, expected a folder, a zip or an npz of images")
    folder: Path = (options.folder or Path(f"node-{slug(options.machine)}")).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "node.log"
    log.touch()
    # A socket's path may have some hundred characters at most, which a lab's folders easily have more of.
    with claimed(folder, "node"), tempfile.TemporaryDirectory(prefix="intrafed-") as short, Processes() as processes:
        socket = Path(short) / SOCKET
        environment = flower_environment(folder / "flower")
        command = worker_command(
            options.machine, options.data.resolve(), socket, folder, host_of(options.superlink), meter=options.meter,
            battery=options.battery,
        )  # fmt: skip
        worker = processes.start(command, log, WORKER_ENVIRONMENT | environment)
        wait_for_socket(socket, worker, log)

        def start() -> subprocess.Popen[bytes]:
            [port] = free_ports(1)
            return processes.start(
                supernode_command(options.superlink, options.machine, socket, port, safety), log, environment
            )

        print(f"machine {options.machine} goes to {options.superlink}; Ctrl-C ends it; log: {log}", flush=True)
        keep_connected(start, worker, Log(log))


if __name__ == "__main__":
    with told("interrupted: the node takes no part any more"):
        main()
