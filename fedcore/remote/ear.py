"""The server's ear for `load.Word`s, and what they say of every machine's steps."""

from __future__ import annotations

import secrets
import socket
from collections import deque
from dataclasses import dataclass, field
from statistics import median

from fedcore.remote.load import LONGEST, Word
from scenarios.errors import InputError

REMEMBERED = 3
"""Last words of a machine; their median is its pace, as one alone is easily twice what the next says."""
PAIRS = 5
"""Trainings of which it is known what pace followed."""
AT_ONCE = 10_000
"""Datagrams that one look reads: a flood of them must not hold a round up."""


@dataclass
class _Sender:
    """What one machine's words say; `slow` of its last steps waits for the pace that goes with it, `charge` to be taken."""

    key: bytes
    count: int = 0
    slow: float | None = None
    charge: float | None = None
    paces: deque[float] = field(default_factory=lambda: deque(maxlen=REMEMBERED))
    ratios: deque[float] = field(default_factory=lambda: deque(maxlen=PAIRS))


class Ear:
    """Listens for machines' words, without waiting and without ever answering.

    What a pace says of steps is learned per machine: by what factor its steps were slower than the scenario says, over the
    pace that it told next; the median over its last trainings.

    Args:
        port: UDP; 0 takes a free one.

    Raises:
        InputError: the port is not to be had.
    """

    def __init__(self, port: int = 0) -> None:
        self._socket = _listening(port)
        self._socket.setblocking(False)
        self.port: int = self._socket.getsockname()[1]
        self._senders: list[_Sender] = []

    def admit(self) -> dict[str, int | str]:
        """What a node must know to be heard, for the server's first message to it: port, its number as a sender, key."""
        # Not drawn from a passed generator: whoever knows the seed would know the keys.
        key = secrets.token_bytes(16)
        self._senders.append(_Sender(key))
        return {"port": self.port, "sender": len(self._senders) - 1, "key": key.hex()}

    def worked(self, sender: int, slow: float) -> None:
        """A sender's steps took so many times what the scenario says of them."""
        self.hear()
        known = self._senders[sender]
        known.slow = slow
        known.paces.clear()

    def hear(self) -> None:
        """Read what has come; what is no word, not signed by its sender or told before is left out."""
        for _ in range(AT_ONCE):
            try:
                content = self._socket.recv(LONGEST + 1)
            except OSError:
                return
            try:
                word = Word.from_bytes(content, lambda sender: self._senders[sender].key)
            except (ValueError, IndexError):
                continue
            known = self._senders[word.sender]
            if word.count <= known.count:
                continue
            known.count = word.count
            known.charge = word.charge if word.charge is not None else known.charge
            if not known.paces and known.slow is not None:
                known.ratios.append(known.slow / word.pace_s)
            known.paces.append(word.pace_s)

    def slow(self, sender: int) -> float | None:
        """By what factor its steps would now be slower than the scenario says; None where its last steps are the last word."""
        known = self._senders[sender]
        return median(known.ratios) * median(known.paces) if known.paces and known.ratios else None

    def take_charge(self, sender: int) -> float | None:
        """Of its battery, as it has told since this was last asked; None where it has not."""
        known = self._senders[sender]
        charge, known.charge = known.charge, None
        return charge

    def silent(self, sender: int) -> bool:
        """Whether it has told nothing yet."""
        return self._senders[sender].count == 0

    def close(self) -> None:
        """Hear nothing more."""
        self._socket.close()


def _listening(port: int) -> socket.socket:
    """Bound on all addresses, of both families where there are both."""
    why = ""
    for family in (socket.AF_INET6, socket.AF_INET):
        try:
            ear = socket.socket(family, socket.SOCK_DGRAM)
        except OSError as error:  # a machine without it
            why = str(error.strerror)
            continue
        try:
            if family == socket.AF_INET6:
                ear.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            ear.bind(("", port))
        except OSError as error:
            why = str(error.strerror)
            ear.close()
        else:
            return ear
    raise InputError(f"UDP port {port} is not to be had ({why}); expected one that is free")
