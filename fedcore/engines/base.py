"""What an engine is to the round loop: it carries tasks to machines and brings back what they trained, nothing else."""

from __future__ import annotations

from collections.abc import Sequence, Sized
from typing import Protocol

from fedcore.local import LocalRecipe, LocalResult, LocalTask
from fedcore.methods import Method
from fedcore.model import Model
from fedcore.neurons import State


class Engine(Protocol):
    """Carries a round's tasks out and back.

    With the same seed and nobody late, every engine gives the same weights: all draws follow from the tasks' seeds, and one
    thread does all of a task's arithmetic. Only a private method's noise is another over real machines, whose engine has a
    `secret` (see `Server.secret`).
    """

    @property
    def recipe(self) -> LocalRecipe:
        """How machines train."""

    @property
    def samples(self) -> Sequence[Sized]:
        """Per machine, what it holds; the round loop asks for the number only."""

    def train(
        self, method: Method, model: Model, state: State, target: State | None, tasks: Sequence[LocalTask]
    ) -> list[LocalResult]:
        """Results in the order of the tasks; where a machine's never came back, one whose `lost` says why."""

    def close(self) -> None:
        """Let go of processes and connections; closing twice does nothing."""
