"""What carries messages between server and nodes: Flower, Ray, or a test's threads. It neither reads nor judges them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Arrival:
    """What came for a ticket.

    Attributes:
        ticket: of the message that it answers.
        content: the answer; None where the carrier reports that there will be none.
        error: why not, in a few words.
    """

    ticket: str
    content: bytes | None
    error: str = ""


class GoneError(Exception):
    """A message was not taken for a node, which has gone since it was last looked for."""


class Transport(Protocol):
    """Carries messages to nodes, and answers back."""

    def nodes(self) -> set[int]:
        """Nodes that are connected now."""

    def name_of(self, node: int) -> str | None:
        """The machine that whoever runs the carrier has registered a connected node as; None where nobody has."""

    def send(self, node: int, content: bytes, lifetime_s: float) -> str:
        """Send a message without waiting; returns the ticket under which its answer comes.

        Args:
            node: to whom.
            content: what.
            lifetime_s: after which nobody waits for it any more.

        Raises:
            GoneError: the node is not there any more.
        """

    def receive(self, tickets: Collection[str]) -> list[Arrival]:
        """What has come for these tickets since the last call, without waiting."""

    def close(self) -> None:
        """Let go of connections."""
