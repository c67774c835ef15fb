"""Held-out loss of a language model: its progress signal, label-free by nature."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from fedcore.blocks import whole_weights
from fedcore.model import Model
from fedcore.neurons import State
from fedcore.samples import Batch


class HeldOutLoss:
    """Next-token loss on a fixed server-side set of windows, in nats per token.

    Unlike InfoNCE it compares with figures from outside: the entropy rate of the source where that is known
    (`data.grammar`), bits per byte (divided by ln 2) elsewhere.

    Args:
        windows: (N, T + 1) int64 held-out windows.
        vocabulary: number of different tokens.
        size: how many windows to use at most, evenly over all of them.
    """

    def __init__(self, windows: NDArray[np.int64], vocabulary: int, size: int = 256) -> None:
        chosen = np.unique(np.linspace(0, len(windows) - 1, min(size, len(windows))).round().astype(np.int64))
        self.windows = torch.from_numpy(windows[chosen])
        self.vocabulary = vocabulary

    @property
    def chance(self) -> float:
        """Loss of a model that takes every token for as likely, ln of the vocabulary."""
        return float(np.log(self.vocabulary))

    @torch.inference_mode()
    def __call__(self, model: Model, state: State) -> float:
        """The loss of these weights."""
        weights, total = whole_weights(state), 0.0
        for part in self.windows.split(64):
            loss = model.objective.loss(model.encoder.features, weights, None, Batch((part,)))
            total += float(loss) * len(part)
        return total / len(self.windows)
