"""A small ConvNet: 3x3 convolutions with layer norm over channels and places, mean-pooled at the end."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from fedcore.blocks import Weights
from fedcore.encoders.base import Encoder
from fedcore.neurons import Layer, NeuronMap, Parameter


class ConvNet(Encoder):
    """conv3x3 - norm - ReLU - 2x2 max-pool per width, the last one mean-pooled instead.

    The norm is group norm with one group (Wu and He 2018): it has no running statistics to merge and does not care in
    which order, or how many, channels a machine sees.

    Args:
        image_shape: (C, H, W) of the images.
        widths: output channels per convolution.

    Raises:
        ValueError: the image is too small for that many halvings.
    """

    def __init__(self, image_shape: tuple[int, int, int], widths: Sequence[int] = (16, 32, 64)) -> None:
        channels, height, width = image_shape
        if min(height, width) >> (len(widths) - 1) < 2:
            raise ValueError(f"images of {height}x{width} are too small for {len(widths)} convolutions")
        layers, parameters = [], []
        previous, inputs = None, channels
        for i, n in enumerate(widths):
            name, places = f"conv{i + 1}", height * width
            layers.append(Layer(name, n, positions=places, stored=2.25))
            parameters += [
                Parameter(f"{name}.weight", (n, inputs, 3, 3), name, previous, macs=places),
                Parameter(f"{name}.gain", (n,), name),
                Parameter(f"{name}.bias", (n,), name),
            ]
            previous, inputs = name, n
            height, width = height // 2, width // 2
        # Columns of the first convolution are input channels, not neurons: keep them inside per_pair.
        self.neuron_map = NeuronMap(tuple(layers), tuple(parameters))
        self.norm_gains = frozenset(f"{layer.name}.gain" for layer in layers)
        self.feature_layer = layers[-1].name

    def features(self, weights: Weights, x: Tensor) -> Tensor:
        """See `Encoder.features`."""
        last = len(self.neuron_map.layers) - 1
        for i, layer in enumerate(self.neuron_map.layers):
            x = weights.conv2d(x, f"{layer.name}.weight")
            x = F.group_norm(x, 1, weights.vector(f"{layer.name}.gain"), weights.vector(f"{layer.name}.bias"))
            x = F.max_pool2d(torch.relu(x), 2) if i < last else torch.relu(x).mean(dim=(2, 3))
            x = weights.rescale(x, layer.name)
        return x
