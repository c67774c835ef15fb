"""Objectives by name. A new one is one file here and one line in `OBJECTIVES`."""

from fedcore.objectives.base import Objective
from fedcore.objectives.byol import BYOL
from fedcore.objectives.simclr import SimCLR

OBJECTIVES: dict[str, type[SimCLR] | type[BYOL]] = {"simclr": SimCLR, "byol": BYOL}

__all__ = ["BYOL", "OBJECTIVES", "Objective", "SimCLR"]
