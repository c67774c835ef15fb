"""Precisions that weights travel in: fp32 as they are, bf16 and int8 as changes, whose rounding error is kept.

What rounding leaves out is added to the next change of the same weight (error feedback, Seide et al. 2014, Karimireddy et
al. 2019), so that small steady changes are not lost for good.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedcore.wire.packet import Packet

PRECISIONS = ("fp32", "bf16", "int8")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "int8": torch.int8}
LARGEST = 127


@dataclass(frozen=True)
class Rounded:
    """A change at a lower precision.

    Attributes:
        content: what travels, bf16 or int8, flat.
        scales: int8 only, float32: one per row of a matrix or kernel, one for a whole vector; empty for bf16.
        value: what the other side reads, float32, as the change's shape.
    """

    content: Tensor
    scales: Tensor
    value: Tensor


def scale_count(shape: torch.Size | tuple[int, ...]) -> int:
    """Scales that an int8 change of that shape takes: a vector's entries are too few to give each row one."""
    return shape[0] if len(shape) > 1 else 1


def bytes_of(shape: torch.Size | tuple[int, ...], precision: str) -> int:
    """Bytes of a trained tensor of that shape at a precision, scales included."""
    entries = torch.Size(shape).numel()
    if precision == "int8":
        return entries + 4 * scale_count(shape)
    return entries * (2 if precision == "bf16" else 4)


def round_change(change: Tensor, precision: str) -> Rounded:
    """Round a change.

    Args:
        change: float32; of a NaN or infinity its row, or all of a vector, comes out as NaN, which merging refuses.
        precision: "bf16" or "int8".

    Raises:
        ValueError: another precision.
    """
    if precision == "bf16":
        content = change.to(torch.bfloat16)
        return Rounded(content.flatten(), torch.zeros(0), content.float())
    if precision != "int8":
        raise ValueError(f"precision is {precision!r}, expected bf16 or int8")
    rows = change.reshape(scale_count(change.shape), -1)
    # The smallest normal number keeps a row of zeros, or of denormals, from being divided by zero.
    scales = (rows.abs().amax(dim=1) / LARGEST).clamp_min(torch.finfo(torch.float32).tiny)
    sound = torch.isfinite(scales)
    scales = torch.where(sound, scales, torch.nan)
    content = torch.where(sound[:, None], (rows / scales[:, None]).round().clamp(-LARGEST, LARGEST), 0.0).to(torch.int8)
    return Rounded(content.flatten(), scales, read_int8(content.flatten(), scales, change.shape))


def read_int8(content: Tensor, scales: Tensor, shape: torch.Size | tuple[int, ...]) -> Tensor:
    """A change from its int8 content and its scales."""
    return (content.reshape(len(scales), -1).float() * scales[:, None]).reshape(tuple(shape))


def pack_rounded(name: str, changes: Sequence[Rounded], precision: str) -> dict[str, Tensor]:
    """Rounded changes as one flat array of a message, one behind the other, the scales of all before them; precision "bf16" or
    "int8"."""
    parts = [change.content for change in changes] or [torch.zeros(0, dtype=DTYPES[precision])]
    if precision == "int8":
        parts = [change.scales.view(torch.int8) for change in changes] + parts
    return {name: torch.cat(parts)}


def read_rounded(
    packet: Packet, name: str, shapes: Sequence[tuple[int, ...]], precision: str, sender: str
) -> list[Tensor]:
    """The changes of `pack_rounded`, float32, of these shapes.

    Raises:
        InputError: the array is missing, or of another type or length.
    """
    sizes = [torch.Size(shape).numel() for shape in shapes]
    counts = [scale_count(shape) for shape in shapes] if precision == "int8" else []
    flat = packet.array(name, DTYPES[precision], 4 * sum(counts) + sum(sizes), sender)
    contents = flat[4 * sum(counts) :].split(sizes)
    if precision == "bf16":
        return [content.float().reshape(shape) for content, shape in zip(contents, shapes, strict=True)]
    scales = flat[: 4 * sum(counts)].clone().view(torch.float32).split(counts)  # a copy lies where numbers may begin
    return [read_int8(*one) for one in zip(contents, scales, shapes, strict=True)]
