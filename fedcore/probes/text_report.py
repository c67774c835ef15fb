"""Everything the probes tell of a language model on held-out text, in one record."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from fedcore.blocks import whole_weights
from fedcore.model import Model
from fedcore.neurons import State
from fedcore.objectives.next_token import NextToken
from fedcore.parallel import one_thread
from fedcore.probes.intervals import Estimate, Weights, bootstrap


@dataclass(frozen=True)
class TextReport:
    """Figures of one language model on held-out windows, with 95 % intervals over windows.

    Attributes:
        windows: how many.
        nats: loss per token, natural logarithm.
        accuracy: how often the likeliest token is the next one.
        floor: nats per token that the text's true source loses on these windows; None where the source is not known.
        headline: which figure is the quality.
    """

    windows: int
    nats: Estimate
    accuracy: Estimate
    floor: float | None = None
    headline: Literal["next-token accuracy"] = "next-token accuracy"

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    @staticmethod
    def from_dict(content: dict[str, Any]) -> TextReport:
        """From JSON."""
        return TextReport(**content | {name: Estimate(**content[name]) for name in ("nats", "accuracy")})


@torch.inference_mode()
def by_window(model: Model, state: State, windows: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Loss in nats per token and accuracy of every window.

    Args:
        model: whose objective is next-token.
        state: its weights.
        windows: (N, T + 1) int64.

    Returns:
        Two arrays (N,).
    """
    assert isinstance(model.objective, NextToken)
    weights, nats, right = whole_weights(state), [], []
    with one_thread():
        for part in torch.from_numpy(windows).split(64):
            scores = model.objective.scores(model.encoder.features, weights, part[:, :-1])
            told = scores.log_softmax(-1).gather(-1, part[:, 1:, None])[..., 0]
            nats.append(-told.double().mean(1).numpy())
            right.append((scores.argmax(-1) == part[:, 1:]).double().mean(1).numpy())
    return np.concatenate(nats), np.concatenate(right)


def text_report(model: Model, state: State, windows: NDArray[np.int64], seed: int, floor: float | None = None) -> TextReport:
    """Measure a language model; arguments as `by_window`, with the seed of the bootstrap and the report's `floor`."""
    figures = np.stack(by_window(model, state, windows), axis=1)

    def means(weights: Weights) -> NDArray[np.float64]:
        return np.asarray(weights @ figures / weights.sum(1, keepdims=True))

    nats, accuracy = bootstrap(means, len(windows), seed)
    return TextReport(len(windows), nats, accuracy, floor)
