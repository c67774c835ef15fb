"""A model: an encoder under an objective's heads, with one neuron map for the whole."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable
from functools import partial
from typing import Any, get_type_hints

import torch
from pydantic import ConfigDict, TypeAdapter, ValidationError

from fedcore.encoders import ENCODERS, Encoder
from fedcore.neurons import State
from fedcore.objectives import OBJECTIVES, Objective


class Model:
    """Encoder and objective together.

    Attributes:
        encoder: maps images or tokens to features.
        objective: what it is trained for.
        neuron_map: layers and parameters of both.
        target_parameters: names of the parameters that a momentum target has too; empty where there is none.
        objective_for: builds the objective on another encoder; None where only this one exists.
    """

    def __init__(
        self, encoder: Encoder, objective: Objective, objective_for: Callable[[Encoder], Objective] | None = None
    ) -> None:
        self.encoder = encoder
        self.objective = objective
        self.objective_for = objective_for
        self.neuron_map = encoder.neuron_map + objective.heads
        self.target_parameters: frozenset[str] = frozenset()
        if objective.target_momentum is not None:
            names = {p.name for p in self.neuron_map.parameters}
            self.target_parameters = frozenset(names - objective.online_only)

    def prefix(self, depth: int) -> Model:
        """The model of the encoder's first `depth` stages under heads of its own; encoder weights keep their names.

        Raises:
            ValueError: there are fewer stages, depth is below 1, or nothing says how the objective is built.
        """
        if self.objective_for is None:
            raise ValueError("this model cannot be cut: expected one from build_model, which knows how its objective is built")
        shallow = self.encoder.prefix(depth)
        return Model(shallow, self.objective_for(shallow), self.objective_for)

    def init_state(self, generator: torch.Generator) -> State:
        """Fresh weights and statistics, every draw from the generator."""
        return self.encoder.init_state(generator) | self.objective.init_state(generator)

    def target_of(self, state: State) -> State | None:
        """A momentum target that equals these weights, or None where the objective has none."""
        if self.objective.target_momentum is None:
            return None
        return {name: state[name].clone() for name in sorted(self.target_parameters)}


def _check_kinds(name: str, takes: type, options: dict[str, Any]) -> None:
    """Refuse an option's value that is not of the kind that its constructor declares: 8.5 neurons, yes for a number.

    Raises:
        TypeError: there is one, or an option that the constructor does not take.
    """
    kinds = get_type_hints(takes.__init__)  # type: ignore[misc]
    parameters = list(inspect.signature(takes.__init__).parameters.values())[2:]  # type: ignore[misc]
    known, open_ended = [p.name for p in parameters], any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)
    for option, value in options.items():
        if option not in known and not open_ended:
            raise TypeError(f"{name} takes no option {option!r}, expected one of {', '.join(known) or 'none'}")
        if option not in kinds:
            continue
        try:
            TypeAdapter(kinds[option], config=ConfigDict(allow_inf_nan=False)).validate_json(json.dumps(value), strict=True)
        except (ValidationError, TypeError) as error:
            why = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
            raise TypeError(f"{name}: {option} is {value!r:.60}: {why}") from None


BATCH_NORM = "its statistics would be of neurons that a partial block does not see; choose group or layer norm"
"""Why no encoder has it. Heads do: theirs are the batch's own, and none are merged."""


def _refuse_batch_norm(encoder: str, options: dict[str, Any]) -> None:
    """Refuse an option that asks for batch norm in the encoder.

    Raises:
        ValueError: there is one.
    """
    for option, value in options.items():
        if value and re.search(r"batch[ _-]?norm|(^|_)bn(=|_|\d)|norm\w*=(batch|bn)", f"{option}={value}".lower()):
            raise ValueError(f"encoder {encoder}: {option} is {value!r}, which is batch norm: {BATCH_NORM}")


def build_model(
    input_shape: tuple[int, int, int] | tuple[int, int],
    encoder: str,
    objective: str,
    encoder_options: dict[str, Any] | None = None,
    objective_options: dict[str, Any] | None = None,
) -> Model:
    """A model from registered names.

    Args:
        input_shape: (C, H, W) of images, or (vocabulary, window) of text.
        encoder: a name in `ENCODERS`.
        objective: a name in `OBJECTIVES`.
        encoder_options: keyword arguments of the encoder.
        objective_options: keyword arguments of the objective.

    Raises:
        KeyError: an unknown name.
        TypeError: an unknown option, or a value of another kind.
        ValueError: encoder and objective read different things, an option does not fit, or the encoder would have batch norm.
    """
    reads, trains_on = ENCODERS[encoder].reads, OBJECTIVES[objective].reads
    if reads != trains_on:
        fitting = ", ".join(sorted(name for name, kind in OBJECTIVES.items() if kind.reads == reads))
        raise ValueError(
            f"encoder {encoder} reads {reads} but objective {objective} trains on {trains_on}; expected an objective on "
            f"{reads}: {fitting}"
        )
    _refuse_batch_norm(encoder, encoder_options or {})
    _check_kinds(f"encoder {encoder}", ENCODERS[encoder], encoder_options or {})
    _check_kinds(f"objective {objective}", OBJECTIVES[objective], objective_options or {})
    built = ENCODERS[encoder](input_shape, **(encoder_options or {}))
    if not built.stages:
        raise ValueError(f"encoder {encoder} has no layer, expected widths of at least one")
    for parameter in built.neuron_map.parameters:
        if parameter.name.endswith((".running_mean", ".running_var")):
            raise ValueError(f"encoder {encoder} declares {parameter.name}, which is of batch norm: {BATCH_NORM}")
    kind: Callable[..., Objective] = OBJECTIVES[objective]
    objective_for = partial(kind, **(objective_options or {}))
    return Model(built, objective_for(built), objective_for)
