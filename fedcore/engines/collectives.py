"""Sums and gathers between the ranks of a gloo group, over point-to-point messages, every byte of payload counted.

Gloo's own all-gather wants equal parts, and its all-reduce tells nobody what it sent. These take unequal parts, add in
rank order (all ranks end with the same bits, whatever arrives first) and count.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor


class Collectives:
    """The collectives of one rank of the default process group; all ranks must call the same ones in the same order.

    Attributes:
        rank: this process.
        ranks: how many there are, p.
        sent_bytes: payload sent so far.
        received_bytes: payload received so far.
        exchanges: times that this rank waited for the others.
    """

    def __init__(self, rank: int, ranks: int) -> None:
        self.rank, self.ranks = rank, ranks
        self.sent_bytes = self.received_bytes = self.exchanges = 0

    def exchange(self, outgoing: Sequence[Tensor], shapes: Sequence[Sequence[int]]) -> list[Tensor]:
        """Send one tensor to every other rank and receive one from each.

        Args:
            outgoing: by rank; the own entry is handed back as it is.
            shapes: by rank, of what comes from it; nothing is sent where a tensor is empty.

        Returns:
            By rank, what came from it.
        """
        if self.ranks == 1:
            return list(outgoing)
        incoming, messages, waiting = [], [], []
        for other in range(self.ranks):
            if other == self.rank:
                incoming.append(outgoing[other])
                continue
            buffer, message = outgoing[other].new_empty(tuple(shapes[other])), outgoing[other].contiguous()
            incoming.append(buffer)
            messages.append(message)  # must live until it is sent
            if buffer.numel():
                waiting.append(dist.irecv(buffer, other))
                self.received_bytes += buffer.numel() * buffer.element_size()
            if message.numel():
                waiting.append(dist.isend(message, other))
                self.sent_bytes += message.numel() * message.element_size()
        for work in waiting:
            if work is not None:
                work.wait()
        self.exchanges += 1
        return incoming

    def gather(self, own: Tensor, sizes: Sequence[int], dim: int) -> list[Tensor]:
        """Every rank's part: p - 1 copies of the own one up, all the others down.

        Args:
            own: this rank's part.
            sizes: by rank, of its part along `dim`; all other dimensions agree.
            dim: where they differ.
        """
        shapes = [[*own.shape] for _ in sizes]
        for shape, size in zip(shapes, sizes, strict=True):
            shape[dim] = size
        return self.exchange([own] * self.ranks, shapes)

    def reduce_scatter(self, parts: Sequence[Tensor]) -> Tensor:
        """The sum over ranks of their tensors for this rank: all the others' parts up, p - 1 of the own size down.

        Args:
            parts: by rank, what this rank adds to that one's sum.
        """
        own = parts[self.rank]
        incoming = self.exchange(parts, [own.shape] * self.ranks)
        total = incoming[0].clone()
        for part in incoming[1:]:
            total += part
        return total

    def all_reduce(self, x: Tensor) -> Tensor:
        """The sum over ranks, on every rank: every rank adds up one slice, then the slices are gathered."""
        flat = x.reshape(-1)
        slices = flat.tensor_split(self.ranks)
        total = self.reduce_scatter(slices)
        return torch.cat(self.gather(total, [len(s) for s in slices], 0)).view(x.shape)
