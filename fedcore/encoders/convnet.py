"""A small ConvNet: strided convolutions with layer norm over channels and places, mean-pooled at the end."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor
from torch.nn import functional as F

from fedcore.blocks import Weights
from fedcore.encoders.base import Encoder
from fedcore.neurons import Layer, NeuronMap, normed_weight


class ConvNet(Encoder):
    """conv - norm - ReLU per width, then the mean over places.

    Strides instead of max-pooling: pooling took a quarter of a step on a CPU. The norm is group norm with one group
    (Wu and He 2018): it has no running statistics to merge and does not care in which order, or how many, channels a
    machine sees.

    Args:
        image_shape: (C, H, W) of the images.
        widths: output channels per convolution.
        strides: of each convolution.
        first_kernel: side of the first convolution's kernel; the others are 3x3.

    Raises:
        ValueError: unequal numbers of widths and strides, a stride below 1, an even kernel, or an image too small for the
            strides.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        widths: Sequence[int] = (24, 48, 96),
        strides: Sequence[int] = (2, 1, 2),
        first_kernel: int = 5,
    ) -> None:
        channels, height, width = image_shape
        if len(widths) != len(strides) or first_kernel % 2 == 0:
            raise ValueError(
                f"got {len(widths)} widths, {len(strides)} strides and kernel {first_kernel}, expected as many strides as "
                "widths and an odd kernel"
            )
        if min(strides, default=1) < 1:
            raise ValueError(f"strides are {list(strides)}, expected whole numbers of at least 1")
        self.image_shape, self.strides = image_shape, tuple(strides)
        if not self.takes(height, width):
            raise ValueError(f"images of {height}x{width} are too small for strides {list(strides)}")
        layers, parameters = [], []
        previous, inputs = None, channels
        for i, n in enumerate(widths):
            name, side = f"conv{i + 1}", first_kernel if i == 0 else 3
            height, width = (-(-height // strides[i]), -(-width // strides[i]))
            places = height * width
            layers.append(Layer(name, n, positions=places, stored=2.0))
            # Columns of the first convolution are input channels, not neurons: they stay inside per_pair.
            parameters += normed_weight(name, (n, inputs, side, side), previous, places)
            previous, inputs = name, n
        self.neuron_map = NeuronMap(tuple(layers), tuple(parameters))
        self.norm_gains = frozenset(f"{layer.name}.gain" for layer in layers)
        self.stages = tuple((layer.name,) for layer in layers)

    def takes(self, height: int, width: int) -> bool:
        """See `Encoder.takes`: any that leaves two places at the end."""
        return min(height, width) >= 2 * prod(self.strides)

    def stage(self, index: int, weights: Weights, x: Tensor) -> Tensor:
        """See `Encoder.stage`."""
        name = self.stages[index][0]
        x = weights.conv2d(x, f"{name}.weight", self.strides[index])
        x = F.group_norm(x, 1, weights.vector(f"{name}.gain"), weights.vector(f"{name}.bias"))
        return weights.rescale(torch.relu(x), name)

    def pool(self, x: Tensor) -> Tensor:
        """See `Encoder.pool`."""
        return x.mean(dim=(2, 3))
