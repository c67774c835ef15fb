"""Flower's grid as a transport: blocks in an ArrayRecord, what to do with them in a ConfigRecord as well, for Flower's logs."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection
from typing import Any

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from fedcore.flower.client import BLOCK
from fedcore.flower.pieces import cut, joined
from fedcore.remote.node import HELLO
from fedcore.remote.transport import Arrival, GoneError
from fedcore.wire import Packet
from scenarios.schema import Workload

PULL_EVERY_S = 0.2
"""Between two questions for an answer; `Grid.send_and_receive` asks every 3 s."""
PULL_COST_S = 0.02
"""Of a question: where many answers are awaited, each is asked for less often."""
NODES_EVERY_S = 1.0


class _Pull(threading.Thread):
    """One question for one answer. It lasts as long as the answer's arrays take to come, which may be for ever where its
    node has died: a thread of its own, so that nobody waits for it who does not want to, the end of the process included."""

    def __init__(self, grid: Grid, ticket: str) -> None:
        super().__init__(daemon=True)
        self._grid, self.ticket = grid, ticket
        self.messages: list[Message] = []
        self.error: Exception | None = None
        self.start()

    def run(self) -> None:
        try:
            self.messages = list(self._grid.pull_messages([self.ticket]))
        except Exception as error:  # it belongs to whoever asks what came
            self.error = error


class FlowerTransport:
    """Carries messages over a grid, by its `push_messages` and `pull_messages`.

    Args:
        grid: of the running ServerApp.
    """

    def __init__(self, grid: Grid) -> None:
        self.grid = grid
        self._nodes: dict[int, str] = {}  # the name that each one's key was registered with, or none
        self._asked_nodes = -1e9
        self._pulls: dict[str, _Pull] = {}
        self._again: dict[str, float] = {}

    def nodes(self) -> set[int]:
        """See `Transport.nodes`; asked for at most every `NODES_EVERY_S`."""
        if time.monotonic() - self._asked_nodes >= NODES_EVERY_S:
            self._nodes = {node.node_id: node.name for node in self.grid.get_nodes()}
            self._asked_nodes = time.monotonic()
        return set(self._nodes)

    def name_of(self, node: int) -> str | None:
        """See `Transport.name_of`: as `flwr supernode register --name`, for SuperLinks that ask for keys."""
        return self._nodes.get(node) or None

    def send(self, node: int, content: bytes, lifetime_s: float) -> str:
        """See `Transport.send`."""
        values = Packet.from_bytes(content, "this server").values
        work: dict[str, Any] = {name: values[name] for name in ("round", "steps", "precision") if name in values}
        if "workload" in values:
            work["context"] = Workload.model_validate_json(values["workload"]).context
        # The SuperLink has all of it before a node may ask: one piece needs the fewest requests.
        records = RecordDict({BLOCK: cut(content, len(content)), "work": ConfigRecord(work)})
        kind = "query" if values.get("kind") == HELLO else "train"
        message = Message(records, node, kind, ttl=lifetime_s, group_id=str(values.get("round", "")))
        ticket = next(iter(self.grid.push_messages([message])), None)
        if not ticket:
            raise GoneError(f"the SuperLink took no message for node {node}")
        return ticket

    def receive(self, tickets: Collection[str]) -> list[Arrival]:
        """See `Transport.receive`; each is asked for at most every `PULL_EVERY_S`.

        A question that is under way is kept whichever tickets come next: Flower gives an answer away once only.
        """
        now, every_s = time.monotonic(), max(PULL_EVERY_S, PULL_COST_S * len(tickets))
        arrivals = []
        for ticket in tickets:
            pull = self._pulls.get(ticket)
            if pull is None:
                if now >= self._again.get(ticket, now):
                    self._pulls[ticket] = _Pull(self.grid, ticket)
            elif not pull.is_alive():
                del self._pulls[ticket]
                if pull.error is not None and _unreachable(pull.error):
                    raise pull.error
                if pull.error is None and not pull.messages:
                    self._again[ticket] = now + every_s
                    continue
                arrivals.append(_arrival(ticket, pull))
                self._again.pop(ticket, None)
        return arrivals

    def close(self) -> None:
        """Nothing: the grid belongs to Flower."""


def _unreachable(error: Exception) -> bool:
    """Whether asking failed, and not what came: the SuperLink's errors are the system's or its HTTP client's."""
    return isinstance(error, OSError) or type(error).__module__.split(".")[0] in ("httpx", "httpcore")


def _arrival(ticket: str, pull: _Pull) -> Arrival:
    """What came for a ticket. Its node wrote all of it, and may have written anything."""
    try:
        if pull.error is not None:
            raise pull.error
        message = pull.messages[0]
        if message.has_error():
            return Arrival(ticket, None, f"Flower says: {message.error.reason or message.error.code}")
        came: Any = message.content
        return Arrival(ticket, joined(came[BLOCK]))
    except Exception as error:  # of whatever kind: it must cost this block, and nobody else's
        return Arrival(ticket, None, f"its answer does not read ({type(error).__name__}: {error})")
