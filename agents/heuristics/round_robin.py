"""Round-robin: whole models, a few machines at a time, in turns."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from agents.heuristics.base import Heuristic, grid
from envs.observation import View
from envs.patterns import ready
from scenarios import Scenario


class RoundRobin(Heuristic):
    """A fraction of the machines that are ready, those who have waited longest first, then by their place: the scheduling
    policy RR of Yang et al., "Scheduling policies for federated learning in wireless networks" (IEEE Trans. Commun. 2020)."""

    name = "round-robin"
    fraction = 0.25
    tunable = grid(fraction=(0.05, 0.1, 0.25, 0.5))

    def begin(self, scenario: Scenario) -> None:
        """Nobody has been asked yet."""
        super().begin(scenario)
        self.round, self.asked = 0, np.zeros(0)

    def shares(self, view: View, steps: int) -> NDArray[np.floating]:
        """See `Heuristic.shares`."""
        able = np.flatnonzero(ready(view))
        if not len(self.asked):
            self.asked = np.zeros(len(view.machine["exists"]))
        self.round += 1
        chosen = able[np.argsort(self.asked[able], kind="stable")][: int(np.ceil(self.fraction * len(able)))]
        self.asked[chosen] = self.round
        out = np.zeros(len(self.asked))
        out[chosen] = view.machine["max_share"][chosen]
        return out
