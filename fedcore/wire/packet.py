"""A message: a few plain values and named arrays, as bytes that notice any damage. Nothing in it is ever unpickled."""

from __future__ import annotations

import json
import math
import struct
import zlib
from dataclasses import dataclass
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from scenarios.errors import InputError

_MAGIC = b"IFW2"
_HEAD = struct.Struct("<4sII")  # magic, CRC-32 of everything behind it, bytes of JSON
_DEEPEST = 4
"""Lists and named values within each other; ours are two deep, and what is nested without end cannot even be shown."""


def _deeper(value: Any, levels: int) -> bool:
    """Whether lists and named values are within each other more than so many times."""
    inside = [value]
    for _ in range(levels):
        inside = [
            inner
            for outer in inside
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
    return any(isinstance(each, dict | list) for each in inside)


def plain(text: object, most: int = 300) -> str:
    """What a sender said, for a line of a log: cut, and without what a terminal would obey or could not print."""
    return "".join(c if c.isprintable() else "?" for c in str(text)[:most])


def as_number(value: Any) -> float | None:
    """A JSON value as a finite number; None where it is none, as whole numbers beyond all floats are."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None


@dataclass(frozen=True)
class Packet:
    """One message.

    Attributes:
        values: JSON values by name.
        arrays: tensors by name.
    """

    values: dict[str, Any]
    arrays: dict[str, Tensor]

    def to_bytes(self) -> bytes:
        """As bytes: a head, the values as JSON, the arrays as safetensors."""
        text = json.dumps(self.values, separators=(",", ":")).encode()
        # Safetensors refuses views that share memory, and a packet is read once: contiguous copies only where needed.
        body = text + save({name: array.detach().contiguous() for name, array in self.arrays.items()})
        return _HEAD.pack(_MAGIC, zlib.crc32(struct.pack("<I", len(text)) + body), len(text)) + body

    @staticmethod
    def from_bytes(content: bytes, sender: str) -> Packet:
        """Read a message.

        Args:
            content: what came.
            sender: named in errors.

        Raises:
            InputError: it is damaged, cut short, or none of ours.
        """
        wanted = "expected a message of this version of intrafed"
        if len(content) < _HEAD.size or content[:4] != _MAGIC:
            raise InputError(f"{sender}: a message of {len(content)} bytes does not begin as ours do; {wanted}")
        _, checksum, length = _HEAD.unpack_from(content)
        body = content[_HEAD.size :]
        if length > len(body) or zlib.crc32(struct.pack("<I", length) + body) != checksum:
            raise InputError(f"{sender}: a message of {len(content)} bytes is damaged or cut short; {wanted}")
        try:
            values, arrays = json.loads(body[:length]), load(bytes(body[length:]))
        except (ValueError, SafetensorError, KeyError, RecursionError) as error:
            raise InputError(f"{sender}: a message does not read ({error}); {wanted}") from None
        if not isinstance(values, dict) or _deeper(values, _DEEPEST):
            raise InputError(f"{sender}: a message holds {type(values).__name__} in place of plain named values; {wanted}")
        return Packet(values, arrays)

    def array(self, name: str, dtype: torch.dtype, length: int, sender: str) -> Tensor:
        """A flat array that must be there.

        Raises:
            InputError: it is missing, or of another type or length.
        """
        found = self.arrays.get(name)
        if found is None or found.dtype != dtype or found.shape != (length,):
            shown = "missing" if found is None else f"{tuple(found.shape)} {found.dtype}"
            raise InputError(f"{sender}: array {name} is {shown}, expected ({length},) {dtype}")
        return found

    def number(self, name: str, sender: str, least: float = -math.inf, most: float = math.inf) -> float:
        """A finite number that must be there, from `least` to `most`; raises InputError as `array`."""
        found = as_number(self.values.get(name))
        if found is None or not least <= found <= most:
            bounds = [f" at least {least:g}"] * (least > -math.inf) + [f" at most {most:g}"] * (most < math.inf)
            shown, wanted = str(self.values.get(name))[:40], "a finite number" + (" of" + " and".join(bounds) if bounds else "")
            raise InputError(f"{sender}: {name} is {shown!r}, expected {wanted}")
        return found

    def whole(self, name: str, sender: str, least: int = 0) -> int:
        """As `number`, for whole numbers."""
        found = self.values.get(name)
        if not isinstance(found, int) or isinstance(found, bool) or not least <= found < 2**63:
            raise InputError(f"{sender}: {name} is {str(found)[:40]!r}, expected a whole number of at least {least}")
        return found
