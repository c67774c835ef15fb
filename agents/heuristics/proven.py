"""Proven: one machine at a time, whose rounds pay best for what they cost, by prediction and by what they have shown."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from agents.heuristics.base import Heuristic, grid
from envs.crews import in_turn
from envs.observation import View


class Proven(Heuristic):
    """Own rule; a bandit that, as Oort (Lai et al. 2021), weighs what a machine's training has been seen to teach against its
    time, but by the progress of rounds rather than by their losses.

    The largest share, and the longest interval, for the machine of the least predicted time x cost, over exp(weight x
    `surplus`): whoever's rounds come out below what the calibration expects is soon passed over for the next. Where memory
    holds less than a model, two or three at once (`envs.crews`).
    """

    name = "proven"
    memoryless = True
    weight = 1.5
    tunable = grid(stretch=(), weight=(0.75, 1.5, 3.0))

    def steps(self, view: View) -> float:
        """See `Heuristic.steps`."""
        return float(max(self.menu))

    def shares(self, view: View, steps: int) -> NDArray[np.floating]:
        """See `Heuristic.shares`."""
        return np.asarray(in_turn(view, float(steps), 0.0, surplus=self.weight))
