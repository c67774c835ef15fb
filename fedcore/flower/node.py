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
from pathlib import Path

from fedcore.flower.processes import Processes, flower_environment, free_ports
from fedcore.parallel import WORKER_ENVIRONMENT
from fedcore.remote.battery import read_charge
from fedcore.remote.meter import read_joules
from scenarios.errors import InputError, told

SOCKET = "socket"
STARTS_S = 120.0


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
    parser.add_argument("--folder", type=Path, default=Path("node"), help="of its log and what it remembers")
    options = parser.parse_args()
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
    folder: Path = options.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "node.log"
    # A socket's path may have some hundred characters at most, which a lab's folders easily have more of.
    with tempfile.TemporaryDirectory(prefix="intrafed-") as short, Processes() as processes:
        socket = Path(short) / SOCKET
        environment = flower_environment(folder / "flower")
        command = worker_command(
            options.machine, options.data.resolve(), socket, folder, host_of(options.superlink), meter=options.meter,
            battery=options.battery,
        )  # fmt: skip
        worker = processes.start(command, log, WORKER_ENVIRONMENT | environment)
        wait_for_socket(socket, worker, log)
        [port] = free_ports(1)
        node = processes.start(supernode_command(options.superlink, options.machine, socket, port, safety), log, environment)
        print(f"machine {options.machine} takes part at {options.superlink}; Ctrl-C ends it; log: {log}", flush=True)
        while node.poll() is None and worker.poll() is None:
            time.sleep(0.5)
        raise InputError(f"the {'SuperNode' if worker.poll() is None else 'worker'} has ended; see {log}")


if __name__ == "__main__":
    with told("interrupted: the node takes no part any more"):
        main()
