"""Energy: only the machines that are cheapest in joules, long intervals."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from agents.heuristics.base import Heuristic
from envs.observation import View
from envs.patterns import thriftiest_half


class Energy(Heuristic):
    """Half shares for the half of the machines that use least energy, full batteries first."""

    name = "energy"
    memoryless = True

    def shares(self, view: View, steps: int) -> NDArray[np.floating]:
        """See `Heuristic.shares`."""
        return thriftiest_half(view, 0.5, float(steps))
