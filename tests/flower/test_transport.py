"""Blocks over Flower's grid: cut, joined, and asked for one by one."""

import io
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("flwr", reason="Flower is not installed: pip install 'intrafed[flower]'")

from flwr.app import Array, ArrayRecord, MetricRecord, RecordDict

from fedcore.flower.client import BLOCK
from fedcore.flower.pieces import MOST_PIECES, cut, joined
from fedcore.flower.transport import FlowerTransport
from fedcore.remote.transport import Arrival, GoneError
from fedcore.wire import Packet
from scenarios.schema import Workload


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


BLOCKS: dict[str, Callable[[], Any]] = {
    "no block": lambda: RecordDict({}),
    "numbers in its place": lambda: RecordDict({BLOCK: MetricRecord({"a": 1})}),
    "no array": lambda: RecordDict({BLOCK: ArrayRecord({"0": Array("uint8", (3,), "numpy.ndarray", b"garbage")})}),
    "a foreign array": lambda: RecordDict({BLOCK: ArrayRecord({"0": Array("uint8", (3,), "other", b"garbage")})}),
    "a pickled array": lambda: RecordDict({BLOCK: ArrayRecord({"0": Array("object", (1,), "numpy.ndarray", _pickled())})}),
    "no record": lambda: None,
}


class Trap:
    """Would print when it is unpickled."""

    def __reduce__(self) -> Any:
        return (print, ("unpickled",))


def _pickled() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([Trap()], dtype=object), allow_pickle=True)
    return buffer.getvalue()


@pytest.mark.parametrize("what", BLOCKS)
def test_an_answer_that_is_none_is_told_and_raises_nothing(what: str, capsys: pytest.CaptureFixture[str]) -> None:
    class Foul(Grid):
        def pull_messages(self, tickets: list[str]) -> list[Any]:
            metadata = SimpleNamespace(reply_to_message_id="another")
            return [SimpleNamespace(metadata=metadata, has_error=lambda: False, content=BLOCKS[what]())]

    transport, arrivals = FlowerTransport(Foul({})), list[Arrival]()  # type: ignore[arg-type]
    until = time.monotonic() + 30
    while not arrivals and time.monotonic() < until:
        arrivals = transport.receive(["a"])
    [arrival] = arrivals
    assert (arrival.ticket, arrival.content) == ("a", None)
    assert arrival.error.startswith("its answer does not read (")
    assert capsys.readouterr().out == ""


def test_an_answer_that_flower_itself_cannot_read_is_told_and_raises_nothing() -> None:
    class Foul(Grid):
        def pull_messages(self, tickets: list[str]) -> list[Any]:
            raise KeyError("no such kind of record")

    assert received(FlowerTransport(Foul({})), ["a"]) == {"a": None}  # type: ignore[arg-type]


@pytest.mark.parametrize("taken", [[], [None], [""]])
def test_a_message_that_the_superlink_does_not_take_is_told_as_the_node_gone(
    taken: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedcore.flower.transport.Message", lambda *args, **options: args)  # a real one asks for its run
    grid = SimpleNamespace(push_messages=lambda messages: taken)
    transport = FlowerTransport(grid)  # type: ignore[arg-type]
    with pytest.raises(GoneError, match="took no message for node 7"):
        transport.send(7, Packet({"kind": "hello"}, {}).to_bytes(), 60.0)


def test_what_a_node_is_to_do_stands_in_its_config_record_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedcore.flower.transport.Message", lambda *args, **options: args)
    pushed: list[Any] = []
    transport = FlowerTransport(SimpleNamespace(push_messages=lambda m: pushed.extend(m) or ["t"]))  # type: ignore[arg-type]
    workload = Workload(context=0.5).model_dump_json(exclude_defaults=True)
    values = {"kind": "train", "round": 3, "steps": 20, "precision": "int8", "workload": workload}
    assert transport.send(7, Packet(values, {}).to_bytes(), 60.0) == "t"
    [(records, node, kind)] = pushed
    assert (node, kind) == (7, "train")
    assert dict(records["work"]) == {"round": 3, "steps": 20, "precision": "int8", "context": 0.5}


def test_a_node_has_the_name_that_its_key_is_registered_with() -> None:
    infos = [SimpleNamespace(node_id=7, name="gateway"), SimpleNamespace(node_id=8, name="")]
    transport = FlowerTransport(SimpleNamespace(get_nodes=lambda: infos))  # type: ignore[arg-type]
    assert transport.nodes() == {7, 8}
    assert [transport.name_of(node) for node in (7, 8, 9)] == ["gateway", None, None]


def test_what_goes_wrong_in_asking_reaches_who_asks() -> None:
    transport = FlowerTransport(Grid({}, broken="a"))  # type: ignore[arg-type]
    with pytest.raises(ConnectionError, match="the SuperLink is gone"):
        received(transport, ["a"])
