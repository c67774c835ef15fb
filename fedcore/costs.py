"""What a block costs: FLOPs, bytes up and down, peak memory, as functions of (model, shares of its layers, batch).

A training step is forward + input gradients + weight gradients. With v_l visible and m_l trained neurons, a weight
that joins layers a -> b costs 2 v_a v_b forward, 2 v_a v_b for input gradients (none for the model's input) and
2 v_a m_b for weight gradients, each per sample and position. So share saves weight gradients, upload and optimiser
memory; only a thinner context saves forward compute and download (DESIGN section 3).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedcore.allocation import context_count, trained_count
from fedcore.blocks import Block
from fedcore.neurons import NeuronMap

BYTES_PER_WEIGHT = 4
OPTIMIZER_COPIES = 2  # AdamW keeps two moments per trained weight


@dataclass(frozen=True)
class BlockCost:
    """Cost of one block.

    Attributes:
        step_flops: floating-point operations of one local optimiser step.
        upload_bytes: bytes of trained rows that go back after a round.
        download_bytes: bytes of all visible weights that come before a round.
        memory_bytes: peak working memory while training.
    """

    step_flops: float
    upload_bytes: float
    download_bytes: float
    memory_bytes: float


def cost_of_counts(
    neuron_map: NeuronMap,
    trained: dict[str, int],
    visible: dict[str, int],
    samples: int,
    target_parameters: frozenset[str] = frozenset(),
) -> BlockCost:
    """Cost of a block that trains and sees the given numbers of neurons per layer.

    Args:
        neuron_map: the model.
        trained: layer -> m_l.
        visible: layer -> v_l.
        samples: images through the network per step (batch x views).
        target_parameters: parameters that a momentum target has too: downloaded, held, and run forward once.
    """
    flops, up, down = 0.0, 0, 0
    for p in neuron_map.parameters:
        cols = visible[p.cols] if p.cols is not None else 1
        seen = visible[p.rows] * cols * p.per_pair
        learned = trained[p.rows] * cols * p.per_pair
        # Biases and norm parameters have macs 0: they cost no matrix product.
        flops += 2.0 * p.macs * samples * (seen + (seen if p.cols is not None else 0) + learned)
        up += learned
        down += seen
        if p.name in target_parameters:
            flops += 2.0 * p.macs * samples * seen
            down += seen
    activations = sum(layer.stored * layer.positions * visible[layer.name] for layer in neuron_map.layers) * samples
    memory = BYTES_PER_WEIGHT * (down + up * (1 + OPTIMIZER_COPIES) + activations)
    return BlockCost(flops, BYTES_PER_WEIGHT * up, BYTES_PER_WEIGHT * down, memory)


def cost_of_block(
    neuron_map: NeuronMap, block: Block, samples: int, target_parameters: frozenset[str] = frozenset()
) -> BlockCost:
    """Cost of one actual block; arguments as `cost_of_counts`."""
    trained = {name: len(index) for name, index in block.trained.items()}
    visible = {name: len(block.visible(name)) for name in block.trained}
    return cost_of_counts(neuron_map, trained, visible, samples, target_parameters)


def cost_of_share(
    neuron_map: NeuronMap, share: float, context: float, samples: int, target_parameters: frozenset[str] = frozenset()
) -> BlockCost:
    """Cost of any block of that share and context: counts do not depend on which neurons are drawn."""
    trained = {layer.name: trained_count(share, layer.neurons) for layer in neuron_map.layers}
    visible = {layer.name: trained[layer.name] + context_count(context, share, layer) for layer in neuron_map.layers}
    return cost_of_counts(neuron_map, trained, visible, samples, target_parameters)


GRID = 256
"""Shares are tabulated in steps of 1 / GRID for the simulator."""


def cost_table(
    neuron_map: NeuronMap, context: float, samples: int, target_parameters: frozenset[str] = frozenset()
) -> NDArray[np.float64]:
    """Costs on a grid of shares, for array code.

    Returns:
        (GRID + 1, 4) float64: row i is share i / GRID (row 0 costs nothing: the machine sits out), columns are
        step FLOPs, upload bytes, download bytes, memory bytes.
    """
    table = np.zeros((GRID + 1, 4))
    for i in range(1, GRID + 1):
        cost = cost_of_share(neuron_map, i / GRID, context, samples, target_parameters)
        table[i] = (cost.step_flops, cost.upload_bytes, cost.download_bytes, cost.memory_bytes)
    return table
