"""What a machine holds, and what one training step sees of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from fedcore.augment import normalise

KEPT_NUMBERS = 1 << 22
"""Pixels up to which a machine keeps its images normalised (16 MiB)."""


@dataclass(frozen=True)
class Samples:
    """One machine's own data.

    Attributes:
        x: (N, C, H, W) uint8 images, or (N, T + 1) int64 windows of tokens.
        labels: (N,) int64, for supervised references only; None everywhere else.
    """

    x: Tensor
    labels: Tensor | None = None

    def __len__(self) -> int:
        return len(self.x)

    @cached_property
    def _normalised(self) -> Tensor:
        return normalise(self.x)

    def images(self, chosen: Tensor) -> Tensor:
        """Normalised images by index, (n, C, H, W) float32; normalised once for all while that takes little memory."""
        if self.x.numel() <= KEPT_NUMBERS:
            return self._normalised[chosen]
        return normalise(self.x[chosen])


def set_aside(held: Sequence[Samples], every: int = 10) -> tuple[list[Samples], Samples]:
    """Unlabelled samples for the server: one in so many of every machine's, and what machines hold without them."""
    first = [torch.arange(len(own)) % every == 0 for own in held]
    left = [
        Samples(own.x[~given], None if own.labels is None else own.labels[~given])
        for own, given in zip(held, first, strict=True)
    ]
    return left, Samples(torch.cat([own.x[given] for own, given in zip(held, first, strict=True)]))


@dataclass(frozen=True)
class Batch:
    """What an objective draws for one step.

    Attributes:
        views: float tensors (N, C, H, W), one per view (views may differ in size), or one int64 tensor of tokens.
        labels: (N,) int64 where the objective is supervised.
    """

    views: tuple[Tensor, ...]
    labels: Tensor | None = None
