"""A federation in one process: nodes in threads of their own behind the transport's face, so that faults cost no start-up."""

import os
import queue
import threading
import time
from collections.abc import Callable, Collection

import pytest

from fedcore.files import cache_folder

# Tests that keep their work apart start processes: what these compile is kept where the others find it. numba reads it once.
os.environ.setdefault("NUMBA_CACHE_DIR", str(cache_folder("numba-of-tests")))

from fedcore.remote.node import Node
from fedcore.remote.transport import Arrival


class Threads:
    """A transport to nodes in threads; each may be slowed, killed, revived, or have its answers changed on the way."""

    def __init__(self) -> None:
        self.boxes: dict[int, queue.Queue] = {}
        self.answers: dict[str, Arrival] = {}
        self.delay_s: dict[int, float] = {}
        self.tamper: dict[int, Callable[[bytes], bytes]] = {}
        self.registered: dict[int, str] = {}
        self._count = 0
        self._lock = threading.Lock()

    def join(self, number: int, node: Node) -> None:
        box: queue.Queue = queue.Queue()
        self.boxes[number] = box

        def live() -> None:
            while (item := box.get()) is not None:
                ticket, content = item
                answer = self.tamper.get(number, lambda c: c)(node.answer(content))
                time.sleep(self.delay_s.get(number, 0.0))
                with self._lock:
                    if self.boxes.get(number) is box:  # the dead do not answer
                        self.answers[ticket] = Arrival(ticket, answer)

        threading.Thread(target=live, daemon=True).start()

    def kill(self, number: int) -> None:
        with self._lock:
            self.boxes.pop(number).put(None)

    def nodes(self) -> set[int]:
        return set(self.boxes)

    def name_of(self, node: int) -> str | None:
        return self.registered.get(node)

    def send(self, node: int, content: bytes, lifetime_s: float) -> str:
        self._count += 1
        ticket = f"t{self._count}"
        if node in self.boxes:
            self.boxes[node].put((ticket, content))
        return ticket

    def receive(self, tickets: Collection[str]) -> list[Arrival]:
        with self._lock:
            return [self.answers.pop(t) for t in list(tickets) if t in self.answers]

    def close(self) -> None:
        """The nodes outlive the server."""

    def end(self) -> None:
        for number in list(self.boxes):
            self.kill(number)


@pytest.fixture
def threads():
    transport = Threads()
    yield transport
    transport.end()
