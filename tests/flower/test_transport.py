"""Blocks over Flower's grid: cut, joined, and asked for one by one."""

import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("flwr", reason="Flower is not installed: pip install 'intrafed[flower]'")

from fedcore.flower.client import BLOCK
from fedcore.flower.pieces import MOST_PIECES, cut, joined
from fedcore.flower.transport import FlowerTransport


@settings(deadline=None)
@given(st.binary(max_size=2_000), st.integers(1, 300))
def test_what_is_cut_is_joined(content: bytes, piece_bytes: int) -> None:
    record = cut(content, piece_bytes)
    assert joined(record) == content
    assert 1 <= len(record) <= MOST_PIECES


class Grid:
    """Answers at once, but for tickets whose arrays are on their way until they are let go."""

    def __init__(self, slow: dict[str, threading.Event], broken: str = "") -> None:
        self.slow, self.broken = slow, broken
        self.asked: list[str] = []

    def pull_messages(self, tickets: list[str]) -> list[Any]:
        [ticket] = tickets
        self.asked.append(ticket)
        if ticket == self.broken:
            raise ConnectionError("the SuperLink is gone")
        if ticket.startswith("none"):
            return []
        if ticket in self.slow:
            self.slow[ticket].wait(60)
        metadata = SimpleNamespace(reply_to_message_id=ticket)
        return [SimpleNamespace(metadata=metadata, has_error=lambda: False, content={BLOCK: cut(ticket.encode())})]


def received(transport: FlowerTransport, tickets: list[str]) -> dict[str, bytes | None]:
    """What has come once something has."""
    until = time.monotonic() + 30
    while time.monotonic() < until:
        if arrivals := transport.receive(tickets):
            return {a.ticket: a.content for a in arrivals}
        time.sleep(0.01)
    raise AssertionError("nothing came")


def test_an_answer_that_is_long_on_its_way_keeps_no_other_waiting() -> None:
    gate = threading.Event()
    grid = Grid({"a": gate})
    transport = FlowerTransport(grid)  # type: ignore[arg-type]
    assert received(transport, ["a", "b", "none"]) == {"b": b"b"}
    assert grid.asked.count("a") == 1
    gate.set()
    assert received(transport, ["a", "none"]) == {"a": b"a"}


def test_an_answer_on_its_way_is_not_lost_while_others_are_asked_for() -> None:
    gate = threading.Event()
    grid = Grid({"a": gate})
    transport = FlowerTransport(grid)  # type: ignore[arg-type]
    assert transport.receive(["a"]) == []
    assert received(transport, ["b"]) == {"b": b"b"}
    gate.set()
    assert received(transport, ["a"]) == {"a": b"a"}
    assert grid.asked.count("a") == 1


def test_what_goes_wrong_in_asking_reaches_who_asks() -> None:
    transport = FlowerTransport(Grid({}, broken="a"))  # type: ignore[arg-type]
    with pytest.raises(ConnectionError, match="the SuperLink is gone"):
        received(transport, ["a"])
