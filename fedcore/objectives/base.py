"""What a training objective is: heads on top of the features, a loss over views, perhaps a momentum target."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from math import prod
from typing import Any, ClassVar

import torch
from torch import Tensor

from fedcore.augment import Augmentation, random_view
from fedcore.blocks import Weights
from fedcore.encoders.base import Encoder
from fedcore.neurons import NeuronMap, State, kaiming_state
from fedcore.objectives.momentum import cosine_momentum
from fedcore.samples import Batch, Samples

Features = Callable[[Weights, Tensor], Tensor]


class Objective(ABC):
    """A training objective, label-free but for the supervised reference.

    Args:
        encoder: what it sits on.
        options: of the objective.

    Attributes:
        reads: what it trains on, "images" or "tokens", as `Encoder.reads`.
        heads: layers and parameters on top of the encoder.
        norm_gains: names of head parameters that start at 1.
        target_momentum: per local step, of the server's momentum target; None where the objective has no target.
        schedule_steps: local steps in which the momentum rises to 1; None keeps it constant.
        online_only: head parameters that the target does not have (a predictor).
        views_per_sample: full-size views that go through the encoder per sample and step (smaller crops count by area).
        layer_views: the same for single encoder layers where it differs (strides round up on smaller crops).
        head_views: views that go through the heads per sample and step.
        target_views: views that go through the momentum target, where there is one.
        statistics: name -> length of vectors that are no weights but are kept, sent and merged with them (a centre).
    """

    reads: ClassVar[str] = "images"
    heads: NeuronMap
    norm_gains: frozenset[str]
    target_momentum: float | None = None
    schedule_steps: int | None = None
    online_only: frozenset[str] = frozenset()
    views_per_sample: float = 2
    layer_views: dict[str, float] = {}  # noqa: RUF012  (each class that has any sets its own)
    head_views: int = 2
    target_views: int = 2
    statistics: dict[str, int] = {}  # noqa: RUF012  (each class that has any sets its own)

    @abstractmethod
    def __init__(self, encoder: Encoder, **options: Any) -> None: ...

    def draw(self, samples: Samples, chosen: Tensor, how: Augmentation, generator: torch.Generator) -> Batch:
        """The batch of one step: by default two random views of every chosen image.

        Args:
            samples: the machine's own.
            chosen: (N,) int64 indices into them.
            how: strengths of the views.
            generator: every draw comes from it.
        """
        x = samples.images(chosen)
        return Batch((random_view(x, how, generator), random_view(x, how, generator)))

    def init_state(self, generator: torch.Generator) -> State:
        """Fresh heads, every draw from the generator, and statistics at zero."""
        zeros = {name: torch.zeros(length) for name, length in self.statistics.items()}
        return kaiming_state(self.heads, generator, self.norm_gains) | zeros

    def loss_numbers(self, batch: int) -> int:
        """Numbers that the loss of a batch holds at the start of the backward pass, beside what the layers keep."""
        return 0

    def momentum(self, step: int) -> float:
        """Momentum of the target in local step `step`, counted from 0 over the whole run."""
        assert self.target_momentum is not None
        return cosine_momentum(self.target_momentum, step, self.schedule_steps)

    def momentum_over(self, step: int, steps: int) -> float:
        """Momentum of a target that moves once for `steps` local steps from `step` on: the product of theirs."""
        if self.momentum(step) == self.momentum(step + steps):
            return self.momentum(step) ** steps
        return prod(self.momentum(step + i) for i in range(steps))

    @abstractmethod
    def loss(self, features: Features, weights: Weights, target: Weights | None, batch: Batch) -> Tensor:
        """Loss of one batch.

        Args:
            features: maps (weights, views) to features, in whatever precision the recipe asks for.
            weights: online weights.
            target: weights of the momentum target where there is one; never differentiated.
            batch: from `draw`.

        Returns:
            Scalar.
        """

    def update_statistics(self, weights: Weights) -> None:  # noqa: B027  (most have none)
        """Move `weights.statistics` by what the last `loss` saw; called after every local step."""
