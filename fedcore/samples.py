"""What a machine holds, and what one training step sees of it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


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


@dataclass(frozen=True)
class Batch:
    """What an objective draws for one step.

    Attributes:
        views: float tensors (N, C, H, W), one per view (views may differ in size), or one int64 tensor of tokens.
        labels: (N,) int64 where the objective is supervised.
    """

    views: tuple[Tensor, ...]
    labels: Tensor | None = None
