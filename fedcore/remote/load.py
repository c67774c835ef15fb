"""A machine's load while it rests: how long a fixed piece of work takes on it now, told in one small datagram at a time, with
the charge of its battery.

A message over Flower starts a process on the machine, which on a weak one takes longer than a round; what is told here takes
a twentieth of its time at most. Datagrams are signed by a key that came with the server's first message, numbered, and not
secret.
"""

from __future__ import annotations

import hashlib
import hmac
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

PIECE_S = 0.1
"""Processor seconds of the piece of work: as much as several turns of a scheduler, which gives whoever comes from rest the
first of them at once."""
TELL_EVERY_S = 10.0
PART = 0.05
"""Of a machine's time that telling may take."""
LOOKS_S = 0.5
"""Between two looks whether the machine rests again."""
FORGET_S = 6 * 3600.0
"""Without any message from the server, after which it is told nothing more: its run may have ended."""
LONGEST = 200
"""Bytes of a word."""
_BUFFER = bytes(1 << 16)


def work(pieces: int) -> float:
    """Seconds that so many pieces of work take now."""
    began = time.perf_counter()
    for _ in range(pieces):
        hashlib.sha256(_BUFFER).digest()
    return time.perf_counter() - began


def enough_pieces() -> int:
    """Pieces that take `PIECE_S` or somewhat more of the processor, however busy it is with others."""
    pieces, took_s = 16, 0.0
    while took_s < PIECE_S:
        pieces *= 2
        began = time.thread_time()
        work(pieces)
        took_s = time.thread_time() - began
    return pieces


@dataclass(frozen=True)
class Word:
    """What a datagram says.

    Attributes:
        sender: its number at the server that listens.
        count: of its words, from 1.
        pace_s: of the piece of work.
        charge: of its battery, 0 to 1; None where it has none, or cannot read it now.
    """

    sender: int
    count: int
    pace_s: float
    charge: float | None = None

    def to_bytes(self, key: bytes) -> bytes:
        """Signed."""
        text = f"{self.sender} {self.count} {self.pace_s!r} {self.charge!r}".encode()
        return text + b" " + hmac.new(key, text, "sha256").hexdigest().encode()

    @staticmethod
    def from_bytes(content: bytes, key_of: Callable[[int], bytes]) -> Word:
        """Read and checked by its sender's key.

        Raises:
            ValueError: it is no word, or not signed by that key.
        """
        text, _, signature = content.rpartition(b" ")
        sender, count, pace_s, charge = text.split(b" ")
        word = Word(int(sender), int(count), float(pace_s), None if charge == b"None" else float(charge))
        signed = hmac.new(key_of(word.sender), text, "sha256").hexdigest().encode()
        sound = word.sender >= 0 and 0.0 < word.pace_s < 1e6 and (word.charge is None or 0.0 <= word.charge <= 1.0)
        if not hmac.compare_digest(signature, signed) or not sound:
            raise ValueError(f"no word: {content!r}")
        return word


class Teller(threading.Thread):
    """Tells a server how fast this machine is while it rests, for as long as the process lives.

    Args:
        host: that listens.
        port: where.
        sender: number that the server gave this machine.
        key: that came with it.
        free: held while the machine works, when nothing is told: its steps tell.
        every_s: between two words, or longer where a piece takes long.
        charge: of its battery now, None where it has none.
    """

    def __init__(
        self,
        host: str,
        port: int,
        sender: int,
        key: bytes,
        free: threading.Lock,
        every_s: float = TELL_EVERY_S,
        charge: Callable[[], float | None] = lambda: None,
    ) -> None:
        super().__init__(daemon=True)
        self._host, self._port, self._sender, self._key = host, port, sender, key
        self._free, self._every_s, self._charge, self._ended = free, every_s, charge, threading.Event()
        self._asked_at = time.monotonic()

    def asked(self) -> None:
        """The server still wants something of this machine."""
        self._asked_at = time.monotonic()

    def end(self) -> None:
        """Tell nothing more."""
        self._ended.set()

    def run(self) -> None:
        """See the class."""
        pieces, count, next_at = 0, 0, 0.0
        while not self._ended.wait(max(next_at - time.monotonic(), LOOKS_S)):
            if time.monotonic() - self._asked_at > FORGET_S:
                return
            if not self._free.acquire(blocking=False):
                continue
            try:
                pieces = pieces or enough_pieces()
                pace_s = work(pieces)
            finally:
                self._free.release()
            count += 1
            self._send(Word(self._sender, count, pace_s, self._charge()))
            next_at = time.monotonic() + max(self._every_s, pace_s / PART)

    def _send(self, word: Word) -> None:
        # Who cannot be reached now may be later; training does not hang on it.
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(self._host, self._port, type=socket.SOCK_DGRAM)[0]
            with socket.socket(family, kind, protocol) as out:
                out.sendto(word.to_bytes(self._key), address)
        except OSError:
            pass
