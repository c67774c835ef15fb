"""Neurons, and the map from every weight entry to the two neurons that it joins.

A model declares its layers and parameters once; slicing, merging, FLOPs, bytes and memory all follow from that
declaration, so an architecture never writes any of them itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

State = dict[str, Tensor]
"""All weights of a model by parameter name, float32."""


@dataclass(frozen=True)
class Layer:
    """One layer of neurons.

    Attributes:
        name: unique within the model.
        neurons: number of output units or channels, n_l.
        positions: places per sample at which a neuron's value is computed (height x width; 1 for dense layers).
        stored: copies of its activations that the backward pass keeps (what a norm reads, what a ReLU gives ...).
        always_visible: the layer's width is part of the result (the output of a projector, a residual stream), so
            context never thins it; its activations keep the whole model's order, so whatever reads it declares no columns.
        macs: multiply-accumulates per sample and neuron that involve no weights (attention scores of a head).
        read: numbers per activation that its readers take in and give gradients for (bases of a spline: more than 1).
        rescaled: whether a thinned context makes one copy of its activations more, the rescaled one.
        residual: whether branches add to it, so that its own gradient waits while theirs are computed.
    """

    name: str
    neurons: int
    positions: int = 1
    stored: float = 1.0
    always_visible: bool = False
    macs: int = 0
    read: float = 1.0
    rescaled: bool = True
    residual: bool = False


@dataclass(frozen=True)
class Parameter:
    """One weight tensor: dimension 0 runs over the neurons of `rows`, dimension 1 over those of `cols`.

    Attributes:
        name: unique within the model.
        shape: of the whole tensor.
        rows: the layer whose neurons own these weights.
        cols: the layer that they read; None where columns are never thinned: the model's input, layers that are always
            visible, biases and norm parameters.
        macs: multiply-accumulates per sample and entry (positions of the output map; 0 for biases and norms).
        reads_data: reads the model's input, for which no gradient is computed.
    """

    name: str
    shape: tuple[int, ...]
    rows: str
    cols: str | None = None
    macs: int = 0
    reads_data: bool = False

    @property
    def per_pair(self) -> int:
        """Entries per (row neuron, column neuron) pair, or per row neuron where there are no column neurons."""
        return prod(self.shape[2:]) if self.cols is not None else prod(self.shape[1:])

    def slice_shape(self, rows: int, cols: int) -> tuple[int, ...]:
        """Shape of so many rows by so many of its column neurons; where it has none, by all that it reads."""
        return (rows, *self.shape[1:]) if self.cols is None else (rows, cols, *self.shape[2:])


@dataclass(frozen=True)
class NeuronMap:
    """The layers and parameters of one model, in forward order."""

    layers: tuple[Layer, ...]
    parameters: tuple[Parameter, ...]

    def __post_init__(self) -> None:
        sizes = {layer.name: layer.neurons for layer in self.layers}
        if len(sizes) != len(self.layers) or len({p.name for p in self.parameters}) != len(self.parameters):
            raise ValueError("layer and parameter names must be unique")
        for layer in self.layers:
            if layer.neurons < 1:
                raise ValueError(f"layer {layer.name} has {layer.neurons} neurons, expected at least 1")
        for p in self.parameters:
            if min(p.shape) < 1:
                raise ValueError(f"parameter {p.name} has shape {p.shape}, expected sides of at least 1")
            # A head reads a layer that only the whole model declares: unknown columns are checked after the sum.
            columns = sizes.get(p.cols) if p.cols is not None else None
            if p.shape[0] != sizes[p.rows] or columns not in (None, p.shape[1] if len(p.shape) > 1 else None):
                raise ValueError(f"parameter {p.name} of shape {p.shape} does not fit layers {p.rows}, {p.cols}")

    def __add__(self, other: NeuronMap) -> NeuronMap:
        return NeuronMap(self.layers + other.layers, self.parameters + other.parameters)

    def layer(self, name: str) -> Layer:
        """The layer of that name.

        Raises:
            KeyError: there is none.
        """
        return next(layer for layer in self.layers if layer.name == name)


def normed_weight(layer: str, shape: tuple[int, ...], cols: str | None, macs: int) -> list[Parameter]:
    """The three parameters of a normalised layer: LAYER.weight, and LAYER.gain and LAYER.bias of its norm.

    Args:
        layer: that owns them.
        shape: of the weight.
        cols: as `Parameter`; None means here that it reads the model's input.
        macs: as `Parameter`.
    """
    return [
        Parameter(f"{layer}.weight", shape, layer, cols, macs=macs, reads_data=cols is None),
        Parameter(f"{layer}.gain", shape[:1], layer),
        Parameter(f"{layer}.bias", shape[:1], layer),
    ]


def kaiming_state(neuron_map: NeuronMap, generator: torch.Generator, norm_gains: frozenset[str]) -> State:
    """Draw initial weights: He-normal for weights (He et al. 2015), 1 for the named norm gains, 0 for other vectors.

    Args:
        neuron_map: what to draw for.
        generator: every draw comes from it.
        norm_gains: names of the parameters that scale a normalised value.
    """
    state: State = {}
    for p in neuron_map.parameters:
        if p.name in norm_gains:
            state[p.name] = torch.ones(p.shape)
        elif len(p.shape) == 1:
            state[p.name] = torch.zeros(p.shape)
        else:
            fan_in = prod(p.shape[1:])
            state[p.name] = torch.randn(p.shape, generator=generator) * (2.0 / fan_in) ** 0.5
    return state
