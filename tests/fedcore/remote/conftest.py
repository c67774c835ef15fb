"""A federation in one process: nodes in threads of their own behind the transport's face, so that faults cost no start-up."""

import queue
import threading
import time
from collections.abc import Callable, Collection

import pytest
import torch

from fedcore.remote.node import Node
from fedcore.remote.transport import Arrival
from fedcore.samples import Samples
from scenarios.schema import Workload

WORKLOAD = Workload(
    image_px=12, batch_size=6, encoder_options={"widths": [6, 8, 8]}, objective_options={"hidden": 12, "outputs": 6},
    precision="fp32", server_step=0.7,
)  # fmt: skip
NAMES = ("north", "south", "east")


def samples(n_machines: int = len(NAMES)) -> list[Samples]:
    generator = torch.Generator().manual_seed(0)
    return [
        Samples(torch.randint(0, 256, (9 + k, 1, 12, 12), generator=generator, dtype=torch.uint8)) for k in range(n_machines)
    ]


class Threads:
    """A transport to nodes in threads; each may be slowed, killed, revived, or have its answers changed on the way."""

    def __init__(self) -> None:
        self.boxes: dict[int, queue.Queue] = {}
        self.answers: dict[str, Arrival] = {}
        self.delay_s: dict[int, float] = {}
        self.tamper: dict[int, Callable[[bytes], bytes]] = {}
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
        for number in list(self.boxes):
            self.kill(number)


@pytest.fixture
def threads():
    transport = Threads()
    yield transport
    transport.close()


@pytest.fixture
def workload() -> Workload:
    return WORKLOAD


@pytest.fixture
def names() -> tuple[str, ...]:
    return NAMES


@pytest.fixture
def held() -> list[Samples]:
    return samples()


@pytest.fixture
def connected(threads, held, tmp_path):
    """The transport with one node per machine, numbered from 100."""
    for k, name in enumerate(NAMES):
        threads.join(100 + k, Node(name, lambda workload, k=k: held[k], tmp_path / name))
    return threads
