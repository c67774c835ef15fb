"""AdaComm (Wang and Joshi, MLSys 2019): long intervals first, shorter as the loss falls."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from agents.heuristics.base import Heuristic, grid
from envs.observation import View
from envs.patterns import uniform
from scenarios import Scenario


class AdaComm(Heuristic):
    """Half shares by default; tau = sqrt(F / F_0) tau_0, and tau <- gamma tau where that did not decrease it.

    The loss gap F / F_0 is 1 - progress; tau_0 is twice the reference interval, gamma one half; adapted every fifth
    round, which stands for the paper's T_0 seconds.
    """

    name = "adacomm"
    gamma = 0.5
    every = 5
    share = 0.5
    tunable = grid(gamma=(0.25, 0.5, 0.75), every=(2, 5, 10), share=(0.25, 0.5, 1.0))

    def begin(self, scenario: Scenario) -> None:
        """Start from tau_0."""
        super().begin(scenario)
        self.first = 2.0 * self.usual_steps
        self.tau, self.rounds = self.first, 0

    def steps(self, view: View) -> float:
        """See `Heuristic.steps`."""
        if self.rounds and self.rounds % self.every == 0:
            wished = float(np.sqrt(np.clip(1.0 - view.fleet["progress"], 0.01, 1.0))) * self.first
            self.tau = wished if wished < self.tau else self.gamma * self.tau
        self.rounds += 1
        return self.tau

    def shares(self, view: View, steps: int) -> NDArray[np.floating]:
        """See `Heuristic.shares`."""
        return uniform(view, self.share)
