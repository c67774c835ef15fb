"""Memory: the widest of a few sub-models that a machine's memory holds (HeteroFL, Diao et al., ICLR 2021)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from agents.heuristics.base import Heuristic, grid
from envs.observation import View
from envs.patterns import ready


class Memory(Heuristic):
    """Each machine trains the widest of HeteroFL's five levels, 1, 1/2, 1/4, 1/8 and 1/16, that takes no more than a part of
    the memory in which its largest block fits.

    Observations tell the largest share that fits, not bytes; a machine with memory to spare cannot be told from one that is
    just large enough.
    """

    name = "memory"
    memoryless = True
    part = 1.0
    tunable = grid(part=(0.25, 0.5, 1.0))
    levels = (1.0, 0.5, 0.25, 0.125, 0.0625)

    def shares(self, view: View, steps: int) -> NDArray[np.floating]:
        """See `Heuristic.shares`."""
        room = self.part * view.machine["max_share"]
        fits = np.select([room >= level for level in self.levels], self.levels, np.minimum(view.machine["max_share"], 0.0625))
        return ready(view) * fits
