"""Context rules: which of the other machines' neurons a machine sees, and how what it does not see is made up for.

A rule is a choice and a correction. Choices: "drawn" anew every round by every machine; "kept", one order of every layer
for the whole run, of which everyone sees the beginning (minus its own S); "contribution", the neurons that add most to
what reads them first. Corrections of the summands that a neuron reads from a context thinned to a fraction c:
"mean" multiplies them by 1 / c as dropout does; "moment" by 1 / sqrt(c), which keeps the second moment of a sum
of independent zero-mean terms; "none" leaves them; "constant" leaves them and adds the average contribution of the unseen
neurons, W_unseen E[a_unseen], to the pre-activation. docs/context.md says what each gave.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedcore.blocks import Block, Weights
from fedcore.neurons import NeuronMap, State


@dataclass(frozen=True)
class ContextRule:
    """One rule.

    Attributes:
        choice: "drawn", "kept" or "contribution".
        correction: "mean", "moment", "none" or "constant".
    """

    choice: str
    correction: str

    @property
    def measures(self) -> bool:
        """Whether machines measure mean activations of what they see and send them up."""
        return self.choice == "contribution" or self.correction == "constant"


CONTEXT_RULES = {
    "random": ContextRule("drawn", "mean"),
    "random-unscaled": ContextRule("drawn", "none"),
    "nested": ContextRule("kept", "mean"),
    "nested-moment": ContextRule("kept", "moment"),
    "nested-unscaled": ContextRule("kept", "none"),
    "important": ContextRule("contribution", "mean"),
    "compensated": ContextRule("kept", "constant"),
    "compensated-random": ContextRule("drawn", "constant"),
}
"""By the name that `IntraLayer.context_rule` and a scenario's `workload.context_rule` give."""


def context_orders(
    rule: ContextRule, neuron_map: NeuronMap, state: State, means: State, seed: int
) -> dict[str, NDArray[np.int64]] | None:
    """In which order the neurons of every layer are seen.

    Args:
        rule: the rule.
        neuron_map: the model.
        state: global weights.
        means: layer -> (n_l,) mean activations; layers that are missing count as zero.
        seed: of the run; the kept order follows from it alone.

    Returns:
        Layer -> (n_l,) indices; None where the context is drawn.
    """
    if rule.choice == "drawn":
        return None
    orders = {}
    for i, layer in enumerate(neuron_map.layers):
        order = np.random.default_rng([seed, 6, i]).permutation(layer.neurons)
        if rule.choice == "contribution" and layer.name in means:
            outgoing = torch.zeros(layer.neurons)
            for p in neuron_map.parameters:
                if p.cols == layer.name:
                    outgoing += state[p.name].transpose(0, 1).flatten(1).square().sum(dim=1)
            contribution = (means[layer.name].abs() * outgoing.sqrt()).numpy()
            order = order[np.argsort(-contribution[order], kind="stable")]
        orders[layer.name] = order
    return orders


def corrected(rule: ContextRule, neuron_map: NeuronMap, block: Block, means: State) -> Block:
    """The block with what the rule does about its unseen neurons.

    Args:
        rule: the rule.
        neuron_map: the model.
        block: from `allocate`.
        means: layer -> (n_l,) mean activations; what is missing has no constant yet.
    """
    if rule.correction == "mean":
        return block
    factors: dict[str, float] = {}
    constants: dict[str, Tensor] = {}
    for layer in neuron_map.layers:
        rest = layer.neurons - len(block.trained[layer.name])
        seen = len(block.context[layer.name])
        if seen == rest:
            continue
        if seen:
            factors[layer.name] = (rest / seen) ** 0.5 if rule.correction == "moment" else 1.0
        if rule.correction == "constant" and layer.name in means:
            constants[layer.name] = means[layer.name]
    return replace(block, context_scale=factors, means=constants)


@dataclass
class MeteredWeights(Weights):
    """Weights that note the mean activation of every layer as it passes `rescale`, at the cost of one mean.

    Attributes:
        noted: layer -> one (len(V),) mean per forward pass, before any rescaling.
    """

    noted: dict[str, list[Tensor]] = field(default_factory=dict)

    def rescale(self, x: Tensor, layer: str, dim: int = 1) -> Tensor:
        """See `Weights.rescale`."""
        places = [d for d in range(x.dim()) if d != dim % x.dim()]
        self.noted.setdefault(layer, []).append(x.detach().float().mean(dim=places))
        return super().rescale(x, layer, dim)


class ActivationMeter:
    """Measures mean activations during training: pass `view` as the hook of that name."""

    def __init__(self) -> None:
        self._noted: dict[str, list[Tensor]] = {}

    def view(self, weights: Weights) -> Weights:
        """The same weights, metered."""
        shared = {f.name: getattr(weights, f.name) for f in fields(Weights)}
        return MeteredWeights(**shared, noted=self._noted)

    def means(self) -> State:
        """Layer -> (len(V),) mean over everything that has passed."""
        return {layer: torch.stack(noted).mean(dim=0) for layer, noted in self._noted.items()}


def merge_means(old: State, neuron_map: NeuronMap, parts: Sequence[tuple[Block, Mapping[str, Tensor], float]]) -> State:
    """Mean activations on the server, from those of every machine.

    Args:
        old: layer -> (n_l,); neurons that nobody saw keep theirs, zero at first.
        neuron_map: the model.
        parts: per machine its block, layer -> (len(V),) means over what it saw, and its weight.
    """
    merged: State = {}
    for layer in neuron_map.layers:
        total = torch.zeros(layer.neurons, dtype=torch.float64)
        weight = torch.zeros(layer.neurons, dtype=torch.float64)
        for block, means, w in parts:
            if layer.name in means:
                visible = block.visible(layer.name)
                total[visible] += means[layer.name].double() * w
                weight[visible] += w
        if bool(weight.any()):
            before = old.get(layer.name, torch.zeros(layer.neurons))
            merged[layer.name] = torch.where(weight > 0, (total / weight.clamp_min(1e-300)).float(), before)
    return old | merged
