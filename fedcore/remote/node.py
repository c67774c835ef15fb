"""A node: one machine's side of a real run. It trains what it is sent on its own samples, which never leave it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from fedcore.blocks import whole_block
from fedcore.engines.inprocess import train_task
from fedcore.files import content_key
from fedcore.local import LocalTask
from fedcore.model import Model
from fedcore.neurons import State
from fedcore.parallel import one_thread
from fedcore.remote.battery import read_charge
from fedcore.remote.load import TELL_EVERY_S, Teller
from fedcore.remote.meter import Meter
from fedcore.remote.residual import Residual
from fedcore.samples import Samples
from fedcore.wire import Packet, decode_task, encode_result
from fedcore.wire.mirror import Mirror
from fedcore.workload import method_of, model_for, recipe_of
from scenarios.errors import InputError
from scenarios.schema import Workload

HELLO, TRAIN, FAILED = "hello", "train", "failed"
TIMED = 3
"""Steps after the first that a node times when it is greeted."""


@lru_cache(maxsize=4)
def _model(workload: str, channels: int) -> Model:
    return model_for(Workload.model_validate_json(workload), channels)


class Node:
    """Answers the server's messages.

    Args:
        machine: its name in the scenario.
        samples: gives its own samples for a workload; called once per workload.
        folder: of its own, where it keeps what rounding left out of its blocks; None forgets it between messages.
        meter: file of its joules, as `meter.read_joules`; None takes the processor's counter where there is one.
        server: host that listens for its load while it rests, where the server's first message asks for that; None tells
            nothing.
        tell_every_s: between two words about it.
        battery: file of its charge, as `battery.read_charge`; None on mains.
        tell_operator: told what whoever runs this node should know.
    """

    def __init__(
        self,
        machine: str,
        samples: Callable[[Workload], Samples],
        folder: Path | None = None,
        meter: Path | None = None,
        server: str | None = None,
        tell_every_s: float = TELL_EVERY_S,
        battery: Path | None = None,
        tell_operator: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._server, self._tell_every_s = server, tell_every_s
        self._teller: Teller | None = None
        self._free = threading.Lock()
        self.machine, self.folder, self._meter, self._battery = machine, folder, meter, battery
        self._samples_of, self._tell_operator, self._said = samples, tell_operator, ""
        self._samples: dict[str, Samples] = {}
        self._residual: Residual | None = None
        self._mirrors: dict[str, Mirror] = {}

    def answer(self, content: bytes) -> bytes:
        """The answer to one message; what is wrong with it, or with this node, is told in the answer."""
        began = time.monotonic()
        if self._teller is not None:
            self._teller.asked()
        with self._free:
            try:
                packet = Packet.from_bytes(content, "the server")
                answer = self._hello(packet) if packet.values.get("kind") == HELLO else self._train(packet)
            except InputError as error:
                answer = Packet({"kind": FAILED, "why": str(error)}, {})
                self._say(f"cannot take part: {error}")
        answer.values.update(name=self.machine, node_s=round(time.monotonic() - began, 6))
        charge = self._charge()
        if charge is not None:
            answer.values["charge"] = charge
        return answer.to_bytes()

    def _say(self, text: str) -> None:
        """A line for whoever runs this node, unless it is the last one again."""
        if text != self._said:
            self._said = text
            self._tell_operator(text)

    def _charge(self) -> float | None:
        """Of the battery now; a file that does not read for a moment must not cost a round."""
        try:
            return None if self._battery is None else read_charge(self._battery)
        except InputError:
            return None

    def _workload(self, packet: Packet) -> tuple[str, Workload]:
        text = packet.values.get("workload")
        try:
            return str(text), Workload.model_validate_json(str(text))
        except ValueError as error:
            raise InputError(f"the server: workload does not read: {str(error).splitlines()[0]}") from None

    def _own(self, text: str, workload: Workload) -> Samples:
        if text not in self._samples:
            self._samples = {text: self._samples_of(workload)}
        return self._samples[text]

    def _hello(self, packet: Packet) -> Packet:
        text, workload = self._workload(packet)
        samples = self._own(text, workload)
        step_s = self._warm_up(text, workload, samples)
        self._tell(packet.values.get("ear"))
        self._say(f"greeted by the server; {len(samples)} samples here")
        return Packet({"kind": HELLO, "samples": len(samples), "shape": list(samples.x.shape[1:]), "step_s": step_s}, {})

    def _tell(self, ear: Any) -> None:
        """Tell whoever has said hello last of this machine's load from now on, and nobody else."""
        if self._teller is not None:
            self._teller.end()
            self._teller = None
        if self._server is None or ear is None:
            return
        try:
            port, sender, key = int(ear["port"]), int(ear["sender"]), bytes.fromhex(ear["key"])
        except (TypeError, KeyError, ValueError):
            raise InputError(f"the server: ear is {str(ear)[:40]!r}, expected its port, sender and key") from None
        self._teller = Teller(self._server, port, sender, key, self._free, self._tell_every_s, self._charge)
        self._teller.start()

    def _warm_up(self, text: str, workload: Workload, samples: Samples) -> float:
        """A process's first step takes many times as long as others: better now than in the first round.

        Returns:
            Seconds of a later one of the whole model, the shortest of some: others' start-up is not this machine's load.
        """
        model = _model(text, samples.x.shape[1] if samples.x.dim() == 4 else 1)
        state = model.init_state(torch.Generator().manual_seed(0))
        task = LocalTask(0, whole_block(model.neuron_map), 1, (0,))
        clock = [time.perf_counter()]
        with one_thread():
            for _ in range(1 + TIMED):
                train_task(method_of(workload), model, state, model.target_of(state), task, samples, recipe_of(workload))
                clock.append(time.perf_counter())
        return min(after - before for before, after in pairwise(clock[1:]))

    def _train(self, packet: Packet) -> Packet:
        text, workload = self._workload(packet)
        channels = packet.whole("channels", "the server", 1)
        model = _model(text, channels)
        which = content_key(text, channels)
        if which not in self._mirrors:
            self._mirrors = {which: Mirror.blank(model)}
        sent = decode_task(packet, model, mirror=self._mirrors[which])
        samples = self._own(text, workload)
        with Meter(file=self._meter) as meter, one_thread():
            result = train_task(
                method_of(workload), model, sent.state, sent.target, sent.task, samples, recipe_of(workload)
            )
        residual: State = {}
        if sent.precision != "fp32":
            if self._residual is None:
                self._residual = Residual() if self.folder is None else Residual.read(self.folder, model)
            residual = self._residual.begin(f"{packet.values.get('run')} {which}", sent.task.round_index)
        answer = encode_result(model, sent, result, residual, meter.seconds)
        if sent.precision != "fp32" and self._residual is not None and self.folder is not None:
            self._residual.write(self.folder)
        answer.values.update(kind=TRAIN, meter=meter.kind, joules=meter.joules)
        return answer
