"""A multilayer perceptron over flattened pixels, with layer norm."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor
from torch.nn import functional as F

from fedcore.blocks import Weights
from fedcore.encoders.base import Encoder
from fedcore.neurons import Layer, NeuronMap, Parameter


class MLP(Encoder):
    """linear - layer norm - ReLU per width; the last layer's activations are the features.

    Args:
        image_shape: (C, H, W) of the images.
        widths: units per hidden layer.
    """

    def __init__(self, image_shape: tuple[int, int, int], widths: Sequence[int] = (256, 256, 128)) -> None:
        layers, parameters = [], []
        previous, inputs = None, prod(image_shape)
        for i, n in enumerate(widths):
            name = f"fc{i + 1}"
            layers.append(Layer(name, n, stored=3.0))
            parameters += [
                Parameter(f"{name}.weight", (n, inputs), name, previous, macs=1),
                Parameter(f"{name}.gain", (n,), name),
                Parameter(f"{name}.bias", (n,), name),
            ]
            previous, inputs = name, n
        self.neuron_map = NeuronMap(tuple(layers), tuple(parameters))
        self.norm_gains = frozenset(f"{layer.name}.gain" for layer in layers)
        self.feature_layer = layers[-1].name

    def features(self, weights: Weights, x: Tensor) -> Tensor:
        """See `Encoder.features`."""
        x = x.flatten(1)
        for layer in self.neuron_map.layers:
            x = weights.linear(x, f"{layer.name}.weight")
            gain, bias = weights.vector(f"{layer.name}.gain"), weights.vector(f"{layer.name}.bias")
            x = weights.rescale(torch.relu(F.layer_norm(x, x.shape[1:], gain, bias)), layer.name)
        return x
