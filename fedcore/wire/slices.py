"""A block of a state as flat arrays, and back: both sides know the model, so names and shapes need not travel."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from fedcore.blocks import Block, look, places
from fedcore.neurons import NeuronMap, Parameter, State
from fedcore.wire.packet import Packet
from scenarios.errors import InputError


def slice_shape(parameter: Parameter, rows: int, block: Block) -> tuple[int, ...]:
    """Shape of so many rows of a parameter by the block's visible columns."""
    return parameter.slice_shape(rows, 0 if parameter.cols is None else len(block.visible(parameter.cols)))


def parts(
    neuron_map: NeuronMap, block: Block, names: Sequence[str] | None = None, trained_only: bool = False
) -> Iterator[tuple[Parameter, Tensor]]:
    """The pieces that a machine sees, in the order in which they travel: (parameter, indices of its rows).

    Args:
        neuron_map: the model.
        block: what is visible.
        names: of the parameters that count; None is all.
        trained_only: leave out what it does not train.
    """
    for p in neuron_map.parameters:
        if names is None or p.name in names:
            for rows in (block.trained[p.rows],) if trained_only else (block.trained[p.rows], block.context[p.rows]):
                if len(rows):
                    yield p, rows


def trained_shapes(neuron_map: NeuronMap, block: Block) -> dict[str, tuple[int, ...]]:
    """Parameter -> shape of what a machine trains of it, in the order in which it travels."""
    return {
        p.name: slice_shape(p, len(block.trained[p.rows]), block)
        for p in neuron_map.parameters
        if len(block.trained[p.rows])
    }


def join(tensors: Sequence[Tensor]) -> Tensor:
    """Flat, one behind the other."""
    return torch.cat([t.detach().flatten() for t in tensors]) if tensors else torch.zeros(0)


def cut_out(state: State, neuron_map: NeuronMap, block: Block, trained_only: bool = False) -> Tensor:
    """Everything of a state that a block sees, or only what it trains, flat float32."""
    names = [p.name for p in neuron_map.parameters if p.name in state]
    return join([look(state[p.name], p, rows, block) for p, rows in parts(neuron_map, block, names, trained_only)])


def put_back(
    packet: Packet,
    name: str,
    neuron_map: NeuronMap,
    block: Block,
    names: Sequence[str] | None,
    sender: str,
    trained_only: bool = False,
) -> State:
    """Whole tensors in which what the block sees is as it came, and everything else is zero.

    Local training reads the visible part only, so it gives the same from these as from the server's own.

    Args:
        packet: it came in.
        name: of the array.
        neuron_map: the model.
        block: what is visible.
        names: of the parameters; None is all.
        sender: for errors.
        trained_only: what came is only what the block trains.

    Raises:
        InputError: the array is missing, or of another type or length.
    """
    pieces = [(p, rows, slice_shape(p, len(rows), block)) for p, rows in parts(neuron_map, block, names, trained_only)]
    sizes = [torch.Size(shape).numel() for _, _, shape in pieces]
    flat = packet.array(name, torch.float32, sum(sizes), sender)
    state = {p.name: torch.zeros(p.shape) for p in neuron_map.parameters if names is None or p.name in names}
    for (p, rows, shape), values in zip(pieces, flat.split(sizes), strict=True):
        state[p.name][places(p, rows, block)] = values.reshape(shape)
    return state


def pack_block(neuron_map: NeuronMap, block: Block) -> Tensor:
    """Which neurons a block trains and which it only sees, one bit each: layer by layer, trained first; uint8."""
    bits = []
    for layer in neuron_map.layers:
        for index in (block.trained[layer.name], block.context[layer.name]):
            mask = torch.zeros(-(-layer.neurons // 8) * 8, dtype=torch.uint8)
            mask[index] = 1
            bits.append(mask)
    powers = 2 ** torch.arange(8, dtype=torch.uint8)
    return (torch.cat(bits).reshape(-1, 8) * powers).sum(dim=1).to(torch.uint8)


def unpack_block(packet: Packet, neuron_map: NeuronMap, sender: str) -> Block:
    """The block of `pack_block`, from array "block".

    Raises:
        InputError: it has another length, or a neuron is both trained and context.
    """
    lengths = [-(-layer.neurons // 8) for layer in neuron_map.layers for _ in range(2)]
    flat = packet.array("block", torch.uint8, sum(lengths), sender)
    bits = (flat[:, None] >> torch.arange(8, dtype=torch.uint8)) & 1
    masks = list(bits.flatten().split([8 * length for length in lengths]))
    trained: dict[str, Tensor] = {}
    context: dict[str, Tensor] = {}
    for layer, own, seen in zip(neuron_map.layers, masks[::2], masks[1::2], strict=True):
        if bool((own & seen).any()) or bool((own | seen)[layer.neurons :].any()):
            raise InputError(f"{sender}: block of layer {layer.name} names neurons twice or that there are not")
        trained[layer.name], context[layer.name] = own.nonzero().flatten(), seen.nonzero().flatten()
    return Block(trained, context)
