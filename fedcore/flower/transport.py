"""Flower's grid as a transport: blocks in an ArrayRecord, what to do with them in a ConfigRecord as well, for Flower's logs."""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from fedcore.flower.client import BLOCK, PACKET
from fedcore.remote.node import HELLO
from fedcore.remote.transport import Arrival
from fedcore.wire import Packet

PULL_EVERY_S = 0.2
"""Between two questions for answers; `Grid.send_and_receive` asks every 3 s."""
NODES_EVERY_S = 1.0


class FlowerTransport:
    """Carries messages over a grid, by its `push_messages` and `pull_messages`.

    Args:
        grid: of the running ServerApp.
    """

    def __init__(self, grid: Grid) -> None:
        self.grid = grid
        self._nodes: set[int] = set()
        self._asked_nodes = self._pulled = -1e9

    def nodes(self) -> set[int]:
        """See `Transport.nodes`; asked for at most every `NODES_EVERY_S`."""
        if time.monotonic() - self._asked_nodes >= NODES_EVERY_S:
            self._nodes = set(self.grid.get_node_ids())
            self._asked_nodes = time.monotonic()
        return self._nodes

    def send(self, node: int, content: bytes, lifetime_s: float) -> str:
        """See `Transport.send`."""
        values = Packet.from_bytes(content, "this server").values
        work: dict[str, Any] = {name: values[name] for name in ("round", "steps", "precision") if name in values}
        records = RecordDict(
            {
                BLOCK: ArrayRecord({PACKET: Array(np.frombuffer(content, dtype=np.uint8))}),
                "work": ConfigRecord(work),
            }
        )
        kind = "query" if values.get("kind") == HELLO else "train"
        message = Message(records, node, kind, ttl=lifetime_s, group_id=str(values.get("round", "")))
        [ticket] = self.grid.push_messages([message])
        if ticket is None:
            raise RuntimeError(f"the SuperLink took no message for node {node}")
        return ticket

    def receive(self, tickets: Collection[str]) -> list[Arrival]:
        """See `Transport.receive`; asked for at most every `PULL_EVERY_S`."""
        if not tickets or time.monotonic() - self._pulled < PULL_EVERY_S:
            return []
        arrivals = []
        for message in self.grid.pull_messages(list(tickets)):
            ticket = message.metadata.reply_to_message_id
            if message.has_error():
                arrivals.append(Arrival(ticket, None, f"Flower says: {message.error.reason or message.error.code}"))
            else:
                came: Any = message.content
                arrivals.append(Arrival(ticket, came[BLOCK][PACKET].numpy().tobytes()))
        self._pulled = time.monotonic()
        return arrivals

    def close(self) -> None:
        """Nothing: the grid belongs to Flower."""
