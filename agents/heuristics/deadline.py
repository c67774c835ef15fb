"""Deadline: nobody may take longer than the median machine takes for half of the neurons."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from agents.heuristics.base import Heuristic
from envs.observation import View
from envs.patterns import finish_time, ready, within


class Deadline(Heuristic):
    """Each machine takes the largest share, up to one half, with which it meets the deadline; who cannot, rests."""

    name = "deadline"

    def shares(self, view: View, steps: int) -> NDArray[np.floating]:
        """See `Heuristic.shares`."""
        able = ready(view)
        if not able.any():
            return np.zeros(able.shape)
        times = finish_time(view, np.full(able.shape, 0.5), float(steps))
        return np.minimum(within(view, np.asarray(np.median(times[able])), float(steps)), 0.5)
