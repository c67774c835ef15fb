"""Objectives by name. A new one is one file here and one line in `OBJECTIVES`."""

from fedcore.objectives.base import Objective
from fedcore.objectives.byol import BYOL
from fedcore.objectives.dino import DINO
from fedcore.objectives.next_token import NextToken
from fedcore.objectives.simclr import SimCLR
from fedcore.objectives.supervised import Supervised
from fedcore.objectives.vicreg import VICReg

OBJECTIVES: dict[str, type[Objective]] = {
    "simclr": SimCLR,
    "byol": BYOL,
    "dino": DINO,
    "vicreg": VICReg,
    "supervised": Supervised,
    "next-token": NextToken,
}

__all__ = ["BYOL", "DINO", "OBJECTIVES", "NextToken", "Objective", "SimCLR", "Supervised", "VICReg"]
