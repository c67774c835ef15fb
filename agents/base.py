"""What an orchestrator is: anything that decides from an observation."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
from numpy.typing import NDArray

from scenarios import Scenario


class Orchestrator(ABC):
    """Decides each round who trains how much and how often machines synchronise.

    Attributes:
        name: for tables.
    """

    name: str = "orchestrator"

    def begin(self, scenario: Scenario) -> None:  # noqa: B027 - most orchestrators need nothing
        """Called before every episode with what is public of it: the scenario file."""

    @abstractmethod
    def decide(self, observation: NDArray[np.floating]) -> NDArray[np.float32]:
        """The decision for one round.

        Args:
            observation: (size,) as `envs.observation` has it.

        Returns:
            (K_max + 1,) action of `envs.spaces.action_space`.
        """
