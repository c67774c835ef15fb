"""FjORD (Horvath et al. 2021): ordered dropout, every batch through a prefix of random width."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from fedcore.blocks import Block, Weights
from fedcore.costs import cost_of_counts
from fedcore.local import Hooks, LocalRecipe, LocalResult, LocalTask, train_block
from fedcore.methods.base import RoundCost, Server
from fedcore.methods.width import WidthScaled, width_count
from fedcore.model import Model
from fedcore.neurons import Layer, NeuronMap, State
from fedcore.samples import Samples
from scenarios.errors import InputError


@dataclass(frozen=True)
class FjORD(WidthScaled):
    """Machine k holds the prefix p_max = r_k of every hidden layer; every batch draws p <= p_max and trains the prefix p.

    So early neurons learn to serve every width and late ones to add to them (section 3.1). The paper's merge is nested:
    from the widest p to the narrowest, W[: o_p, : i_p] becomes the n_k-weighted mean over machines with p_max >= p and
    overwrites what it covers. An entry is last written at the narrowest p that covers it, by all machines that
    hold it, so this is the mean over its holders, which is what `merge` computes.

    A share that is not one of the widths is taken as it is: its machine draws from the widths below it and its own. Norms
    have no running statistics here, so none are kept per width. The authors' self-distillation is left out: it needs
    outputs of two widths on one batch, which objectives do not tell.

    Attributes:
        scaler: see `WidthScaled`, by the width of the batch; off: every prefix is a network in its own right.
        widths: the set P of p, drawn from uniformly; ascending, within (0, 1].
    """

    name = "fjord"

    widths: tuple[float, ...] = (0.2, 0.4, 0.6, 0.8, 1.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.widths or list(self.widths) != sorted(set(self.widths)) or not 0 < self.widths[0] <= self.widths[-1] <= 1:
            raise InputError(f"fjord: widths are {self.widths}, expected ascending numbers above 0 and up to 1")

    def held(
        self, layer: Layer, rates: Mapping[int, float], round_index: int, rng: np.random.Generator
    ) -> dict[int, NDArray[np.int64]]:
        """See `WidthScaled.held`."""
        return {k: np.arange(width_count(rate, layer.neurons)) for k, rate in rates.items()}

    def levels(self, neuron_map: NeuronMap, block: Block) -> list[dict[str, int]]:
        """The widths that a machine draws from, ascending: layer -> neurons; the last is its whole block."""
        held = {layer.name: len(block.trained[layer.name]) for layer in neuron_map.layers}
        levels = []
        for p in self.widths:
            counts = {
                layer.name: layer.neurons if layer.always_visible else width_count(p, layer.neurons)
                for layer in neuron_map.layers
            }
            if counts != held and counts not in levels and all(counts[name] <= n for name, n in held.items()):
                levels.append(counts)
        return [*levels, held]

    def cost(self, server: Server, machine: int, block: Block, steps: int, recipe: LocalRecipe) -> RoundCost:
        """See `Method.cost`: a step costs the mean over the widths, with the momentum target in full width; everything else
        is that of the widest."""
        model, batch, copies = server.model, recipe.batch_of(server.samples[machine]), recipe.optimizer_copies
        levels = self.levels(model.neuron_map, block)
        costs = [cost_of_counts(model, n, n, batch, copies, target=levels[-1]) for n in levels]
        mean = sum(cost.step_flops for cost in costs) / len(costs)
        return RoundCost.of(replace(costs[-1], step_flops=mean))

    def train(
        self,
        model: Model,
        state: State,
        target: State | None,
        task: LocalTask,
        samples: Samples,
        recipe: LocalRecipe,
        generator: torch.Generator,
    ) -> LocalResult:
        """See `Method.train`. A momentum target is looked at in the full width of the block."""
        levels = self.levels(model.neuron_map, task.block)
        # Widths have draws of their own: with a single one this is FedAvg, bit for bit.
        rng = np.random.default_rng([*task.seed, 7])

        def view(weights: Weights) -> Weights:
            counts = levels[rng.integers(len(levels))]
            return weights if counts == levels[-1] else prefix(weights, model.neuron_map, counts, self.scaler)

        return train_block(model, state, target, task, samples, recipe, generator, Hooks(view=view))


def prefix(weights: Weights, neuron_map: NeuronMap, counts: Mapping[str, int], scaler: bool) -> Weights:
    """The first neurons of every layer: slices of the same leaves, so that gradients reach these.

    Args:
        weights: of a block without context whose neurons are a prefix.
        neuron_map: the model.
        counts: layer -> neurons.
        scaler: divide activations by the fraction of a layer that is left.
    """
    narrow: dict[str, torch.Tensor] = {}
    for p in neuron_map.parameters:
        if p.name in weights.trained:
            rows = weights.trained[p.name][: counts[p.rows]]
            narrow[p.name] = rows if p.cols is None else rows[:, : counts[p.cols]]
    scale = {
        layer.name: torch.full((counts[layer.name],), layer.neurons / counts[layer.name])
        for layer in neuron_map.layers
        if scaler and counts[layer.name] < layer.neurons
    }
    return Weights(narrow, {}, scale)
