"""Local training: H optimiser steps of one machine on its own images, over its own block."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from fedcore.augment import Augmentation, normalise, random_view
from fedcore.blocks import Block, Weights, freeze, slice_weights
from fedcore.encoders import Encoder
from fedcore.model import Model
from fedcore.neurons import State
from fedcore.objectives.base import Features


@dataclass(frozen=True)
class LocalRecipe:
    """How a machine trains.

    Attributes:
        batch_size: images per step (each gives two views); fewer where the machine holds fewer.
        learning_rate: of AdamW.
        weight_decay: of AdamW.
        moving_target: move the momentum target after every local step instead of keeping it frozen in the round.
        augmentation: of the two views.
        precision: of the encoder's forward and backward pass; "auto" takes bf16 where the processor has it. Weights,
            heads, loss and optimiser stay fp32 (pure bf16 weights lose their updates to rounding).
    """

    batch_size: int = 64
    learning_rate: float = 3e-3
    weight_decay: float = 1e-4
    moving_target: bool = False
    augmentation: Augmentation = field(default_factory=Augmentation)
    precision: str = "auto"


@dataclass(frozen=True)
class LocalResult:
    """What local training gave.

    Attributes:
        trained: parameter name -> new trained rows by visible columns, float32.
        loss: mean over the steps.
        steps: optimiser steps done.
        samples: images that the machine holds, n_k.
    """

    trained: dict[str, Tensor]
    loss: float
    steps: int
    samples: int


def has_fast_bf16() -> bool:
    """Whether this processor multiplies bf16 natively; elsewhere autocast is slower than fp32."""
    capabilities = getattr(torch.backends.cpu, "get_cpu_capability", lambda: "")()
    return "AVX512" in capabilities and bool(torch.cpu._is_avx512_bf16_supported())


def features_in(encoder: Encoder, precision: str) -> Features:
    """The encoder's forward pass in a precision: "fp32", "bf16" or "auto"."""
    if precision == "fp32" or (precision == "auto" and not has_fast_bf16()):
        return encoder.features

    def features(weights: Weights, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return encoder.features(weights, x).float()

    return features


def train_block(
    model: Model,
    state: State,
    target: State | None,
    block: Block,
    images: Tensor,
    steps: int,
    recipe: LocalRecipe,
    generator: torch.Generator,
) -> LocalResult:
    """Train one block from the global weights.

    Optimiser moments start fresh every round: blocks move, so there is nothing to keep them for.

    Args:
        model: encoder and objective.
        state: global weights; not changed.
        target: whole momentum target, or None.
        block: what this machine trains and sees.
        images: (N, C, H, W) uint8, this machine's own.
        steps: H.
        recipe: how.
        generator: every draw (batches, views) comes from it.
    """
    weights = slice_weights(state, model.neuron_map, block)
    aim = None if target is None else freeze(slice_weights(target, model.neuron_map, block))
    optimiser = torch.optim.AdamW(
        list(weights.trained.values()), lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True
    )
    batch = min(recipe.batch_size, len(images))
    features = features_in(model.encoder, recipe.precision)
    total = 0.0
    for _ in range(steps):
        chosen = torch.randperm(len(images), generator=generator)[:batch]
        x = normalise(images[chosen])
        one = random_view(x, recipe.augmentation, generator)
        two = random_view(x, recipe.augmentation, generator)
        loss = model.objective.loss(features, weights, aim, one, two)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        total += float(loss.detach())
        if aim is not None and recipe.moving_target and model.objective.target_momentum is not None:
            with torch.no_grad():
                for name, value in aim.frozen.items():
                    value.lerp_(weights.vector(name), 1 - model.objective.target_momentum)
    return LocalResult({n: t.detach() for n, t in weights.trained.items()}, total / steps, steps, len(images))
