"""One machine's work of one round as a message: its block of the weights and of the momentum target, and what to do."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from fedcore.blocks import Block
from fedcore.local import LocalTask
from fedcore.model import Model
from fedcore.neurons import State
from fedcore.wire.mirror import Mirror, encode_changes, read_changes, seen_pieces
from fedcore.wire.packet import Packet, as_number
from fedcore.wire.precision import PRECISIONS, bytes_of
from fedcore.wire.slices import cut_out, join, pack_block, put_back, slice_shape, trained_shapes, unpack_block
from scenarios.errors import InputError

MAX_STEPS = 1_000_000


@dataclass(frozen=True)
class Sent:
    """A task as a machine reads it.

    Attributes:
        task: block, H, seed.
        state: whole tensors; zero wherever the block does not see them.
        target: the same of the momentum target, or None.
        precision: that the block goes back in.
    """

    task: LocalTask
    state: State
    target: State | None
    precision: str


def check_carried(task: LocalTask) -> None:
    """Refuse what a message has no place for.

    Raises:
        InputError: the method sends more than blocks of the global weights.
    """
    if task.start is not None or task.target is not None or task.extra or task.block.means:
        raise InputError(
            "this method or context rule sends machines more than their block of the global weights, which only the "
            "in-process engine carries; expected method intralayer without context_rule compensated or compensated-random"
        )


def encode_task(
    model: Model,
    state: State,
    target: State | None,
    task: LocalTask,
    precision: str,
    context_precision: str = "fp32",
    mirror: Mirror | None = None,
) -> Packet:
    """The message that a machine gets.

    Args:
        model: encoder and objective.
        state: global weights.
        target: momentum target, or None.
        task: of this machine.
        precision: a name in `PRECISIONS`, that the block is to come back in.
        context_precision: of what the machine sees and does not train: "fp32" as it is, else changes of what it has.
        mirror: what the machine has, needed for changes; brought up to date.

    Raises:
        InputError: see `check_carried`.
    """
    check_carried(task)
    base = None if context_precision == "fp32" or mirror is None else mirror.known
    arrays = {
        "block": pack_block(model.neuron_map, task.block),
        "weights": cut_out(state, model.neuron_map, task.block, base is not None),
    }
    if base is None and target is not None:
        arrays["target"] = cut_out(target, model.neuron_map, task.block)
    if context_precision != "fp32" and mirror is not None:
        mirror.write(model, state, target, task.block, base is not None)
        if base is not None:
            arrays |= encode_changes(mirror, model, state, target, task.block, context_precision)
        mirror.seal()
    if model.objective.statistics:
        arrays["statistics"] = join([state[name] for name in sorted(model.objective.statistics)])
    values = {
        "round": task.round_index,
        "machine": task.machine,
        "steps": task.steps,
        "steps_before": task.steps_before,
        "seed": list(task.seed),
        "precision": precision,
        "context_precision": context_precision,
        "base": base,
        "scale": task.block.scale,
        "context_scale": task.block.context_scale,
    }
    return Packet(values, arrays)


def read_statistics(packet: Packet, model: Model, sender: str) -> State:
    """The objective's statistics, empty where it has none; raises InputError as `Packet.array`."""
    names = sorted(model.objective.statistics)
    if not names:
        return {}
    lengths = [model.objective.statistics[name] for name in names]
    flat = packet.array("statistics", torch.float32, sum(lengths), sender)
    return {name: part.clone() for name, part in zip(names, flat.split(lengths), strict=True)}


def _factors(packet: Packet, name: str, sender: str) -> dict[str, float]:
    found = packet.values.get(name)
    factors = {str(layer): as_number(value) for layer, value in found.items()} if isinstance(found, dict) else {"": None}
    if None in factors.values():
        raise InputError(f"{sender}: {name} is {str(found)[:40]!r}, expected numbers by layer")
    return {layer: value for layer, value in factors.items() if value is not None}


def decode_task(packet: Packet, model: Model, sender: str = "the server", mirror: Mirror | None = None) -> Sent:
    """Read a task.

    Args:
        packet: that came.
        model: encoder and objective.
        sender: for errors.
        mirror: what this machine has, where context may come as changes; brought up to date.

    Raises:
        InputError: something is missing, of another type or length, or out of range, or changes what this machine has not.
    """
    seed = packet.values.get("seed")
    if not isinstance(seed, list) or not seed or not all(isinstance(s, int) and 0 <= s < 2**64 for s in seed):
        raise InputError(f"{sender}: seed is {str(seed)[:40]!r}, expected whole numbers")
    precision, context_precision = (_precision(packet, name, sender) for name in ("precision", "context_precision"))
    steps = packet.whole("steps", sender, 1)
    if steps > MAX_STEPS:
        raise InputError(f"{sender}: steps is {steps}, expected at most {MAX_STEPS}")
    bare = unpack_block(packet, model.neuron_map, sender)
    block = Block(
        bare.trained, bare.context, _factors(packet, "scale", sender), _factors(packet, "context_scale", sender)
    )
    state, target = _read_weights(packet, model, block, context_precision, sender, mirror)
    state |= read_statistics(packet, model, sender)
    machine, before, round_index = (packet.whole(name, sender) for name in ("machine", "steps_before", "round"))
    task = LocalTask(machine, block, steps, tuple(seed), steps_before=before, round_index=round_index)
    return Sent(task, state, target, precision)


def _precision(packet: Packet, name: str, sender: str) -> str:
    found = packet.values.get(name)
    if found not in PRECISIONS:
        raise InputError(f"{sender}: {name} is {str(found)[:40]!r}, expected one of {', '.join(PRECISIONS)}")
    return str(found)


def _read_weights(
    packet: Packet, model: Model, block: Block, context_precision: str, sender: str, mirror: Mirror | None
) -> tuple[State, State | None]:
    """Weights and momentum target, as they are or by what changed in the mirror."""
    base, has_target = packet.values.get("base"), bool(model.target_parameters)
    if base is not None and (mirror is None or mirror.known is None or mirror.known != base):
        raise InputError(f"{sender}: sent changes of weights that this machine does not have, expected whole ones")
    state = put_back(packet, "weights", model.neuron_map, block, None, sender, base is not None)
    if base is None:
        target = None
        if has_target:
            target = put_back(packet, "target", model.neuron_map, block, sorted(model.target_parameters), sender)
        if mirror is not None and context_precision != "fp32":
            mirror.weights, mirror.target = dict(state), target or {}
            mirror.seal()
        return state, target
    assert mirror is not None
    mirror.known = None  # until all of it is read
    mirror.write(model, state, None, block, trained_only=True)
    read_changes(mirror, packet, model, block, context_precision, sender)
    mirror.seal()
    return dict(mirror.weights), mirror.target if has_target else None


def task_bytes(model: Model, block: Block, context_precision: str) -> int:
    """What weights take on the way down by the accounting of `costs` where the machine has what was sent before.

    Args:
        model: encoder and objective.
        block: what the machine trains and sees.
        context_precision: as of `encode_task`.
    """
    trained = sum(bytes_of(shape, "fp32") for shape in trained_shapes(model.neuron_map, block).values())
    seen = [slice_shape(p, len(rows), block) for _, p, rows in seen_pieces(Mirror.blank(model), model, block)]
    return trained + sum(bytes_of(shape, context_precision) for shape in seen) + 4 * sum(model.objective.statistics.values())
