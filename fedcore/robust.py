"""How updates become one value per weight entry: the mean, or rules that a few bad machines cannot move far."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fedcore.merge import Update, merge
from fedcore.neurons import NeuronMap, State

Merge = Callable[[State, NeuronMap, Sequence[Update], float], State]

MERGES: dict[str, Merge] = {"mean": merge}
