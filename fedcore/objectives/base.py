"""What a self-supervised objective is: heads on top of the features, a loss over two views, perhaps a momentum target."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

from torch import Tensor

from fedcore.blocks import Weights
from fedcore.neurons import NeuronMap

Features = Callable[[Weights, Tensor], Tensor]


class Objective(ABC):
    """A label-free training objective.

    Attributes:
        heads: layers and parameters on top of the encoder.
        norm_gains: names of head parameters that start at 1.
        target_momentum: per local step, of the server's momentum target; None where the objective has no target.
        online_only: head parameters that the target does not have (a predictor).
    """

    heads: NeuronMap
    norm_gains: frozenset[str]
    target_momentum: float | None = None
    online_only: frozenset[str] = frozenset()

    @abstractmethod
    def loss(self, features: Features, weights: Weights, target: Weights | None, one: Tensor, two: Tensor) -> Tensor:
        """Loss of two views of the same images.

        Args:
            features: maps (weights, images) to features, in whatever precision the recipe asks for.
            weights: online weights.
            target: weights of the momentum target where there is one; never differentiated.
            one: first views, (N, C, H, W).
            two: second views, (N, C, H, W).

        Returns:
            Scalar.
        """
