"""Heuristics by name. A new one is one file here and one line in `HEURISTICS`."""

from agents.heuristics.adacomm import AdaComm
from agents.heuristics.base import Heuristic
from agents.heuristics.deadline import Deadline
from agents.heuristics.energy import Energy
from agents.heuristics.enough import Enough
from agents.heuristics.equal import Equal, Whole
from agents.heuristics.makespan import Makespan
from agents.heuristics.speed import Speed

HEURISTICS: dict[str, type[Heuristic]] = {
    cls.name: cls for cls in (Equal, Whole, Speed, Makespan, Energy, Deadline, AdaComm, Enough)
}

__all__ = ["HEURISTICS", "Heuristic"]
