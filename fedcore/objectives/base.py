"""What a training objective is: heads on top of the features, a loss over views, perhaps a momentum target."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from fedcore.augment import Augmentation, normalise, random_view
from fedcore.blocks import Weights
from fedcore.neurons import NeuronMap, State, kaiming_state
from fedcore.samples import Batch, Samples

Features = Callable[[Weights, Tensor], Tensor]


class Objective(ABC):
    """A training objective, label-free but for the supervised reference.

    Attributes:
        heads: layers and parameters on top of the encoder.
        norm_gains: names of head parameters that start at 1.
        target_momentum: per local step, of the server's momentum target; None where the objective has no target.
        online_only: head parameters that the target does not have (a predictor).
        views_per_sample: full-size views that go through the encoder per sample and step (smaller crops count by area).
        head_views: views that go through the heads per sample and step.
        target_views: views that go through the momentum target, where there is one.
        statistics: name -> length of vectors that are no weights but are kept, sent and merged with them (a centre).
    """

    heads: NeuronMap
    norm_gains: frozenset[str]
    target_momentum: float | None = None
    online_only: frozenset[str] = frozenset()
    views_per_sample: float = 2
    head_views: int = 2
    target_views: int = 2
    statistics: dict[str, int] = {}  # noqa: RUF012  (each class that has any sets its own)

    def draw(self, samples: Samples, chosen: Tensor, how: Augmentation, generator: torch.Generator) -> Batch:
        """The batch of one step: by default two random views of every chosen image.

        Args:
            samples: the machine's own.
            chosen: (N,) int64 indices into them.
            how: strengths of the views.
            generator: every draw comes from it.
        """
        x = normalise(samples.x[chosen])
        return Batch((random_view(x, how, generator), random_view(x, how, generator)))

    def init_state(self, generator: torch.Generator) -> State:
        """Fresh heads, every draw from the generator, and statistics at zero."""
        zeros = {name: torch.zeros(length) for name, length in self.statistics.items()}
        return kaiming_state(self.heads, generator, self.norm_gains) | zeros

    def momentum(self, step: int, total: int | None) -> float:
        """Momentum of the target after `step` local steps of `total` (None where the end is not known)."""
        assert self.target_momentum is not None
        return self.target_momentum

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
