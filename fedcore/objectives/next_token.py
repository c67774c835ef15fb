"""Next-token prediction: the self-supervision of language models (Radford et al. 2018)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from fedcore.augment import Augmentation
from fedcore.blocks import Weights
from fedcore.encoders.base import Encoder
from fedcore.encoders.gpt import GPT
from fedcore.neurons import Layer, NeuronMap, Parameter, State
from fedcore.objectives.base import Features, Objective
from fedcore.samples import Batch, Samples

LAYER = "unembedding"


class NextToken(Objective):
    """Cross entropy, in nats per token, of every token given those before it in its window.

    The head is one linear layer whose neurons are the tokens of the vocabulary: every probability needs all of them, so
    they are always visible. The features come normalised (`GPT.pool`).

    Args:
        encoder: a GPT.

    Raises:
        ValueError: the encoder is no GPT, whose vocabulary and window this reads.
    """

    reads = "tokens"
    norm_gains = frozenset()
    views_per_sample = 1
    head_views = 1

    def __init__(self, encoder: Encoder) -> None:
        if not isinstance(encoder, GPT):
            raise ValueError(f"objective next-token got a {type(encoder).__name__} encoder, expected a GPT")
        vocabulary, window = encoder.vocabulary, encoder.window
        self.heads = NeuronMap(
            # Kept per position and token of the vocabulary: the log-probability.
            (Layer(LAYER, vocabulary, positions=window, stored=1.0, always_visible=True),),
            (
                Parameter(f"{LAYER}.weight", (vocabulary, encoder.feature_dim), LAYER, macs=window),
                Parameter(f"{LAYER}.bias", (vocabulary,), LAYER),
            ),
        )

    def init_state(self, generator: torch.Generator) -> State:
        """Fresh heads; small, so that the first predictions are near uniform."""
        state = super().init_state(generator)
        state[f"{LAYER}.weight"] *= 0.1
        return state

    def draw(self, samples: Samples, chosen: Tensor, how: Augmentation, generator: torch.Generator) -> Batch:
        """The chosen windows as they are, (N, T + 1) int64; see `Objective.draw`."""
        return Batch((samples.x[chosen],))

    def loss(self, features: Features, weights: Weights, target: Weights | None, batch: Batch) -> Tensor:
        """See `Objective.loss`."""
        (tokens,) = batch.views
        scores = self.scores(features, weights, tokens[:, :-1])
        return F.cross_entropy(scores.flatten(0, 1), tokens[:, 1:].flatten())

    def scores(self, features: Features, weights: Weights, tokens: Tensor) -> Tensor:
        """(N, T, vocabulary) logits of what follows every token, given those before it; from (N, T)."""
        return weights.linear(features(weights, tokens), f"{LAYER}.weight") + weights.vector(f"{LAYER}.bias")
