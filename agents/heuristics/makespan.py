"""Makespan: shares that let everybody finish at the same time."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from agents.heuristics.base import Heuristic, grid
from envs.observation import View
from envs.patterns import balanced


class Makespan(Heuristic):
    """Solves for the smallest common finish time at which shares have a mean, one half by default (bisection on the time).

    Load that can be cut anywhere is done soonest where all stop together: the principle of divisible load theory (Bharadwaj,
    Ghose, Mani and Robertazzi 1996, "Scheduling divisible loads in parallel and distributed systems").
    """

    name = "makespan"
    memoryless = True
    mean_share = 0.5
    tunable = grid(mean_share=(0.1, 0.25, 0.5, 0.75))

    def shares(self, view: View, steps: int) -> NDArray[np.floating]:
        """See `Heuristic.shares`."""
        return balanced(view, self.mean_share, float(steps))
