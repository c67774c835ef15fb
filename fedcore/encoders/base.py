"""What an encoder is: a neuron map and a forward pass over sliced weights, in stages."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor

from fedcore.blocks import Weights
from fedcore.neurons import NeuronMap, State, kaiming_state


class Encoder(ABC):
    """Maps images (or tokens) to features.

    Args:
        input_shape: (C, H, W) of the images, or (vocabulary, window) of the text, that it is declared for.
        options: of the encoder.

    Attributes:
        reads: what it takes, "images" or "tokens"; objectives and data must agree with it.
        image_shape: (C, H, W) of the images that it is declared for, where it reads images.
        neuron_map: its layers and parameters in forward order.
        norm_gains: names of parameters that start at 1.
        input_stored: copies of all views that the first layer keeps for the backward pass (patches).
        input_read: copies of all views that it reads for a moment (bases of a spline).
        stages: names of the layers of every stage, in forward order. A stage is where layer-wise methods grow and split
            methods cut; its output is the activation of its last layer.
    """

    reads: ClassVar[str] = "images"
    image_shape: tuple[int, int, int]
    neuron_map: NeuronMap
    norm_gains: frozenset[str]
    input_stored: float = 0.0
    input_read: float = 0.0
    stages: tuple[tuple[str, ...], ...]

    @abstractmethod
    def __init__(self, input_shape: Any, **options: Any) -> None: ...

    @property
    def feature_layer(self) -> str:
        """The layer whose neurons are the features: the last one of the last stage."""
        return self.stages[-1][-1]

    @property
    def feature_columns(self) -> str | None:
        """What a head that reads the features declares as its columns."""
        layer = self.neuron_map.layer(self.feature_layer)
        return None if layer.always_visible else layer.name

    @property
    def feature_dim(self) -> int:
        """Number of features of the whole encoder."""
        return self.neuron_map.layer(self.feature_layer).neurons

    def takes(self, height: int, width: int) -> bool:
        """Whether `features` takes images of that size: by default only of the size that it is declared for."""
        return (height, width) == tuple(self.image_shape[1:])

    def prefix(self, depth: int) -> Encoder:
        """The encoder of the first `depth` stages; its weights keep their names.

        Raises:
            ValueError: there are fewer stages, or depth is below 1.
        """
        if not 1 <= depth <= len(self.stages):
            raise ValueError(f"depth is {depth}, expected 1 to {len(self.stages)}: the encoder has {len(self.stages)} stages")
        shallow = copy.copy(self)
        shallow.stages = self.stages[:depth]
        kept = {name for stage in shallow.stages for name in stage}
        shallow.neuron_map = NeuronMap(
            tuple(layer for layer in self.neuron_map.layers if layer.name in kept),
            tuple(p for p in self.neuron_map.parameters if p.rows in kept),
        )
        shallow.norm_gains = self.norm_gains & {p.name for p in shallow.neuron_map.parameters}
        return shallow

    def init_state(self, generator: torch.Generator) -> State:
        """Fresh weights of the encoder alone, every draw from the generator."""
        return kaiming_state(self.neuron_map, generator, self.norm_gains)

    @abstractmethod
    def stage(self, index: int, weights: Weights, x: Tensor) -> Tensor:
        """Run one stage.

        Args:
            index: which, from 0.
            weights: sliced or whole weights.
            x: normalised images (N, C, H, W) or tokens for stage 0, else what the stage before returned.

        Returns:
            Activations, a single tensor: what split learning sends over the wire.
        """

    @abstractmethod
    def pool(self, x: Tensor) -> Tensor:
        """Features of what any stage returned, (N, visible neurons of its last layer), or (N, T, ...) for tokens; it has
        no weights."""

    def features(self, weights: Weights, x: Tensor) -> Tensor:
        """Features of normalised images, or of tokens.

        Args:
            weights: sliced or whole weights.
            x: (N, C, H, W) float32, or (N, T) int64.

        Returns:
            (N, visible feature neurons) float32, or (N, T, visible feature neurons).
        """
        for index in range(len(self.stages)):
            x = self.stage(index, weights, x)
        return self.pool(x)
