"""The server's engine over real machines: blocks out, blocks back, and whatever goes wrong on the way told in one line."""

from __future__ import annotations

import logging
import math
import secrets
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from fedcore.local import LocalRecipe, LocalResult, LocalTask
from fedcore.methods import Method
from fedcore.model import Model
from fedcore.neurons import State
from fedcore.remote.ear import Ear
from fedcore.remote.meter import KINDS, MODEL
from fedcore.remote.node import FAILED, TRAIN
from fedcore.remote.roll import Roll, charge_in
from fedcore.remote.transport import GoneError, Transport
from fedcore.wire import PRECISIONS, Packet, decode_result, encode_task
from fedcore.wire.mirror import Mirror
from fedcore.wire.packet import plain
from fedcore.workload import method_of, recipe_of
from scenarios.errors import InputError
from scenarios.schema import Workload

LOG = logging.getLogger("intrafed")
PATIENCE = 10.0
"""Deadlines after which a block that never came is forgotten, and its machine may be asked again."""
LIFETIME_S = 3600.0
"""Of a message where there is no deadline."""
POLL_S = 0.02
MOST_W = 1e5
"""That a machine may say it drew."""
SILENT_S = 60.0
"""After which a machine should have told its load at least once."""
DONE, LATE, LEFT, REFUSED = "done", "late", "left", "refused"


@dataclass(frozen=True)
class MachineRound:
    """What one machine's part of a round really took.

    Attributes:
        status: "done", "late", "left" (it went away) or "refused" (what came was unusable).
        elapsed_s: from sending its block to having the answer, or to giving up.
        compute_s: of training, on the machine's own clock.
        node_s: of everything that the machine did with the message.
        received_bytes: that were sent to it.
        sent_bytes: that came from it.
        joules: of training by the machine's own meter; None where it has none.
        meter: which it is, in `meter.KINDS`.
    """

    status: str
    elapsed_s: float
    compute_s: float
    node_s: float
    received_bytes: int
    sent_bytes: int
    joules: float | None
    meter: str = MODEL


@dataclass(frozen=True)
class _Out:
    machine: int
    round_index: int
    since: float


