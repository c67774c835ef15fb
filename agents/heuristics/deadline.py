"""Deadline: nobody may take longer than the median machine takes for half of the neurons."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from agents.heuristics.base import Heuristic, grid
from envs.observation import View
from envs.patterns import finish_time, ready, within


class Deadline(Heuristic):
    """Each machine takes the largest share, up to one half by default, with which it meets the deadline; who cannot, rests, as
    in FedCS (Nishio and Yonetani, ICC 2019), which has no shares to make smaller first."""

    name = "deadline"
    most = 0.5
    quantile = 0.5
    tunable = grid(most=(0.25, 0.5, 1.0), quantile=(0.1, 0.25, 0.5, 0.75))

    def shares(self, view: View, steps: int) -> NDArray[np.floating]:
        """See `Heuristic.shares`."""
        able = ready(view)
        if not able.any():
            return np.zeros(able.shape)
        times = finish_time(view, np.full(able.shape, self.most), float(steps))
        limit = np.asarray(np.quantile(times[able], self.quantile))
        return np.minimum(within(view, limit, float(steps)), self.most)
