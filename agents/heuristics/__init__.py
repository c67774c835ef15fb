"""Heuristics by name. A new one is one file here and one line in `HEURISTICS`."""

from agents.heuristics.adacomm import AdaComm
from agents.heuristics.adaptive_tau import AdaptiveTau
from agents.heuristics.base import Heuristic
from agents.heuristics.battery import Battery
from agents.heuristics.deadline import Deadline
from agents.heuristics.energy import Energy
from agents.heuristics.enough import Enough
from agents.heuristics.equal import Equal, Whole
from agents.heuristics.fedlama import FedLama
from agents.heuristics.lroa import Lroa
from agents.heuristics.makespan import Makespan
from agents.heuristics.memory import Memory
from agents.heuristics.oort import Oort
from agents.heuristics.proven import Proven
from agents.heuristics.round_robin import RoundRobin
from agents.heuristics.speed import Speed

HEURISTICS: dict[str, type[Heuristic]] = {
    cls.name: cls
    for cls in (
        Equal, Whole, Speed, Makespan, Energy, Deadline, Memory, Battery, RoundRobin, Oort, Lroa, AdaComm, AdaptiveTau, FedLama,
        Enough, Proven,
    )
}  # fmt: skip

__all__ = ["HEURISTICS", "Heuristic"]