class RemoteEngine:
    """Carries tasks to nodes over a transport.

    Args:
        transport: carries messages.
        workload: what nodes train; they build the same model and recipe from it.
        machine_names: of the scenario's machines, in order.
        channels: of the images.
        precision: of blocks on the way up, a name in `PRECISIONS`.
        deadline_s: after which a block is lost; None waits for every machine that is still connected.
        on_event: told one line per thing that happens; the log by default.
        clock: seconds that only rise.
        sleep: waits so many seconds.
        context_precision: of what machines only see, a name in `PRECISIONS`: "fp32" sends it as it is, the others what has
            changed since the last round that a machine took part in, rounded.
        ear: hears machines' load while they rest, which their own steps cannot tell; closed with the transport. None does
            without.

    Attributes:
        measured: of the last round, by machine that was asked.
        round_s: of the last round: from the first block sent to the last one in, or the deadline.
        run: names the run to nodes, which keep what rounding left out of their blocks of one run only; whoever goes on with a
            run sets it again.
        secret: see `Server.secret`.

    Raises:
        InputError: unknown precision.
    """

    def __init__(
        self,
        transport: Transport,
        workload: Workload,
        machine_names: Sequence[str],
        channels: int = 1,
        precision: str = "fp32",
        deadline_s: float | None = None,
        on_event: Callable[[str], None] = LOG.info,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        context_precision: str = "fp32",
        ear: Ear | None = None,
    ) -> None:
        for name, value in (("precision", precision), ("context_precision", context_precision)):
            if value not in PRECISIONS:
                raise InputError(f"{name} is {value!r}, expected one of {', '.join(PRECISIONS)}")
        self.transport, self.names, self.channels = transport, tuple(machine_names), channels
        self.precision, self.deadline_s, self.on_event = precision, deadline_s, on_event
        self.recipe: LocalRecipe = recipe_of(workload)
        self.method = method_of(workload)
        self.workload = workload.model_dump_json(exclude_defaults=True)
        self.roll, self.ear = Roll(self.names, self.workload, on_event, ear=ear), ear
        self._quiet: dict[int, float] = {}  # sender at the ear -> since when it should be heard
        self.measured: dict[int, MachineRound] = {}
        self.round_s = 0.0
        self.context_precision = context_precision
        self.run, self.secret = secrets.token_hex(4), secrets.token_bytes(32)
        self._mirrors: dict[int, tuple[int, Mirror]] = {}
        self._out: dict[str, _Out] = {}
        self._clock, self._sleep = clock, sleep
        self._round = -1

    def gather(self, timeout_s: float, before: Collection[int] | None = None) -> None:
        """Wait for every machine; of a run that goes on, for those that were there when it stopped.

        Args:
            timeout_s: for so long.
            before: the machines that were connected when a run was interrupted that now goes on: it does so without those
                of them that do not come back in time, as it would have done had they gone while it ran, but not without
                anybody where somebody was there. None begins a run, which wants them all.

        Raises:
            InputError: some, or of a run that goes on all that it waits for, are not there in time, or their samples are not
                what the workload's model reads.
        """
        until = self._clock() + timeout_s
        wanted = set(range(len(self.names))) if before is None else set(before)
        while missing := wanted - self.roll.node_of.keys():
            self.roll.call(self.transport)
            if self._clock() > until:
                late = f"machines {', '.join(self.names[k] for k in sorted(missing))} have not connected within {timeout_s:g} s"
                if before is None or not self.roll.node_of:
                    raise InputError(f"{late}; expected a node of {'each' if before is None else 'at least one'} name")
                self.on_event(f"{late}: going on without them")
                break
            self._sleep(POLL_S)
        for k, shape in self.roll.shape.items():
            if len(shape) == 3 and shape[0] != self.channels:
                raise InputError(f"machine {self.names[k]}: its images have {shape[0]} channels, expected {self.channels}")

    @property
    def samples(self) -> tuple[range, ...]:
        """See `Engine.samples`: of machines that have said how many they hold."""
        return tuple(range(self.roll.samples.get(k, 0)) for k in range(len(self.names)))

    def available(self) -> list[bool]:
        """Per machine, whether it is connected and free."""
        self._hear()
        self.roll.call(self.transport)
        busy = {out.machine for out in self._out.values()}
        return [k in self.roll.node_of and k not in busy for k in range(len(self.names))]

    def slowness(self, here: Sequence[bool], slow: Mapping[int, float]) -> dict[int, float]:
        """By machine, by what factor its steps would be slower now than its scenario says, where it has told that itself.

        Args:
            here: per machine, whether it is connected and free.
            slow: the same factor of those that have just trained, or have just been greeted: by machine.
        """
        if self.ear is None:
            return {}
        for k, factor in slow.items():
            if k in self.roll.heard_as:
                self.ear.worked(self.roll.heard_as[k], factor)
        self.ear.hear()
        told = {k: self.ear.slow(sender) for k, sender in self.roll.heard_as.items() if here[k]}
        self._miss(self.ear, here)
        return {k: factor for k, factor in told.items() if factor is not None}

    def charges(self) -> dict[int, float]:
        """By machine, the charge of its battery, 0 to 1, as it last said; those without one have said nothing."""
        if self.ear is not None:
            self.ear.hear()
            for k, sender in self.roll.heard_as.items():
                self.roll.note_charge(k, self.ear.take_charge(sender))
        return dict(self.roll.charge)

    def _miss(self, ear: Ear, here: Sequence[bool]) -> None:
        """Say once of every node that nothing of its load is heard, where there should have been."""
        for k, sender in self.roll.heard_as.items():
            since = self._quiet.setdefault(sender, self._clock())
            if here[k] and ear.silent(sender) and self._clock() - since > SILENT_S:
                self._quiet[sender] = math.inf
                self.on_event(
                    f"machine {self.names[k]} is not heard of its load: UDP port {ear.port} of the server may be out of its "
                    "reach; its own steps stand"
                )

    def _hear(self) -> None:
        """Blocks that come after their round are told and dropped."""
        for arrival in self.transport.receive(list(self._out)):
            out = self._out.pop(arrival.ticket)
            if arrival.content is not None:
                late = self._clock() - out.since - (self.deadline_s or 0.0)
                self.on_event(
                    f"machine {self.names[out.machine]}: block of round {out.round_index} came {late:.1f} s late; dropped"
                )
        limit = PATIENCE * self.deadline_s if self.deadline_s else LIFETIME_S
        self._out = {t: out for t, out in self._out.items() if self._clock() - out.since < limit}

    def train(
        self, method: Method, model: Model, state: State, target: State | None, tasks: Sequence[LocalTask]
    ) -> list[LocalResult]:
        """See `Engine.train`.

        Raises:
            InputError: the method is not the workload's own, which is all that nodes know.
        """
        if method != self.method:
            raise InputError(f"method {method.name} differs from the workload's own; expected that one on real machines")
        self._hear()
        self._round = tasks[0].round_index if tasks else self._round + 1
        results: dict[int, LocalResult] = {}
        waiting: dict[str, tuple[int, LocalTask, int]] = {}
        self.measured = {}
        began = self._clock()
        lifetime_s = PATIENCE * self.deadline_s if self.deadline_s else LIFETIME_S
        busy = {out.machine: out.round_index for out in self._out.values()}
        for i, task in enumerate(tasks):
            k = task.machine
            node = self.roll.node_of.get(k)
            if node is None or k in busy:
                why = "it is not connected" if node is None else f"it is still busy with round {busy[k]}"
                results[i] = self._lose(k, LEFT if node is None else LATE, why, 0.0, 0)
                continue
            mirror = self._mirror(k, node, model)
            packet = encode_task(model, state, target, task, self.precision, self.context_precision, mirror)
            packet.values.update(kind=TRAIN, run=self.run, workload=self.workload, channels=self.channels)
            content = packet.to_bytes()
            try:
                waiting[self.transport.send(node, content, lifetime_s)] = (i, task, len(content))
            except GoneError as error:
                results[i] = self._lose(k, LEFT, str(error), self._clock() - began, 0)
        while waiting:
            for arrival in self.transport.receive(list(waiting)):
                i, task, down = waiting.pop(arrival.ticket)
                elapsed_s = self._clock() - began
                if arrival.content is None:
                    results[i] = self._lose(task.machine, LEFT, arrival.error or "its node went away", elapsed_s, down)
                else:
                    results[i] = self._read(arrival.content, model, state, task, elapsed_s, down)
            if not waiting:
                break
            elapsed_s = self._clock() - began
            if self.deadline_s is not None and elapsed_s >= self.deadline_s:
                for ticket, (i, task, down) in waiting.items():
                    self._out[ticket] = _Out(task.machine, self._round, began)
                    why = f"nothing came back within the deadline of {self.deadline_s:g} s"
                    results[i] = self._lose(task.machine, LATE, why, elapsed_s, down)
                break
            connected = self.transport.nodes()
            for ticket, (i, task, down) in list(waiting.items()):
                node = self.roll.node_of.get(task.machine)
                if node not in connected:
                    del waiting[ticket]
                    results[i] = self._lose(task.machine, LEFT, "its node went away", elapsed_s, down)
            self._sleep(POLL_S)
        self.round_s = self._clock() - began
        return [results[i] for i in range(len(tasks))]

    def _mirror(self, machine: int, node: int, model: Model) -> Mirror | None:
        """What a machine has of the weights; another node in its place has nothing."""
        if self.context_precision == "fp32":
            return None
        if machine not in self._mirrors or self._mirrors[machine][0] != node:
            self._mirrors[machine] = node, Mirror.blank(model)
        return self._mirrors[machine][1]

    def _lose(self, machine: int, status: str, why: str, elapsed_s: float, down: int, up: int = 0) -> LocalResult:
        why = plain(why)
        self._mirrors.pop(machine, None)  # whether it read what it was sent is not known
        self.measured[machine] = MachineRound(status, elapsed_s, 0.0, 0.0, down, up, None)
        self.on_event(f"round {self._round}: machine {self.names[machine]} {status}: {why}")
        return LocalResult.nothing(why)

    def _read(
        self, content: bytes, model: Model, state: State, task: LocalTask, elapsed_s: float, down: int
    ) -> LocalResult:
        """An answer, checked against what was asked; merging checks the weights themselves."""
        k = task.machine
        sender = f"machine {self.names[k]}"
        try:
            packet = Packet.from_bytes(content, sender)
            if packet.values.get("kind") == FAILED:
                raise InputError(f"{sender}: {packet.values.get('why')}")
            of_round, name = packet.whole("round", sender), packet.values.get("name")
            if of_round != self._round:
                raise InputError(f"{sender}: sent a block of round {of_round}, expected round {self._round}")
            if name != self.names[k] or packet.whole("machine", sender) != k:
                raise InputError(f"{sender}: sent a block as machine {str(name)[:40]!r}, expected its own")
            extras = self.method.extras(model, task.block)
            result = decode_result(packet, model, state, task.block, self.precision, sender, extras)
            held = self.roll.samples[k]
            if (result.samples, result.steps) != (held, task.steps):
                raise InputError(
                    f"{sender}: says {result.samples} samples and {result.steps} steps, expected {held} and {task.steps}"
                )
            # More than that cannot be: it was not at it for longer, and no machine draws so much.
            most_s = 1.0 + 1.01 * elapsed_s
            told = packet.values.get("joules") is not None
            joules = packet.number("joules", sender, 0.0, MOST_W * most_s) if told else None
            meter = packet.values.get("meter")
            if meter not in KINDS or (joules is None) != (meter == MODEL):
                raise InputError(f"{sender}: says its meter is {str(meter)[:40]!r}, expected {', '.join(KINDS)}")
            compute_s, node_s = (packet.number(name, sender, 0.0, most_s) for name in ("compute_s", "node_s"))
            charge = charge_in(packet, sender)
        except InputError as error:
            why = str(error).removeprefix(f"{sender}: ")
            return self._lose(k, REFUSED, why, elapsed_s, down, len(content))
        self.charges()  # words that came before the answer are older than what it says
        self.roll.note_charge(k, charge)
        self.measured[k] = MachineRound(DONE, elapsed_s, compute_s, node_s, down, len(content), joules, meter)
        return result

    def close(self) -> None:
        """Let go of the transport, and hear nothing more."""
        self.transport.close()
        if self.ear is not None:
            self.ear.close()
