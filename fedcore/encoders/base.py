"""What an encoder is: a neuron map and a forward pass over sliced weights."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

from fedcore.blocks import Weights
from fedcore.neurons import NeuronMap


class Encoder(ABC):
    """Maps images to features.

    Attributes:
        neuron_map: its layers and parameters in forward order; the last layer is the feature layer.
        norm_gains: names of parameters that start at 1.
        feature_layer: name of the layer whose neurons are the features.
    """

    neuron_map: NeuronMap
    norm_gains: frozenset[str]
    feature_layer: str

    @property
    def feature_dim(self) -> int:
        """Number of features of the whole encoder."""
        return self.neuron_map.layer(self.feature_layer).neurons

    @abstractmethod
    def features(self, weights: Weights, x: Tensor) -> Tensor:
        """Features of normalised images.

        Args:
            weights: sliced or whole weights.
            x: (N, C, H, W) float32.

        Returns:
            (N, visible feature neurons) float32.
        """
