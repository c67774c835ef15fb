"""Battery: the fuller a machine's battery, the more it trains; whoever is almost empty recharges."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from agents.heuristics.base import Heuristic, grid
from envs.observation import View
from envs.patterns import ready


class Battery(Heuristic):
    """Share in proportion to what the battery holds above its reserve, and none below a floor: sub-models sized by battery as
    in DR-FL (arXiv 2405.08183), by a rule in place of what it learns. Mains count as full. If everyone is below the floor, all
    who are ready are asked for as much as they hold.
    """

    name = "battery"
    memoryless = True
    floor = 0.2
    tunable = grid(floor=(0.05, 0.2, 0.5))

    def shares(self, view: View, steps: int) -> NDArray[np.floating]:
        """See `Heuristic.shares`."""
        m, able = view.machine, ready(view)
        charge = np.clip(m["charge"], 0.05, 1.0)
        full = able & (charge > self.floor)
        asked = np.where(full.any(axis=-1, keepdims=True), full, able)
        return asked * np.minimum(charge, m["max_share"])
