"""What a machine trained as a message: its block at the precision asked for, statistics, telemetry."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from fedcore.blocks import Block, look, places
from fedcore.local import LocalResult
from fedcore.model import Model
from fedcore.neurons import State
from fedcore.wire.packet import Packet
from fedcore.wire.precision import bytes_of, pack_rounded, read_rounded, round_change
from fedcore.wire.slices import join, trained_shapes
from fedcore.wire.task import Sent, read_statistics
from scenarios.errors import InputError

EXTRA = "extra"


def _started(model: Model, state: State, block: Block) -> Iterator[tuple[str, tuple[Tensor, ...], Tensor]]:
    """Of every trained piece: its name, where it is in the whole tensor, and what it was before training."""
    for p in model.neuron_map.parameters:
        rows = block.trained[p.rows]
        if len(rows):
            yield p.name, places(p, rows, block), look(state[p.name], p, rows, block)


def encode_result(model: Model, sent: Sent, result: LocalResult, residual: State, compute_s: float) -> Packet:
    """The message that goes back.

    Args:
        model: encoder and objective.
        sent: the task as it came.
        result: of local training.
        residual: what rounding left out so far, by parameter, whole tensors; changed in place where the precision rounds.
        compute_s: seconds that training took.
    """
    arrays: dict[str, Tensor] = {}
    if sent.precision == "fp32":
        arrays["trained"] = join([result.trained[name] for name in trained_shapes(model.neuron_map, sent.task.block)])
    else:
        changes = []
        for name, index, start in _started(model, sent.state, sent.task.block):
            kept = residual.setdefault(name, torch.zeros_like(sent.state[name]))
            change = result.trained[name] - start + kept[index]
            rounded = round_change(change, sent.precision)
            left = change - rounded.value
            # A NaN must not stay for ever: what diverged is refused as a whole.
            kept[index] = torch.where(torch.isfinite(left), left, 0.0)
            changes.append(rounded)
        arrays |= pack_rounded("trained", changes, sent.precision)
    names = sorted(model.objective.statistics)
    if names:
        arrays["statistics"] = join([result.statistics[name] for name in names])
    for kind, tensors in result.extra.items():
        arrays |= {f"{EXTRA}:{kind}:{name}": value for name, value in tensors.items()}
    values = {
        "round": sent.task.round_index,
        "machine": sent.task.machine,
        "steps": result.steps,
        "samples": result.samples,
        # JSON has no NaN; a diverged loss is told as none, and its weights are what gets it refused.
        "loss": result.loss if torch.isfinite(torch.tensor(result.loss)) else None,
        "precision": sent.precision,
        "compute_s": round(compute_s, 6),
    }
    return Packet(values, arrays)


def decode_result(
    packet: Packet,
    model: Model,
    state: State,
    block: Block,
    precision: str,
    sender: str,
    extras: Mapping[str, Mapping[str, int]] = MappingProxyType({}),
) -> LocalResult:
    """Read what a machine sent back.

    Args:
        packet: that came.
        model: encoder and objective.
        state: the global weights that it was sent its block of.
        block: that it was sent.
        precision: that it was asked for.
        sender: "machine NAME", for errors.
        extras: what else it was asked for, as `Method.extras`.

    Raises:
        InputError: something is missing, or of another type, length or precision, or was not asked for; an extra is not
            finite.
    """
    if packet.values.get("precision") != precision:
        raise InputError(f"{sender}: block came at {str(packet.values.get('precision'))[:40]!r}, expected {precision}")
    shapes = trained_shapes(model.neuron_map, block)
    if precision == "fp32":
        sizes = [torch.Size(shape).numel() for shape in shapes.values()]
        flat = packet.array("trained", torch.float32, sum(sizes), sender).split(sizes)
        trained = {name: part.reshape(shape) for (name, shape), part in zip(shapes.items(), flat, strict=True)}
    else:
        changes = read_rounded(packet, "trained", list(shapes.values()), precision, sender)
        trained = {
            name: start + change for (name, _, start), change in zip(_started(model, state, block), changes, strict=True)
        }
    statistics = read_statistics(packet, model, sender)
    wanted = {(kind, key): f"{EXTRA}:{kind}:{key}" for kind, lengths in extras.items() for key in lengths}
    strange = packet.arrays.keys() - {"trained", *(["statistics"] if statistics else []), *wanted.values()}
    if strange:
        raise InputError(f"{sender}: sent array {min(strange)[:60]!r}, which nobody asked for")
    extra: dict[str, State] = {kind: {} for kind in extras}
    for (kind, key), name in wanted.items():
        extra[kind][key] = packet.array(name, torch.float32, extras[kind][key], sender)
        if not torch.isfinite(extra[kind][key]).all():
            raise InputError(f"{sender}: array {name} is not finite")
    loss = float("nan") if packet.values.get("loss") is None else packet.number("loss", sender)
    steps, samples = packet.whole("steps", sender, 1), packet.whole("samples", sender, 1)
    return LocalResult(trained, loss, steps, samples, statistics, extra)


def result_bytes(model: Model, block: Block, precision: str) -> int:
    """What a block takes on the way up by the accounting of `costs`, at a precision: weights and statistics alone."""
    shapes = trained_shapes(model.neuron_map, block).values()
    return sum(bytes_of(shape, precision) for shape in shapes) + 4 * sum(model.objective.statistics.values())
