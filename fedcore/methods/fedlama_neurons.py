"""FedLAMA one level down: groups of neurons, not layers, are synchronised as often as their copies drift apart."""

from __future__ import annotations

from dataclasses import dataclass
from math import isqrt

import torch

from fedcore.methods.fedlama import FedLAMA, Unit
from fedcore.neurons import NeuronMap
from scenarios.errors import InputError


@dataclass(frozen=True)
class FedLAMANeurons(FedLAMA):
    """`FedLAMA` whose units are groups of adjacent neurons of one layer: all rows of theirs synchronise together.

    The rule, `fedlama.less_critical`, is the same. Within one layer some neurons settle long before others; a layer's
    mean discrepancy hides that. The discrepancy is measured on the weights of a group; on its vectors where it has
    nothing else (norms of a transformer's stream).

    Attributes:
        neurons_per_group: None makes about sqrt(n) groups of equal size out of a layer's n neurons.
    """

    name = "fedlama-neurons"

    neurons_per_group: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.neurons_per_group is not None and self.neurons_per_group < 1:
            raise InputError(f"{self.name}: neurons_per_group is {self.neurons_per_group}, expected at least 1 or none")

    def units(self, neuron_map: NeuronMap) -> list[Unit]:
        """See `FedLAMA.units`."""
        units = []
        for layer in neuron_map.layers:
            owned = [p for p in neuron_map.parameters if p.rows == layer.name]
            if not owned:
                continue
            kernels = tuple(p.name for p in owned if len(p.shape) > 1)
            per_group = self.neurons_per_group or -(-layer.neurons // max(1, isqrt(layer.neurons)))
            for rows in torch.arange(layer.neurons).split(per_group):
                units.append(Unit({p.name: rows for p in owned}, kernels or tuple(p.name for p in owned)))
        return units
