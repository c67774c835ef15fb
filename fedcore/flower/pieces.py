"""A message's content as a record of arrays.

Flower takes a message for there as soon as its head is, and then asks for each array that is still on its way again after
1, 2, 4, ... seconds: an answer in one array over a slow uplink is had up to twice as late as it came. Cut in pieces, each
is asked for anew, and the whole is late by a second at most.
"""

from __future__ import annotations

import numpy as np
from flwr.app import Array, ArrayRecord

PIECE_BYTES = 1 << 16
MOST_PIECES = 64


def cut(content: bytes, piece_bytes: int = PIECE_BYTES) -> ArrayRecord:
    """Pieces in order, at most `MOST_PIECES`."""
    size = max(piece_bytes, -(-len(content) // MOST_PIECES), 1)
    parts = [content[at : at + size] for at in range(0, max(len(content), 1), size)]
    return ArrayRecord({f"{i:03d}": Array(np.frombuffer(part, dtype=np.uint8)) for i, part in enumerate(parts)})


def joined(record: ArrayRecord) -> bytes:
    """What was cut.

    Raises:
        TypeError: it is another record.
    """
    if not isinstance(record, ArrayRecord):
        raise TypeError(f"{type(record).__name__} in place of arrays")
    return b"".join(record[name].numpy().tobytes() for name in sorted(record))
