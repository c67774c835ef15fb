"""Enough: the fewest and fastest machines whose data suffice, in turns, with the interval that promises the best score."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agents.heuristics.base import Heuristic, grid
from envs.crews import prospect
from envs.observation import TEACHES_ALL, View
from envs.patterns import ready
from scenarios import Scenario

Floats = NDArray[np.floating]
TARGET = 1.0 / TEACHES_ALL  # progress 1 in units of the feature `teaches`


@dataclass(frozen=True)
class Plan:
    """Whom to ask at one sync interval.

    Attributes:
        crew: machines whose data suffice together, the most efficient first; everyone who can be asked where none do.
        at_once: how many of them a round asks.
        time: expected seconds per round's worth of work, in the reference's mean rounds.
        cost: expected cost of it, in the reference's mean rounds.
    """

    crew: NDArray[np.intp]
    at_once: int
    time: float
    cost: float


class Enough(Heuristic):
    """Own rule. As Oort (Lai et al. 2021) it weighs what a machine's data teach against its time, and as cyclic weight
    transfer (Chang et al. 2018) it trains in turns.

    Machines are ranked by predicted time x cost of a round that comes back (`leaves`, and deadlines learnt from late
    blocks), at the largest share that fits, the dearer the less progress their rounds have come out with than expected
    (`surplus`). The crew are the first whose pooled samples reach the target, by `teaches` over
    ln samples between the machines' and the fleet's; that curve is concave, so a straight line between keeps a margin. A
    round asks those who waited longest, so many that each comes in every third round: data count nearly in full then, at a
    third of the cost. If nobody suffices, or progress has stalled, everyone is asked. H minimises (T + n t)(C + n c), what
    the run will have cost, over n = steps left / H + 1/2 rounds: half a round overshoots. Steps left follow from recent gains.
    """

    name = "enough"
    every = 3  # a crew of so many takes turns one by one
    empty = 0.05  # charge above the reserve at which a machine is spared
    keep = 0.7  # of what recent gains were
    proven = 1.5  # exponent by which that counts
    patience = 10  # rounds with somebody at work and no new best after which progress has stalled; noise alone takes fewer
    tunable = grid(stretch=(), every=(2, 3, 4, 6), keep=(0.5, 0.7, 0.85), patience=(6, 10, 20), proven=(0.0, 1.5, 3.0))

    def begin(self, scenario: Scenario) -> None:
        """Forget the last episode."""
        super().begin(scenario)
        self.usual_share = scenario.reference.share
        self.round, self.limit = 0, np.inf
        self.best, self.fruitless = 0.0, 0
        self.asked: Floats = np.zeros(0)
        self.leaves: Floats = np.zeros(0)

    def steps(self, view: View) -> float:
        """See `Heuristic.steps`."""
        self._listen(view)
        if not ready(view).any():
            return float(self.usual_steps)
        return float(min(self.menu, key=lambda steps: self._outlook(view, steps)))

    def shares(self, view: View, steps: int) -> Floats:
        """See `Heuristic.shares`."""
        out = np.zeros_like(view.machine["exists"])
        if ready(view).any():
            plan = self.plan(view, steps)
            asked = plan.crew[np.argsort(self.asked[plan.crew], kind="stable")][: plan.at_once]
            self.asked[asked] = self.round
            out[asked] = view.machine["max_share"][asked]
        return out

    def _listen(self, view: View) -> None:
        """Take in what the last round gave; before the first one, what the reference policy's gives."""
        m, f = view.machine, view.fleet
        if self.round == 0:
            self.reference_rounds = 10.0 ** (2.0 * float(f["reference_rounds"]))
            self.gain, self.pace = 1.0 / self.reference_rounds, float(self.usual_steps)
            self.slowest = 0.1 * self.gain / self.pace
            self.asked = np.zeros(m["exists"].shape)
        else:
            self.gain = self.keep * self.gain + (1.0 - self.keep) * float(f["last_gain"]) / 10.0
            self.pace = self.keep * self.pace + (1.0 - self.keep) * 10.0 ** float(f["last_steps"])
            if ((m["last_outcome"] < 0.0) & (m["leaves"] == self.leaves)).any():  # late: the round ended at the deadline
                self.limit = min(self.limit, 10.0 ** float(f["last_round_time"]))
        if f["progress"] > self.best:
            self.best, self.fruitless = float(f["progress"]), 0
        elif (m["last_share"] > 0.0).any():
            self.fruitless += 1
        self.leaves = m["leaves"]
        self.round += 1

    def _outlook(self, view: View, steps: int) -> float:
        """Time x cost of the whole run if all that is left of it is done at this H."""
        f, plan = view.fleet, self.plan(view, steps)
        spent = f["energy_weight"] * f["energy_vs_reference"] + (1.0 - f["energy_weight"]) * f["bytes_vs_reference"]
        left = max(1.0 - float(f["progress"]), 0.0) / max(self.gain / self.pace, self.slowest)
        rounds = (left / steps + 0.5) / self.reference_rounds
        return float((f["time_vs_reference"] + rounds * plan.time) * (spent + rounds * plan.cost))

    def plan(self, view: View, steps: int) -> Plan:
        """Whom to ask if machines train so many steps; at least one must be ready."""
        m, able = view.machine, ready(view)
        spared = m["charge"] <= self.empty
        who = np.flatnonzero(able & ~spared if (able & ~spared).any() else able)
        time, cost, back = prospect(view, float(steps), self.usual_share)
        cost = cost / m["exists"].sum()
        back = back * np.where(time > 0.9 * self.limit, 0.1, 1.0)
        time, cost = time[who] / back[who], cost[who] / back[who]
        order = np.argsort(time * cost * np.exp(-self.proven * m["surplus"][who]), kind="stable")
        chosen = self._crew(view, who[order])
        if chosen is None:
            return Plan(who[order], len(who), float(time.max()), float(cost.sum()))
        at_once = -(-len(chosen) // self.every)
        crew = order[chosen]
        together = np.sort(time[crew])[::-1][::at_once]  # rounds last as long as their slowest
        return Plan(who[crew], at_once, float(together.mean()), float(at_once * cost[crew].mean()))

    def _crew(self, view: View, ranked: NDArray[np.intp]) -> NDArray[np.intp] | None:
        """Places in the ranking of the first machines that suffice, without those that nothing hangs on; None if none do."""
        m = view.machine
        exists = m["exists"] > 0.5
        points = sorted(zip(m["data"][exists], m["teaches"][exists], strict=True))
        x = np.log([*(data for data, _ in points), m["data"].sum()])
        y = [*(reach for _, reach in points), view.fleet["teaches"]]
        data = m["data"][ranked]
        reach = np.interp(np.log(data.cumsum()), x, y)
        if self.fruitless >= self.patience or reach[-1] < TARGET:
            return None
        crew = np.arange(int(np.argmax(reach >= TARGET)) + 1)
        for k in crew[np.argsort(data[crew], kind="stable")]:
            rest = crew[crew != k]
            if len(rest) and np.interp(np.log(data[rest].sum()), x, y) >= TARGET:
                crew = rest
        return crew
