"""A multilayer perceptron over flattened pixels, with layer norm."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor
from torch.nn import functional as F

from fedcore.blocks import Weights
from fedcore.encoders.base import Encoder
from fedcore.neurons import Layer, NeuronMap, normed_weight


class MLP(Encoder):
    """linear - layer norm - ReLU per width; the last layer's activations are the features.

    Args:
        image_shape: (C, H, W) of the images.
        widths: units per hidden layer.
    """

    def __init__(self, image_shape: tuple[int, int, int], widths: Sequence[int] = (256, 256, 128)) -> None:
        self.image_shape = image_shape
        layers, parameters = [], []
        previous, inputs = None, prod(image_shape)
        for i, n in enumerate(widths):
            name = f"fc{i + 1}"
            layers.append(Layer(name, n, stored=3.0))
            parameters += normed_weight(name, (n, inputs), previous, 1)
            previous, inputs = name, n
        self.neuron_map = NeuronMap(tuple(layers), tuple(parameters))
        self.norm_gains = frozenset(f"{layer.name}.gain" for layer in layers)
        self.stages = tuple((layer.name,) for layer in layers)

    def stage(self, index: int, weights: Weights, x: Tensor) -> Tensor:
        """See `Encoder.stage`."""
        name = self.stages[index][0]
        x = weights.linear(x.flatten(1), f"{name}.weight")
        x = F.layer_norm(x, x.shape[1:], weights.vector(f"{name}.gain"), weights.vector(f"{name}.bias"))
        return weights.rescale(torch.relu(x), name)

    def pool(self, x: Tensor) -> Tensor:
        """See `Encoder.pool`."""
        return x
