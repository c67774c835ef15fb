"""Who takes part: connected nodes say which machine they are, and nobody is two machines or the same one twice."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from fedcore.remote.ear import Ear
from fedcore.remote.node import HELLO
from fedcore.remote.transport import GoneError, Transport
from fedcore.wire import Packet
from fedcore.wire.packet import plain
from scenarios.errors import InputError

HELLO_LIFETIME_S = 600.0
LONGEST_STEP_S = 1e6


def charge_in(packet: Packet, sender: str) -> float | None:
    """Charge of a battery that an answer tells, 0 to 1; None where it tells none.

    Raises:
        InputError: it is none.
    """
    if packet.values.get("charge") is None:
        return None
    charge = packet.number("charge", sender, 0.0)
    if charge > 1.0:
        raise InputError(f"{sender}: charge is {charge:g}, expected a number from 0 to 1")
    return charge


@dataclass
class Roll:
    """The list of machines, and the node that each of them is.

    Attributes:
        names: of the machines that the scenario knows.
        workload: JSON, which a node needs to say how many samples it has.
        on_event: told one line per thing that happens.
        node_of: machine -> its node, while that is connected.
        samples: machine -> how many it holds, as it last said.
        shape: machine -> of one sample.
        ear: that nodes are told to tell their load to; None tells them of none.
        heard_as: machine -> its number at the ear.
        charge: machine -> of its battery, 0 to 1, as it last said; none of those that have not.
        charge_at: machine -> when it said so, by the monotonic clock.
    """

    names: Sequence[str]
    workload: str
    on_event: Callable[[str], None]
    node_of: dict[int, int] = field(default_factory=dict)
    samples: dict[int, int] = field(default_factory=dict)
    shape: dict[int, tuple[int, ...]] = field(default_factory=dict)
    ear: Ear | None = None
    heard_as: dict[int, int] = field(default_factory=dict)
    charge: dict[int, float] = field(default_factory=dict)
    charge_at: dict[int, float] = field(default_factory=dict)
    _asked: dict[str, int] = field(default_factory=dict)
    _greeted: dict[int, int] = field(default_factory=dict)
    _step_s: dict[int, float] = field(default_factory=dict)
    _turned_away: dict[int, int | None] = field(default_factory=dict)

    def call(self, transport: Transport) -> None:
        """Ask new nodes who they are, hear those that have answered, forget those that are gone; never waits."""
        connected = transport.nodes()
        for machine, node in list(self.node_of.items()):
            if node not in connected:
                del self.node_of[machine]
                self.on_event(f"machine {self.names[machine]} is gone (node {node})")
                # Whoever claimed its name meanwhile may ask again.
                self._turned_away = {n: m for n, m in self._turned_away.items() if m != machine}
        self._turned_away = {n: m for n, m in self._turned_away.items() if n in connected}
        self._asked = {ticket: node for ticket, node in self._asked.items() if node in connected}
        known = {*self.node_of.values(), *self._asked.values(), *self._turned_away}
        for node in sorted(connected - known):
            hello: dict[str, Any] = {"kind": HELLO, "workload": self.workload}
            if self.ear is not None:
                hello["ear"] = self.ear.admit()
                self._greeted[node] = hello["ear"]["sender"]
            with suppress(GoneError):
                self._asked[transport.send(node, Packet(hello, {}).to_bytes(), HELLO_LIFETIME_S)] = node
        for arrival in transport.receive(list(self._asked)):
            node = self._asked.pop(arrival.ticket)
            if arrival.content is not None:
                self._admit(node, arrival.content, transport.name_of(node))

    def to_dict(self) -> dict[str, Any]:
        """Who is there, and what all machines that ever were have said of their samples and charge, for a checkpoint."""
        said = [[k, self.samples[k], list(self.shape[k])] for k in sorted(self.samples)]
        now = time.monotonic()
        charges = [[k, charge, now - self.charge_at[k]] for k, charge in sorted(self.charge.items())]
        return {"there": sorted(self.node_of), "samples": said, "charges": charges}

    def recall(self, kept: dict[str, Any]) -> None:
        """Take over from a checkpoint what machines have said, so that who has gone meanwhile is known all the same."""
        for k, samples, shape in kept["samples"]:
            self.samples[k], self.shape[k] = samples, tuple(shape)
        for k, charge, age_s in kept["charges"]:
            self.charge[k], self.charge_at[k] = charge, time.monotonic() - age_s

    def note_charge(self, machine: int, charge: float | None) -> None:
        """Take over what a machine says of its battery; None says nothing of it."""
        if charge is not None:
            self.charge[machine], self.charge_at[machine] = charge, time.monotonic()

    def timed(self) -> dict[int, float]:
        """Seconds of a local step of the whole model, of machines whose nodes have come since the last call, as these have
        just timed it."""
        timed, self._step_s = self._step_s, {}
        return timed

    def _admit(self, node: int, content: bytes, registered: str | None) -> None:
        """Read a greeting.

        Args:
            node: whose.
            content: of it.
            registered: the machine that the node's key is registered as, if it is.
        """
        sender = f"node {node}"
        try:
            packet = Packet.from_bytes(content, sender)
            if packet.values.get("kind") != HELLO:
                raise InputError(f"{sender} cannot take part: {plain(packet.values.get('why'), 200)}")
            name = packet.values.get("name")
            if name not in self.names:
                raise InputError(f"{sender} says it is machine {str(name)[:40]!r}, expected one of {', '.join(self.names)}")
            if registered is not None and name != registered:
                raise InputError(
                    f"{sender} says it is machine {name!r}, but its key is registered as {plain(registered, 40)!r}; expected "
                    "the name that it is registered with"
                )
            samples = packet.whole("samples", sender, 1)
            shape = packet.values.get("shape")
            if not isinstance(shape, list) or not all(type(side) is int and side > 0 for side in shape):
                raise InputError(f"{sender}: shape of samples is {str(shape)[:40]!r}, expected whole numbers")
            step_s, charge = packet.number("step_s", sender, 0.0, LONGEST_STEP_S), charge_in(packet, sender)
        except InputError as error:
            self._turned_away[node] = None
            self.on_event(f"turned away: {error}")
            return
        machine = list(self.names).index(str(name))
        if machine in self.node_of:
            self._turned_away[node] = machine
            self.on_event(
                f"turned away: {sender} says it is machine {name}, which node {self.node_of[machine]} is already"
            )
            return
        back = machine in self.samples
        self.node_of[machine] = node
        self.samples[machine], self.shape[machine], self._step_s[machine] = samples, tuple(shape), step_s
        self.charge.pop(machine, None)  # another node's, it may be
        self.note_charge(machine, charge)
        if node in self._greeted:
            self.heard_as[machine] = self._greeted[node]
        self.on_event(f"machine {name} is {'back' if back else 'here'} (node {node}, {samples} samples)")
