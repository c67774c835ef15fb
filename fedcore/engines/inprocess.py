"""The default engine: machines train one after the other in this process.

On a CPU, client by client beats every way of stacking clients (the working set stays in cache).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from fedcore.blocks import Block
from fedcore.local import LocalRecipe, LocalResult, train_block
from fedcore.model import Model
from fedcore.neurons import State


@dataclass(frozen=True)
class LocalTask:
    """One machine's work in one round.

    Attributes:
        machine: its index.
        block: what it trains and sees.
        steps: H.
        seed: entropy of its draws in this round, so that results do not depend on who runs when.
    """

    machine: int
    block: Block
    steps: int
    seed: tuple[int, ...]


class InProcessEngine:
    """Trains every task in turn.

    Args:
        model: encoder and objective.
        images: per machine, (N, C, H, W) uint8 tensor of its own images.
        recipe: how machines train.
    """

    def __init__(self, model: Model, images: Sequence[torch.Tensor], recipe: LocalRecipe) -> None:
        self.model = model
        self.images = images
        self.recipe = recipe

    def train(self, state: State, target: State | None, tasks: Sequence[LocalTask]) -> list[LocalResult]:
        """Results in the order of the tasks."""
        results = []
        for task in tasks:
            entropy = int(np.random.SeedSequence(task.seed).generate_state(1, np.uint64)[0] >> 1)
            generator = torch.Generator().manual_seed(entropy)
            images = self.images[task.machine]
            results.append(
                train_block(self.model, state, target, task.block, images, task.steps, self.recipe, generator)
            )
        return results
