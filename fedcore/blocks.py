"""Blocks: which neurons one machine trains (share) and which it only sees (context), and the slices that follow.

Slices are small dense tensors, no masks: compute, memory and traffic fall with what is visible (DESIGN section 3).
Independent Subnet Training (Yuan et al. 2019) is the special case context = 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
        scale: layer name -> factor on all its activations while training (HeteroFL's scaler); 1 where absent.
        context_scale: layer name -> factor on the activations of its context neurons where the context is thinned;
            1 / seen fraction where absent.
        means: layer name -> (n_l,) mean activations of all its neurons; where given, whatever reads the layer gets the
            mean contribution of its neurons that are not visible, as a constant.
    """

    trained: dict[str, Tensor]
    context: dict[str, Tensor]
    scale: dict[str, float] = field(default_factory=dict)
    context_scale: dict[str, float] = field(default_factory=dict)
    means: dict[str, Tensor] = field(default_factory=dict)

    def visible(self, layer: str) -> Tensor:
        """Indices V of the visible neurons of a layer: trained ones first, so that a slice splits at len(S)."""
        return torch.cat([self.trained[layer], self.context[layer]])

    def sees_in_order(self, layer: str, neurons: int) -> bool:
        """Whether all of a layer's neurons are visible, and in the whole model's order."""
        return neurons in (len(self.trained[layer]), len(self.context[layer]))


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
        order: parameter of an always-visible layer -> (len(V),) places of its rows in the whole model's order; absent
            where they have it. Whatever `vector`, `linear`, ... return for such a layer is in that order.
        statistics: whole vectors that are no weights (DINO's centre); an objective moves them in place, and keeps here
            between `loss` and `update_statistics` what the one hands to the other.
        step: local steps that the run had done before this one; schedules go by it.
        constant: parameter -> (len(V),) that `linear` and `conv2d` add: the mean contribution of neurons that are not
            visible, in the order of what they return. A convolution's is exact where its kernel meets no border.
    """

    trained: dict[str, Tensor]
    frozen: dict[str, Tensor]
    context_scale: dict[str, Tensor] = field(default_factory=dict)
    order: dict[str, Tensor] = field(default_factory=dict)
    statistics: dict[str, Tensor] = field(default_factory=dict)
    step: int = 0
    constant: dict[str, Tensor] = field(default_factory=dict)

    def vector(self, name: str) -> Tensor:
        """A one-dimensional parameter over the visible neurons, shape (len(V),)."""
        return self._rowwise(name, lambda w: w, dim=0)

    def linear(self, x: Tensor, name: str) -> Tensor:
        """Dense layer without bias, (N, in) -> (N, len(V)); no weight gradient is computed for frozen rows."""
        out = self._rowwise(name, lambda w: F.linear(x, w), dim=-1)
        return out + self.constant[name] if name in self.constant else out

    def unit_linear(self, x: Tensor, name: str, learn: bool = True) -> Tensor:
        """As `linear` with every row scaled to length 1: weight norm (Salimans and Kingma 2016) with its gain held at 1.

        Args:
            x: (N, in); the rows must not be thinned, or their length would not be the whole model's.
            name: of the parameter.
            learn: otherwise its gradient is zero (not missing: methods may change gradients).
        """

        def op(w: Tensor) -> Tensor:
            return F.linear(x, F.normalize(w if learn else torch.lerp(w.detach(), w, 0.0), dim=1))

        return self._rowwise(name, op, dim=-1)

    def conv2d(self, x: Tensor, name: str, stride: int = 1) -> Tensor:
        """Convolution without bias, 'same' padding for odd kernels, (N, in, H, W) -> (N, len(V), H', W')."""
        out = self._rowwise(name, lambda w: F.conv2d(x, w, stride=stride, padding=w.shape[-1] // 2), dim=1)
        return out + self.constant[name].view(-1, 1, 1) if name in self.constant else out

    def grouped_linear(self, x: Tensor, name: str) -> Tensor:
        """Several outputs per neuron (queries, keys and values of a head): (..., in) by (V, q, in) -> (..., len(V), q)."""
        return self._rowwise(name, lambda w: F.linear(x, w.flatten(0, 1)).unflatten(-1, w.shape[:2]), dim=-2)

    def spread(self, x: Tensor, name: str) -> Tensor:
        """What the neurons of a layer add to a stream: (..., len(V), q) by (V, q, out), or (..., len(V)) by (V, out),
        summed over neurons -> (..., out). The weights are owned by the neurons that they read."""
        total, start = None, 0
        for part in (self.trained, self.frozen):
            if name not in part:
                continue
            w = part[name]
            taken = x.narrow(-1 if w.dim() == 2 else -2, start, len(w))
            start += len(w)
            added = taken @ w if w.dim() == 2 else taken.flatten(-2) @ w.flatten(0, 1)
            total = added if total is None else total + added
        assert total is not None, f"no rows of {name} are visible"
        return total

    def rescale(self, x: Tensor, layer: str, dim: int = 1) -> Tensor:
        """Multiply thinned context activations (neurons on dimension `dim`) by 1 / seen fraction."""
        scale = self.context_scale.get(layer)
        return x if scale is None else x * scale.view(-1, *([1] * (x.dim() - 1 - dim % x.dim())))

    def rows(self, names: Sequence[str], op: Callable[..., Tensor], dim: int = 1) -> Tensor:
        """What several parameters of the same rows give together, with the neurons on dimension `dim` of the result.

        Args:
            names: of the parameters.
            op: maps their rows to values of those rows' neurons; called once for trained and once for frozen rows, so
                that it computes no gradient for the latter. What both share (bases of the input) belongs outside it.
            dim: along which the two are joined.
        """
        parts = [op(*(part[n] for n in names)) for part in (self.trained, self.frozen) if names[0] in part]
        if len(parts) == 1:
            return parts[0]
        joined = torch.cat(parts, dim=dim)
        order = self.order.get(names[0])
        return joined if order is None else joined.index_select(dim, order)

    def _rowwise(self, name: str, op: Callable[[Tensor], Tensor], dim: int) -> Tensor:
        return self.rows((name,), op, dim)


def whole_weights(state: State) -> Weights:
    """A view of a whole state for evaluation: nothing trained, nothing thinned."""
    return Weights({}, state)


def take(tensor: Tensor, parameter: Parameter, rows: Tensor, block: Block) -> Tensor:
    """A fresh dense copy of the given rows by the block's visible columns."""
    out = look(tensor, parameter, rows, block)
    return out.clone() if out is tensor else out


def look(tensor: Tensor, parameter: Parameter, rows: Tensor, block: Block) -> Tensor:
    """As `take`, but the tensor itself where the block sees all of it."""
    # Indices are sorted, so as many as there are neurons are all of them in order: no need to pick.
    out = tensor if len(rows) == len(tensor) else tensor.index_select(0, rows)
    if parameter.cols is None or block.sees_in_order(parameter.cols, tensor.shape[1]):
        return out
    return out.index_select(1, block.visible(parameter.cols))


def places(parameter: Parameter, rows: Tensor, block: Block) -> tuple[Tensor, ...]:
    """The index into the whole tensor of the given rows by the block's visible columns: where `take` reads, merging writes."""
    return (rows,) if parameter.cols is None else (rows[:, None], block.visible(parameter.cols)[None, :])


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
        factor = block.scale.get(layer.name, 1.0)
        thinned = 0 < n_context < layer.neurons - n_trained
        context_factor = block.context_scale.get(layer.name, (layer.neurons - n_trained) / n_context) if thinned else 1.0
        if context_factor != 1.0 or factor != 1.0:
            scale = torch.full((n_trained + n_context,), factor)
            scale[n_trained:] *= context_factor
            weights.context_scale[layer.name] = scale
        if layer.always_visible and n_trained > 0 and n_context > 0:
            order = torch.argsort(block.visible(layer.name))
            weights.order |= {p.name: order for p in neuron_map.parameters if p.rows == layer.name}
    for p in neuron_map.parameters:
        if p.cols is not None and p.cols in block.means and p.name in state:
            constant = unseen_contribution(state[p.name], p, block)
            order_ = weights.order.get(p.name)
            weights.constant[p.name] = constant if order_ is None else constant.index_select(0, order_)
    return weights


def unseen_contribution(tensor: Tensor, parameter: Parameter, block: Block) -> Tensor:
    """What neurons that a block does not see add, on average, to the pre-activations of those that it does.

    Args:
        tensor: whole weights of the parameter.
        parameter: its declaration; it reads a layer that `block.means` knows.
        block: what is visible.

    Returns:
        (len(V),): W[V, unseen] summed over the kernel, times the mean activations of the unseen neurons.
    """
    assert parameter.cols is not None
    means = block.means[parameter.cols].clone()
    means[block.visible(parameter.cols)] = 0.0
    rows = tensor.index_select(0, block.visible(parameter.rows))
    return rows.flatten(2).sum(dim=2) @ means if rows.dim() > 2 else rows @ means


def freeze(weights: Weights) -> Weights:
    """The same view with nothing trained: for a momentum target that is only looked at."""
    frozen = {
        name: torch.cat([part[name] for part in (weights.trained, weights.frozen) if name in part]).detach()
        for name in weights.trained | weights.frozen
    }
    for name, order in weights.order.items():
        if name in frozen:
            frozen[name] = frozen[name].index_select(0, order)
    return Weights({}, frozen, weights.context_scale, constant=weights.constant)
