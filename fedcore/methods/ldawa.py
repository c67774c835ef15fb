"""L-DAWA (Rehman et al. 2023): layers that turned away from the global model's direction count less in the merge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from fedcore.local import LocalResult, LocalTask
from fedcore.merge import Update
from fedcore.methods.base import Server
from fedcore.methods.partial import Partial
from fedcore.neurons import NeuronMap, State
from fedcore.robust import MERGES
from fedcore.slices import trained_slice
from scenarios.errors import InputError


def cosine(a: Tensor, b: Tensor) -> float:
    """Cosine of two tensors as vectors, at most 1; 1 where either is all zeros and has no direction to differ in."""
    a, b = a.double().flatten(), b.double().flatten()
    lengths = float(a.norm() * b.norm())
    return 1.0 if lengths == 0.0 else min(1.0, float(a @ b) / lengths)


@dataclass(frozen=True)
class LDAWA(Partial):
    """w = sum_k delta_k w_k, tensor by tensor, with delta_k = cos(w_k, w_prev) (equations 4 and 5).

    The published code divides by K whatever the cosines are, so that weights shrink in every round, and takes no account of
    how much data a machine has. By default this is instead the mean with weights max(0, delta_k) x samples x steps:
    the same order of trust, norms kept, and FedAvg where nobody turns away. On blocks, a machine's cosine is that of the
    entries that it trained.

    Attributes:
        renormalise: divide by the sum of the weights; False is as published, sum_k delta_k w_k / K, entry by entry over the
            machines that trained it.
        warmup_rounds: rounds of FedAvg before it, 3 in the published code.

    Under `merge_rule` median and trimmed-mean, which count machines alike, trust only leaves out who turned away.
    """

    name = "l-dawa"

    renormalise: bool = True
    warmup_rounds: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.warmup_rounds < 0:
            raise InputError(f"l-dawa: warmup_rounds is {self.warmup_rounds}, expected at least 0")
        # Importance and mean activations are read off plain merges.
        if self.partial and self.rule == "importance":
            raise InputError("l-dawa: selection is 'importance', which needs method intralayer, expected another selection")
        if self._measures:
            raise InputError(
                f"l-dawa: context_rule is {self.context_rule!r}, which needs method intralayer; "
                "expected random or random-unscaled"
            )

    def merge(
        self, server: Server, tasks: Sequence[LocalTask], results: Sequence[LocalResult], updates: Sequence[Update]
    ) -> None:
        """See `Method.merge`."""
        if server.round_index < self.warmup_rounds:
            super().merge(server, tasks, results, updates)
            return
        neuron_map, rule = server.model.neuron_map, MERGES[self.merge_rule]
        before = [trained_slice(server.state, neuron_map, update.block) for update in updates]
        trust = [
            {name: cosine(value, old[name]) for name, value in update.trained.items()}
            for update, old in zip(updates, before, strict=True)
        ]
        merged: State = {}
        for p in neuron_map.parameters:
            weighed = []
            for update, delta in zip(updates, trust, strict=True):
                if p.name not in delta:
                    continue
                if not self.renormalise:
                    scaled = {p.name: update.trained[p.name] * delta[p.name]}
                    weighed.append(replace(update, trained=scaled, weight=1.0))
                elif delta[p.name] > 0.0:
                    weighed.append(replace(update, weight=update.weight * delta[p.name]))
            merged |= rule(server.state, NeuronMap(neuron_map.layers, (p,)), weighed, self.server_step)
        server.state = server.state | merged
