"""Energy: only the machines that are cheapest in joules, long intervals."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from agents.heuristics.base import Heuristic, grid
from envs.observation import View
from envs.patterns import thriftiest_half


class Energy(Heuristic):
    """One share, a half by default, for the half of the machines that use least energy, full batteries first. AutoFL (Kim and
    Wu, MICRO 2021) too chooses who takes part by energy, with a learned table in place of predicted joules."""

    name = "energy"
    memoryless = True
    share = 0.5
    tunable = grid(share=(0.1, 0.25, 0.5, 1.0))

    def shares(self, view: View, steps: int) -> NDArray[np.floating]:
        """See `Heuristic.shares`."""
        return thriftiest_half(view, self.share, float(steps))
