"""A model: an encoder under an objective's heads, with one neuron map for the whole."""

from __future__ import annotations

from typing import Any

import torch

from fedcore.encoders import ENCODERS, Encoder
from fedcore.neurons import State
from fedcore.objectives import OBJECTIVES, Objective


class Model:
    """Encoder and objective together.

    Attributes:
        encoder: maps images to features.
        objective: what it is trained for.
        neuron_map: layers and parameters of both.
        target_parameters: names of the parameters that a momentum target has too; empty where there is none.
    """

    def __init__(self, encoder: Encoder, objective: Objective) -> None:
        self.encoder = encoder
        self.objective = objective
        self.neuron_map = encoder.neuron_map + objective.heads
        self.target_parameters: frozenset[str] = frozenset()
        if objective.target_momentum is not None:
            names = {p.name for p in self.neuron_map.parameters}
            self.target_parameters = frozenset(names - objective.online_only)

    def init_state(self, generator: torch.Generator) -> State:
        """Fresh weights and statistics, every draw from the generator."""
        return self.encoder.init_state(generator) | self.objective.init_state(generator)

    def target_of(self, state: State) -> State | None:
        """A momentum target that equals these weights, or None where the objective has none."""
        if self.objective.target_momentum is None:
            return None
        return {name: state[name].clone() for name in sorted(self.target_parameters)}


def build_model(
    image_shape: tuple[int, int, int],
    encoder: str,
    objective: str,
    encoder_options: dict[str, Any] | None = None,
    objective_options: dict[str, Any] | None = None,
) -> Model:
    """A model from registered names.

    Args:
        image_shape: (C, H, W).
        encoder: a name in `ENCODERS`.
        objective: a name in `OBJECTIVES`.
        encoder_options: keyword arguments of the encoder.
        objective_options: keyword arguments of the objective.

    Raises:
        KeyError: an unknown name.
        TypeError: an unknown option.
    """
    built = ENCODERS[encoder](image_shape, **(encoder_options or {}))
    return Model(built, OBJECTIVES[objective](built, **(objective_options or {})))
