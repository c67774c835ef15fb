"""Messages between processes whose tensors lie in shared memory instead of going through a pipe."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
from collections.abc import Callable, Sequence
from multiprocessing import shared_memory
from typing import Any

import torch
from torch import Tensor

ALIGNMENT = 64


class _TensorPickler(pickle.Pickler):
    """Tensors as arrays (torch's own pickling opens a file descriptor for each), their bytes out of band."""

    def reducer_override(self, obj: Any) -> Any:
        """See `pickle.Pickler.reducer_override`."""
        if isinstance(obj, Tensor):
            return torch.from_numpy, (obj.detach().contiguous().numpy(),)
        return NotImplemented


def pack(message: Any) -> tuple[bytes, list[pickle.PickleBuffer]]:
    """A message as a small pickle and the buffers of its tensors."""
    buffers: list[pickle.PickleBuffer] = []
    stream = io.BytesIO()
    _TensorPickler(stream, protocol=5, buffer_callback=buffers.append).dump(message)
    return stream.getvalue(), buffers


Packed = tuple[bytes, list[tuple[int, int]] | list[bytes]]
"""A pickle, and where its buffers lie in an arena (offset, length), or the buffers themselves."""


def in_band(message: Any) -> Packed:
    """A message with its buffers beside it, for a pipe."""
    content, buffers = pack(message)
    return content, [bytes(buffer.raw()) for buffer in buffers]


def from_band(packed: Packed) -> Any:
    """The message of `in_band`."""
    return pickle.loads(packed[0], buffers=[bytearray(buffer) for buffer in packed[1]])


def _ends(buffers: Sequence[pickle.PickleBuffer]) -> list[tuple[int, int]]:
    places, offset = [], 0
    for buffer in buffers:
        length = buffer.raw().nbytes
        places.append((offset, length))
        offset += -(-length // ALIGNMENT) * ALIGNMENT
    return places


class Arena:
    """A piece of shared memory that one side writes and the other reads, one message at a time.

    Args:
        size: bytes.
        name: of an arena that another process made; None makes one. Whoever makes it must `close` it.

    Raises:
        OSError: there is not that much shared memory.
    """

    def __init__(self, size: int, name: str | None = None) -> None:
        self._memory = shared_memory.SharedMemory(name=name, create=name is None, size=size)
        self.name, self.size = self._memory.name, size
        self._mine = name is None
        if self._mine:
            try:
                # Without it a full /dev/shm (64 MiB in many containers) kills the writer by a signal.
                os.posix_fallocate(self._memory._fd, 0, size)  # type: ignore[attr-defined]
            except OSError:
                self.close()
                raise

    @property
    def _view(self) -> memoryview:
        view = self._memory.buf
        assert view is not None, "the arena is closed"
        return view

    def write(self, message: Any) -> Packed:
        """Write a message's buffers here if they fit; they travel with the returned value otherwise."""
        content, buffers = pack(message)
        places = _ends(buffers)
        if places and sum(places[-1]) > self.size:
            return content, [bytes(buffer.raw()) for buffer in buffers]
        for buffer, (offset, length) in zip(buffers, places, strict=True):
            self._view[offset : offset + length] = buffer.raw()
        return content, places

    def read(self, packed: Packed, copy: bool) -> Any:
        """The message; without `copy` its tensors alias the arena and must be let go before the next `write`."""
        content, places = packed
        as_buffer: Callable[[memoryview], Any] = bytearray if copy else lambda view: view
        buffers = [
            bytearray(place) if isinstance(place, bytes) else as_buffer(self._view[place[0] : place[0] + place[1]])
            for place in places
        ]
        return pickle.loads(content, buffers=buffers)

    def close(self) -> None:
        """Let the memory go."""
        with contextlib.suppress(BufferError):  # tensors still alias it: the process's end lets go
            self._memory.close()
        if self._mine:
            self._memory.unlink()

