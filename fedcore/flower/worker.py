"""The node's own process: listens at a local socket, trains what comes, and ends with whoever started it.

    python -m fedcore.flower.worker --machine NAME --data PATH --socket PATH
"""

from __future__ import annotations

import argparse
import json
import os
import socket
from pathlib import Path

from fedcore.flower.frames import receive_frame, send_frame
from fedcore.flower.node import TOLD
from fedcore.flower.processes import end_with_parent
from fedcore.remote.data import load_samples
from fedcore.remote.node import Node
from fedcore.wire import Packet
from scenarios.errors import told


def serve(node: Node, path: Path) -> None:
    """Answer messages at a socket, one at a time, for ever.

    Args:
        node: who answers.
        path: of the socket; only this user may connect.
    """
    path.unlink(missing_ok=True)
    early = path.with_name(f"{path.name}-")
    early.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        before = os.umask(0o177)
        try:
            listener.bind(str(early))
        finally:
            os.umask(before)
        listener.listen()
        early.rename(path)  # whoever sees it is answered
        while True:
            connection, _ = listener.accept()
            with connection:
                try:
                    reply = node.answer(receive_frame(connection))
                    send_frame(connection, _telemetry(reply))
                    send_frame(connection, reply)
                except ConnectionError:
                    continue  # who asked is gone; the server hears of that from Flower


def _telemetry(reply: bytes) -> bytes:
    """Numbers of an answer for Flower's own records; the answer itself has them too."""
    values = Packet.from_bytes(reply, "this node").values
    names = ("loss", "steps", "samples", "compute_s", "node_s", "joules")
    return json.dumps({name: values[name] for name in names if values.get(name) is not None}).encode()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--machine", required=True, help="name in the scenario")
    parser.add_argument("--data", required=True, type=Path, help="folder, zip or npz of this machine's own images")
    parser.add_argument("--socket", required=True, type=Path)
    parser.add_argument("--folder", type=Path, help="where it keeps what it remembers; the socket's by default")
    parser.add_argument("--meter", type=Path, help="file that a meter keeps writing this machine's joules to")
    parser.add_argument("--battery", type=Path, help="file that holds its battery's charge in percent")
    parser.add_argument("--server", help="host that is told this machine's load, where it listens")
    options = parser.parse_args()
    end_with_parent()
    folder = options.folder or options.socket.parent
    node = Node(
        options.machine, lambda workload: load_samples(options.data, workload), folder, options.meter, options.server,
        battery=options.battery, tell_operator=lambda text: print(f"{TOLD}{text}", flush=True),
    )  # fmt: skip
    serve(node, options.socket)


if __name__ == "__main__":
    with told("interrupted"):
        main()
