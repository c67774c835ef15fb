"""What a block costs: FLOPs, bytes up and down, peak memory, as functions of (model, shares of its layers, batch).

A training step is forward + input gradients + weight gradients. With v_l visible and m_l trained neurons, a weight that
joins layers a -> b costs 2 v_a v_b forward, 2 v_a v_b for input gradients (none for the model's input) and
2 v_a m_b for weight gradients, each per sample and position. So share saves weight gradients, upload and optimiser
memory; only a thinner context saves forward compute and download (DESIGN section 3).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fedcore.allocation import context_count, trained_count
from fedcore.blocks import Block
from fedcore.context import CONTEXT_RULES
from fedcore.memory import BYTES_PER_WEIGHT, training_memory
from fedcore.model import Model
from fedcore.wire.precision import bytes_of

ADAMW_COPIES = 2  # two moments per trained weight; SGD keeps none, with momentum one


@dataclass(frozen=True)
class BlockCost:
    """Cost of one block.

    Attributes:
        step_flops: floating-point operations of one local optimiser step.
        upload_bytes: bytes of trained rows that go back after a round.
        download_bytes: bytes of all visible weights that come before a round.
        memory_bytes: peak working memory while training, see `memory`.
        row_flops: of one row (one neuron) of every matrix product of a step, summed: what a device that is slow on few
            rows loses (`Device.half_rows`). A layer that is partly trained runs as two products.
    """

    step_flops: float
    upload_bytes: float
    download_bytes: float
    memory_bytes: float
    row_flops: float = 0.0


def cost_of_counts(
    model: Model,
    trained: Mapping[str, int],
    visible: Mapping[str, int],
    batch: int,
    optimizer_copies: int = ADAMW_COPIES,
    activations: Mapping[str, int] | None = None,
    target: Mapping[str, int] | None = None,
    wire_precision: str = "fp32",
) -> BlockCost:
    """Cost of a block that trains and sees the given numbers of neurons per layer.

    Args:
        model: encoder and objective; the objective says how many views of an image go through both.
        trained: layer -> m_l.
        visible: layer -> v_l.
        batch: images (or windows of text) per step.
        optimizer_copies: tensors that the optimiser keeps per trained weight.
        activations: layer -> neurons whose activations are there and are read, where that is more than v_l (tensor
            parallelism gathers them).
        target: layer -> neurons of the momentum target that a step looks at, where that is more than v_l (ordered dropout).
        wire_precision: of trained rows on the way up, a name in `wire.precision.PRECISIONS`.
    """
    there = visible if activations is None else activations
    aim_rows, aim_there = (visible, there) if target is None else (target, target)
    objective, encoder = model.objective, {layer.name for layer in model.encoder.neuron_map.layers}
    views = {name: batch * objective.layer_views.get(name, objective.views_per_sample) for name in encoder}
    head_views = batch * objective.head_views
    aim_views = batch * objective.target_views
    flops, row_flops, up_bytes, down = 0.0, 0.0, 0, 0
    learning = False  # whether a gradient reaches this far: nothing before the first trained weight needs one
    reached: set[str] = set()  # the same by layer: of two weights that read one frozen layer, neither passes a gradient on
    for p in model.neuron_map.parameters:
        samples = views.get(p.rows, head_views)
        cols = there[p.cols] if p.cols is not None else 1
        seen = visible[p.rows] * cols * p.per_pair
        learned = trained[p.rows] * cols * p.per_pair
        # Biases and norm parameters have macs 0: they cost no matrix product.
        passed_on = not p.reads_data and (learning if p.cols is None else p.cols in reached)
        flops += 2.0 * p.macs * samples * (seen + (seen if passed_on else 0) + learned)
        products = int(trained[p.rows] > 0) + int(visible[p.rows] > trained[p.rows])
        row = 2.0 * p.macs * cols * p.per_pair
        row_flops += row * samples * (products * (2 if passed_on else 1) + int(learned > 0))
        learning = learning or learned > 0
        if passed_on or learned > 0:
            reached.add(p.rows)
        if learned > 0:
            up_bytes += bytes_of(p.slice_shape(trained[p.rows], cols), wire_precision)
        down += seen
        if p.name in model.target_parameters:
            aim_row = 2.0 * p.macs * (aim_there[p.cols] if p.cols is not None else 1) * p.per_pair
            flops += aim_row * aim_views * aim_rows[p.rows]
            row_flops += aim_row * aim_views
            down += seen
    below = True  # no gradient reaches the layers before the first trained one
    for layer in model.neuron_map.layers:
        below = below and trained[layer.name] == 0
        work = 2.0 * layer.macs * there[layer.name]
        flops += work * views.get(layer.name, head_views) * (1 if below else 3)
        if model.target_parameters and layer.name in encoder:
            flops += 2.0 * layer.macs * aim_there[layer.name] * aim_views
    statistics = sum(objective.statistics.values())
    memory = training_memory(model, trained, visible, batch, optimizer_copies, activations)
    return BlockCost(
        flops, up_bytes + BYTES_PER_WEIGHT * statistics, BYTES_PER_WEIGHT * (down + statistics), memory, row_flops
    )


def cost_of_block(model: Model, block: Block, batch: int, optimizer_copies: int = ADAMW_COPIES) -> BlockCost:
    """Cost of one actual block; arguments as `cost_of_counts`."""
    trained = {name: len(index) for name, index in block.trained.items()}
    visible = {name: len(block.visible(name)) for name in block.trained}
    return cost_of_counts(model, trained, visible, batch, optimizer_copies)


def context_bytes(model: Model, visible: Mapping[str, int], context_rule: str) -> tuple[float, float]:
    """What a context rule moves beside weights: (bytes up, bytes down) of one machine in one round.

    Args:
        model: encoder and objective.
        visible: layer -> v_l.
        context_rule: a name in `context.CONTEXT_RULES`.
    """
    rule = CONTEXT_RULES[context_rule]
    reads = [p for p in model.neuron_map.parameters if p.cols is not None]
    up = sum(visible[name] for name in {p.cols for p in reads} if name is not None) if rule.measures else 0
    partly = [p for p in reads if visible[p.cols or ""] < p.shape[1]]
    down = sum(visible[p.rows] for p in partly) if rule.correction == "constant" else 0
    return BYTES_PER_WEIGHT * up, BYTES_PER_WEIGHT * down


def cost_of_share(
    model: Model, share: float, context: float, batch: int, context_rule: str = "random", wire_precision: str = "fp32"
) -> BlockCost:
    """Cost of any block of that share and context: counts do not depend on which neurons are drawn."""
    layers = model.neuron_map.layers
    trained = {layer.name: trained_count(share, layer.neurons) for layer in layers}
    visible = {layer.name: trained[layer.name] + context_count(context, share, layer) for layer in layers}
    cost = cost_of_counts(model, trained, visible, batch, wire_precision=wire_precision)
    if context == 1.0:
        return cost
    up, down = context_bytes(model, visible, context_rule)
    return replace(cost, upload_bytes=cost.upload_bytes + up, download_bytes=cost.download_bytes + down)


GRID = 256
"""Shares are tabulated in steps of 1 / GRID for the simulator."""


def cost_table(
    model: Model, context: float, batch: int, context_rule: str = "random", wire_precision: str = "fp32"
) -> NDArray[np.float64]:
    """Costs on a grid of shares, for array code.

    Returns:
        (GRID + 1, 5) float64: row i is share i / GRID (row 0 costs nothing: the machine sits out), columns are
        step FLOPs, upload bytes, download bytes, memory bytes, FLOPs of one row of every product. Memory is the most that this
        or any smaller share needs, so that whoever may train a share may train every smaller one; without a frozen part, the
        whole model needs less than that.
    """
    table = np.zeros((GRID + 1, 5))
    for i in range(1, GRID + 1):
        cost = cost_of_share(model, i / GRID, context, batch, context_rule, wire_precision)
        table[i] = (cost.step_flops, cost.upload_bytes, cost.download_bytes, cost.memory_bytes, cost.row_flops)
    table[:, 3] = np.maximum.accumulate(table[:, 3])
    return table
