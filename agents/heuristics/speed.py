"""Speed: shares proportional to measured speed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from agents.heuristics.base import Heuristic
from envs.observation import View
from envs.patterns import by_speed


class Speed(Heuristic):
    """The fastest machine trains everything, the others in proportion to their last measured step time: widths by capability,
    as HeteroFL's (Diao et al., ICLR 2021), continuous and measured in place of its five levels."""

    name = "speed"
    memoryless = True

    def shares(self, view: View, steps: int) -> NDArray[np.floating]:
        """See `Heuristic.shares`."""
        return by_speed(view)
