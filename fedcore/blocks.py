"""Blocks: which neurons one machine trains (share) and which it only sees (context), and the slices that follow.

Slices are small dense tensors, no masks: compute, memory and traffic fall with what is visible (DESIGN section 3).
Independent Subnet Training (Yuan et al. 2019) is the special case context = 0.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from fedcore.neurons import NeuronMap, Parameter, State


@dataclass(frozen=True)
class Block:
    """The neurons of every layer that one machine holds in one round.

    Attributes:
        trained: layer name -> sorted int64 indices S of the neurons it trains.
        context: layer name -> sorted int64 indices of the neurons it sees, frozen; disjoint from `trained`.
    """

    trained: dict[str, Tensor]
    context: dict[str, Tensor]

    def visible(self, layer: str) -> Tensor:
        """Indices V of the visible neurons of a layer: trained ones first, so that a slice splits at len(S)."""
        return torch.cat([self.trained[layer], self.context[layer]])


def whole_block(neuron_map: NeuronMap) -> Block:
    """The block that trains every neuron: share 1."""
    return Block(
        {layer.name: torch.arange(layer.neurons) for layer in neuron_map.layers},
        {layer.name: torch.arange(0) for layer in neuron_map.layers},
    )


@dataclass
class Weights:
    """The weights that a forward pass runs over: trained rows apart from frozen rows, so that gradients, optimiser
    state and upload exist for the trained ones only.

    Attributes:
        trained: parameter name -> rows S by visible columns; leaf tensors that require gradients while training.
        frozen: parameter name -> context rows by visible columns; never differentiated.
        context_scale: layer name -> (len(V),) factors that keep pre-activations at their mean when the context is
            thinned (1 for trained neurons, 1 / seen fraction for context neurons); absent where nothing is thinned.
        order: always-visible layer -> (len(V),) places of its neurons in ascending order; absent where they ascend.
    """

    trained: dict[str, Tensor]
    frozen: dict[str, Tensor]
    context_scale: dict[str, Tensor] = field(default_factory=dict)
    order: dict[str, Tensor] = field(default_factory=dict)

    def vector(self, name: str) -> Tensor:
        """A one-dimensional parameter over the visible neurons, shape (len(V),)."""
        parts = [part[name] for part in (self.trained, self.frozen) if name in part]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def linear(self, x: Tensor, name: str) -> Tensor:
        """Dense layer without bias, (N, in) -> (N, len(V)); no weight gradient is computed for frozen rows."""
        return self._rowwise(name, lambda w: F.linear(x, w), dim=-1)

    def conv2d(self, x: Tensor, name: str, stride: int = 1) -> Tensor:
        """Convolution without bias, 'same' padding for odd kernels, (N, in, H, W) -> (N, len(V), H', W')."""
        return self._rowwise(name, lambda w: F.conv2d(x, w, stride=stride, padding=w.shape[-1] // 2), dim=1)

    def rescale(self, x: Tensor, layer: str) -> Tensor:
        """Multiply thinned context activations (channel dimension 1) by 1 / seen fraction."""
        scale = self.context_scale.get(layer)
        return x if scale is None else x * scale.view(1, -1, *([1] * (x.dim() - 2)))

    def in_order(self, x: Tensor, layer: str) -> Tensor:
        """Columns of x in the whole model's order, to compare layers whose slices put different neurons first."""
        order = self.order.get(layer)
        return x if order is None else x.index_select(1, order)

    def _rowwise(self, name: str, op, dim: int) -> Tensor:  # type: ignore[no-untyped-def]
        parts = [op(part[name]) for part in (self.trained, self.frozen) if name in part]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=dim)


def whole_weights(state: State) -> Weights:
    """A view of a whole state for evaluation: nothing trained, nothing thinned."""
    return Weights(trained={}, frozen=state)


def take(tensor: Tensor, parameter: Parameter, rows: Tensor, block: Block) -> Tensor:
    """A fresh dense copy of the given rows by the block's visible columns."""
    out = tensor.index_select(0, rows)
    return out if parameter.cols is None else out.index_select(1, block.visible(parameter.cols))


def slice_weights(state: State, neuron_map: NeuronMap, block: Block) -> Weights:
    """Cut the block out of a whole state.

    Args:
        state: whole weights; parameters of the map that it lacks are passed over (a target network has no predictor).
        neuron_map: the model's declaration.
        block: what the machine trains and sees.

    Returns:
        Weights whose trained tensors require gradients.
    """
    weights = Weights({}, {})
    for p in neuron_map.parameters:
        if p.name not in state:
            continue
        if len(block.trained[p.rows]):
            weights.trained[p.name] = take(state[p.name], p, block.trained[p.rows], block).requires_grad_()
        if len(block.context[p.rows]):
            weights.frozen[p.name] = take(state[p.name], p, block.context[p.rows], block)
    for layer in neuron_map.layers:
        n_trained, n_context = len(block.trained[layer.name]), len(block.context[layer.name])
        if 0 < n_context < layer.neurons - n_trained:
            scale = torch.ones(n_trained + n_context)
            scale[n_trained:] = (layer.neurons - n_trained) / n_context
            weights.context_scale[layer.name] = scale
        if layer.always_visible and n_context > 0:
            weights.order[layer.name] = torch.argsort(block.visible(layer.name))
    return weights


def freeze(weights: Weights) -> Weights:
    """The same view with nothing trained: for a momentum target that is only looked at."""
    frozen = {name: weights.vector(name).detach() for name in weights.trained | weights.frozen}
    return Weights({}, frozen, weights.context_scale, weights.order)
