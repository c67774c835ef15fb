"""What a block costs: FLOPs, bytes up and down, peak memory, as functions of (model, shares of its layers, batch).

A training step is forward + input gradients + weight gradients. With v_l visible and m_l trained neurons, a weight that
joins layers a -> b costs 2 v_a v_b forward, 2 v_a v_b for input gradients (none for the model's input) and
2 v_a m_b for weight gradients, each per sample and position. So share saves weight gradients, upload and optimiser
memory; only a thinner context saves forward compute and download (DESIGN section 3).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedcore.allocation import context_count, trained_count
from fedcore.blocks import Block
from fedcore.model import Model

BYTES_PER_WEIGHT = 4
ADAMW_COPIES = 2  # two moments per trained weight; SGD keeps none, with momentum one


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
    model: Model,
    trained: Mapping[str, int],
    visible: Mapping[str, int],
    batch: int,
    optimizer_copies: int = ADAMW_COPIES,
) -> BlockCost:
    """Cost of a block that trains and sees the given numbers of neurons per layer.

    Args:
        model: encoder and objective; the objective says how many views of an image go through both.
        trained: layer -> m_l.
        visible: layer -> v_l.
        batch: images (or windows of text) per step.
        optimizer_copies: tensors that the optimiser keeps per trained weight.
    """
    objective, encoder = model.objective, {layer.name for layer in model.encoder.neuron_map.layers}
    views = {True: batch * objective.views_per_sample, False: batch * objective.head_views}
    aim_views = batch * objective.target_views
    flops, up, down, held = 0.0, 0, 0, 0.0
    learning = False  # whether a gradient reaches this far: nothing before the first trained weight needs one
    for p in model.neuron_map.parameters:
        samples = views[p.rows in encoder]
        cols = visible[p.cols] if p.cols is not None else 1
        seen = visible[p.rows] * cols * p.per_pair
        learned = trained[p.rows] * cols * p.per_pair
        # Biases and norm parameters have macs 0: they cost no matrix product.
        flops += 2.0 * p.macs * samples * (seen + (seen if learning and not p.reads_data else 0) + learned)
        learning = learning or learned > 0
        up += learned
        down += seen
        if p.name in model.target_parameters:
            flops += 2.0 * p.macs * aim_views * seen
            down += seen
    below = True  # frozen layers before the first trained one keep nothing for the backward pass
    for layer in model.neuron_map.layers:
        samples = views[layer.name in encoder]
        below = below and trained[layer.name] == 0
        passes = 1 if below else 3
        flops += 2.0 * layer.macs * visible[layer.name] * samples * passes
        if model.target_parameters and layer.name in encoder:
            flops += 2.0 * layer.macs * visible[layer.name] * aim_views
        if not below:
            held += layer.stored * layer.positions * visible[layer.name] * samples
    statistics = sum(objective.statistics.values())
    memory = BYTES_PER_WEIGHT * (down + up * (1 + optimizer_copies) + held)
    return BlockCost(flops, BYTES_PER_WEIGHT * (up + statistics), BYTES_PER_WEIGHT * (down + statistics), memory)


def cost_of_block(model: Model, block: Block, batch: int, optimizer_copies: int = ADAMW_COPIES) -> BlockCost:
    """Cost of one actual block; arguments as `cost_of_counts`."""
    trained = {name: len(index) for name, index in block.trained.items()}
    visible = {name: len(block.visible(name)) for name in block.trained}
    return cost_of_counts(model, trained, visible, batch, optimizer_copies)


def cost_of_share(model: Model, share: float, context: float, batch: int) -> BlockCost:
    """Cost of any block of that share and context: counts do not depend on which neurons are drawn."""
    layers = model.neuron_map.layers
    trained = {layer.name: trained_count(share, layer.neurons) for layer in layers}
    visible = {layer.name: trained[layer.name] + context_count(context, share, layer) for layer in layers}
    return cost_of_counts(model, trained, visible, batch)


GRID = 256
"""Shares are tabulated in steps of 1 / GRID for the simulator."""


def cost_table(model: Model, context: float, batch: int) -> NDArray[np.float64]:
    """Costs on a grid of shares, for array code.

    Returns:
        (GRID + 1, 4) float64: row i is share i / GRID (row 0 costs nothing: the machine sits out), columns are
        step FLOPs, upload bytes, download bytes, memory bytes.
    """
    table = np.zeros((GRID + 1, 4))
    for i in range(1, GRID + 1):
        cost = cost_of_share(model, i / GRID, context, batch)
        table[i] = (cost.step_flops, cost.upload_bytes, cost.download_bytes, cost.memory_bytes)
    return table
