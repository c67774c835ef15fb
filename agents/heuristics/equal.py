"""Equal: half of every layer on every machine, fixed H. The reference policy, whose efficiency is 1 by definition."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from agents.heuristics.base import Heuristic, grid
from envs.observation import View
from envs.patterns import uniform
from scenarios import Scenario


class Equal(Heuristic):
    """The scenario's reference share for every machine that is there."""

    name = "equal"
    memoryless = True
    share = 0.5
    tunable = grid(stretch=())

    def begin(self, scenario: Scenario) -> None:
        """Take the reference share."""
        super().begin(scenario)
        self.share = scenario.reference.share

    def shares(self, view: View, steps: int) -> NDArray[np.floating]:
        """See `Heuristic.shares`."""
        return uniform(view, self.share)


class Whole(Heuristic):
    """FedAvg as most people run it: whole models, everyone, fixed H (McMahan et al. 2017)."""

    name = "fedavg"
    memoryless = True

    def shares(self, view: View, steps: int) -> NDArray[np.floating]:
        """See `Heuristic.shares`."""
        return uniform(view, 1.0)
