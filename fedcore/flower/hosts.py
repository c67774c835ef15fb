"""Where the machines of a trial live: all on the loopback interface, or each in surroundings of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class Hosts(Protocol):
    """Surroundings of a trial's machines.

    Attributes:
        server: address at which all of them reach the server.
    """

    server: str

    def networked(self, machine: str, command: Sequence[str]) -> list[str]:
        """The command that runs another on a machine's network."""

    def computing(self, machine: str, command: Sequence[str]) -> list[str]:
        """The command that runs another at a machine's speed."""


class Loopback:
    """Everyone at the full speed of this machine."""

    server = "127.0.0.1"

    def networked(self, machine: str, command: Sequence[str]) -> list[str]:
        """See `Hosts.networked`."""
        return list(command)

    def computing(self, machine: str, command: Sequence[str]) -> list[str]:
        """See `Hosts.computing`."""
        return list(command)
