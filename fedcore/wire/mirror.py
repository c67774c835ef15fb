"""Delta-encoded context: both ends keep what a machine was sent last, and what it only sees comes as rounded changes of that.

A change is taken against what the machine has and not against what the server had, so that what rounding leaves out of one
change is in the next (closed-loop prediction, as in DPCM; EF21 of Richtarik et al. 2021 does it for gradients). What a machine
trains is always sent as it is: its answer starts from that.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from fedcore.blocks import Block, look, places
from fedcore.model import Model
from fedcore.neurons import Parameter, State
from fedcore.wire.packet import Packet
from fedcore.wire.precision import pack_rounded, read_rounded, round_change
from fedcore.wire.slices import parts, slice_shape

Piece = tuple[State, Parameter, Tensor]


@dataclass
class Mirror:
    """What a machine has.

    Attributes:
        weights: whole tensors, zero where nothing came yet.
        target: the same of the momentum target, empty where there is none.
        known: checksum of both after the last message; None before the first, or after one that did not read.
    """

    weights: State
    target: State
    known: int | None = None

    @staticmethod
    def blank(model: Model) -> Mirror:
        """Of a machine that has nothing."""
        weights = {p.name: torch.zeros(p.shape) for p in model.neuron_map.parameters}
        return Mirror(weights, {name: torch.zeros_like(weights[name]) for name in sorted(model.target_parameters)})

    def write(self, model: Model, state: State, target: State | None, block: Block, trained_only: bool) -> None:
        """Take over what a block trains as it is, or all that it sees, of both."""
        for kept, whole in ((self.weights, state), (self.target, target or {})):
            if kept is self.weights or not trained_only:
                for p, rows in parts(model.neuron_map, block, sorted(kept), trained_only):
                    kept[p.name][places(p, rows, block)] = look(whole[p.name], p, rows, block)

    def seal(self) -> None:
        """Note the checksum, once a message is read or written whole."""
        self.known = 0
        for tensors in (self.weights, self.target):
            for name in sorted(tensors):
                self.known = zlib.crc32(tensors[name].numpy().data, self.known)


def seen_pieces(mirror: Mirror, model: Model, block: Block) -> Iterator[Piece]:
    """What the machine sees and does not train, in the order in which it travels: (whole tensors it is of, parameter, rows)."""
    for p in model.neuron_map.parameters:
        if len(block.context[p.rows]):
            yield mirror.weights, p, block.context[p.rows]
    for p, rows in parts(model.neuron_map, block, sorted(mirror.target)):
        yield mirror.target, p, rows


def encode_changes(
    mirror: Mirror, model: Model, state: State, target: State | None, block: Block, precision: str
) -> dict[str, Tensor]:
    """Arrays of what changed in what the machine sees, written to its mirror as the machine will read it.

    Args:
        mirror: of the machine; changed.
        model: encoder and objective.
        state: global weights.
        target: momentum target, or None.
        block: what the machine sees.
        precision: "bf16" or "int8".
    """
    changes = []
    for kept, p, rows in seen_pieces(mirror, model, block):
        whole = state if kept is mirror.weights else target
        assert whole is not None
        changes.append(round_change(look(whole[p.name], p, rows, block) - look(kept[p.name], p, rows, block), precision))
        kept[p.name][places(p, rows, block)] += changes[-1].value
    return pack_rounded("context", changes, precision)


def read_changes(mirror: Mirror, packet: Packet, model: Model, block: Block, precision: str, sender: str) -> None:
    """Bring a mirror up to date; arguments as `encode_changes`.

    Raises:
        InputError: an array is missing, or of another type or length.
    """
    pieces = list(seen_pieces(mirror, model, block))
    shapes = [slice_shape(p, len(rows), block) for _, p, rows in pieces]
    changes = read_rounded(packet, "context", shapes, precision, sender)
    for (kept, p, rows), change in zip(pieces, changes, strict=True):
        kept[p.name][places(p, rows, block)] += change
