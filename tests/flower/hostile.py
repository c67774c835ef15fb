"""A worker that means harm: `fedcore.flower.worker`, but what it answers is changed, another way in every round.

    python hostile.py --machine NAME --data PATH --socket PATH --folder PATH
"""

import time
from collections.abc import Callable

from fedcore.flower import worker
from fedcore.remote.node import Node
from fedcore.wire import Packet


def _nan(packet: Packet) -> None:
    packet.arrays["trained"].fill_(float("nan"))


def _enormous(packet: Packet) -> None:
    packet.arrays["trained"].mul_(1e6)


def _cut(packet: Packet) -> None:
    packet.arrays["trained"] = packet.arrays["trained"][:-3].clone()


def _stale(packet: Packet) -> None:
    packet.values["round"] -= 1


def _other(packet: Packet) -> None:
    packet.values.update(machine=0, name="server-0")


def _slow(packet: Packet) -> None:
    time.sleep(300.0)


BY_ROUND: dict[int, Callable[[Packet], None]] = {1: _nan, 2: _enormous, 3: _cut, 4: _stale, 5: _other, 7: _slow}


class Hostile(Node):
    def answer(self, content: bytes) -> bytes:
        packet = Packet.from_bytes(super().answer(content), "this node")
        round_index = packet.values.get("round", -1)
        if round_index == 6:
            return bytes(range(256)) * 20
        BY_ROUND.get(round_index, lambda packet: None)(packet)
        return packet.to_bytes()


if __name__ == "__main__":
    worker.Node = Hostile  # type: ignore[misc]
    worker._telemetry = lambda reply: b"{}"
    worker.main()
