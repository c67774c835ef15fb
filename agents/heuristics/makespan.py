"""Makespan: shares that let everybody finish at the same time."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from agents.heuristics.base import Heuristic
from envs.observation import View
from envs.patterns import balanced


class Makespan(Heuristic):
    """Solves for the smallest common finish time at which shares average one half (bisection on the time)."""

    name = "makespan"
    memoryless = True

    def shares(self, view: View, steps: int) -> NDArray[np.floating]:
        """See `Heuristic.shares`."""
        return balanced(view, 0.5, float(steps))
