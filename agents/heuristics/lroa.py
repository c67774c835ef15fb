"""LROA-style: fast machines, as long as no machine spends more than its part of the energy (drift plus penalty)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from agents.heuristics.base import Heuristic, grid
from envs.observation import View
from envs.patterns import finish_time, ready, round_energy
from scenarios import Scenario


class Lroa(Heuristic):
    """Whole models on the machines with the least V t + Q e: predicted time t of a block, its energy e, and a queue
    Q <- max(Q + e asked - e allowed, 0) of what a machine has spent beyond its allowance (drift plus penalty, Neely 2010; so
    LROA, Gao et al., arXiv 2410.10833, schedules clients, by sampling, and sets clocks and bandwidth besides, which are no
    decisions here).

    Energies are in the reference's per machine and round, of which each may spend the same.
    """

    name = "lroa"
    fraction = 0.3
    v = 1.0
    allowed = 0.3
    tunable = grid(fraction=(0.05, 0.1, 0.3, 0.5), v=(0.1, 1.0, 10.0), allowed=(0.1, 0.3, 1.0))

    def begin(self, scenario: Scenario) -> None:
        """All queues are empty."""
        super().begin(scenario)
        self.queue: NDArray[np.floating] = np.zeros(0)

    def shares(self, view: View, steps: int) -> NDArray[np.floating]:
        """See `Heuristic.shares`."""
        m, able = view.machine, ready(view)
        if not len(self.queue):
            self.queue = np.zeros(len(able))
        energy = round_energy(view, m["max_share"], float(steps))
        price = self.v * finish_time(view, m["max_share"], float(steps)) + self.queue * energy
        who = np.flatnonzero(able)
        chosen = who[np.argsort(price[who], kind="stable")][: int(np.ceil(self.fraction * len(who)))]
        out, spent = np.zeros(len(able)), np.zeros(len(able))
        out[chosen], spent[chosen] = m["max_share"][chosen], energy[chosen]
        self.queue = np.maximum(self.queue + spent - self.allowed, 0.0)
        return out
