"""What Flower adds to the bytes that a run reports: `python benchmarks/flower_bytes.py`.

A trial of Flower on this machine without TLS, its SuperNodes connected to the SuperLink through a proxy that counts: every
byte of TCP's payload in either direction, HTTP, protobuf and all questions for work included. The first round is left out: its
count has the greeting in it.
"""

from __future__ import annotations

import socket
import tempfile
import threading
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from agents.benchmark import HELD_OUT_SEED
from agents.flower_trial import play_trial
from agents.real_run import Job
from fedcore.flower.hosts import Loopback
from scenarios import load


@dataclass(frozen=True)
class Options:
    """What Flower adds to the bytes that a run reports.

    Attributes:
        scenario: whose fleet and workload.
        agent: who decides.
        widths: of the encoder's layers, () is the scenario's own.
        rounds: to play.
    """

    scenario: str = "two-servers"
    agent: str = "fixed:0.5x2"
    widths: tuple[int, ...] = ()
    rounds: int = 8


class Counting(Loopback):
    """The loopback interface, with a proxy before the SuperLink.

    Attributes:
        up: bytes from SuperNodes so far.
        down: bytes to them.
    """

    def __init__(self) -> None:
        self.up = self.down = 0
        self._link = ("", 0)
        self._listener = socket.create_server((self.server, 0))
        threading.Thread(target=self._accept, daemon=True).start()

    def networked(self, machine: str, command: Sequence[str]) -> list[str]:
        """See `Hosts.networked`."""
        at = list(command).index("--superlink") + 1
        host, _, port = command[at].rpartition(":")
        self._link = (host, int(port))
        return [*command[:at], f"{self.server}:{self._listener.getsockname()[1]}", *command[at + 1 :]]

    def _accept(self) -> None:
        while True:
            node, _ = self._listener.accept()
            try:
                link = socket.create_connection(self._link)
            except OSError:  # it has ended, and the SuperNode is about to
                node.close()
                continue
            for source, into, way in ((node, link, "up"), (link, node, "down")):
                threading.Thread(target=self._pass_on, args=(source, into, way), daemon=True).start()

    def _pass_on(self, source: socket.socket, into: socket.socket, way: str) -> None:
        with suppress(OSError):
            while content := source.recv(1 << 16):
                setattr(self, way, getattr(self, way) + len(content))
                into.sendall(content)
        for end in (source, into):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


def main() -> None:
    """Command line."""
    options = tyro.cli(Options)
    content = load(options.scenario).model_dump(mode="json")
    content["budgets"].update(rounds=options.rounds, time_s=1e9, energy_j=1e12, bytes=1e12)
    if options.widths:
        content["workload"]["encoder_options"] = {"widths": list(options.widths)}
    hosts, seen, reported = Counting(), list[tuple[int, int]](), list[tuple[int, int]]()

    def on_event(event: dict[str, Any]) -> None:
        if event["kind"] == "round":
            seen.append((hosts.up, hosts.down))
            moved = event["machines"].values()
            reported.append((sum(m["sent_bytes"] for m in moved), sum(m["received_bytes"] for m in moved)))
            print(f"round {event['round']}: {event['seconds']:.1f} s", flush=True)

    with tempfile.TemporaryDirectory() as folder:
        play_trial(Job(options.agent, content, HELD_OUT_SEED, str(Path(folder) / "run")), on_event, nullcontext(hosts))
    counted = [last - first for first, last in zip(seen[0], seen[-1], strict=True)]
    told = [sum(way) for way in zip(*reported[1:], strict=True)]
    for name, wire, own in (("up", counted[0], told[0]), ("down", counted[1], told[1]), ("both", sum(counted), sum(told))):
        print(f"{name}: reported {own:,}, on the wire {wire:,} ({wire / own - 1.0:+.1%}), {len(seen) - 1} rounds")


if __name__ == "__main__":
    main()
