"""What a self-supervised objective is: heads on top of the features, a loss over two views, perhaps a momentum target."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

from fedcore.blocks import Weights
from fedcore.encoders.base import Encoder
from fedcore.neurons import NeuronMap


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
    def loss(self, encoder: Encoder, weights: Weights, target: Weights | None, one: Tensor, two: Tensor) -> Tensor:
        """Loss of two views of the same images.

        Args:
            encoder: what maps views to features.
            weights: online weights.
            target: weights of the momentum target where there is one; never differentiated.
            one: first views, (N, C, H, W).
            two: second views, (N, C, H, W).

        Returns:
            Scalar.
        """
