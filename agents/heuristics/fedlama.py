"""FedLAMA-style interval (Lee et al., AAAI 2023): synchronise less often where that loses less than it saves."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from agents.heuristics.base import Heuristic, grid
from envs.observation import View
from envs.patterns import finish_time, ready, uniform
from scenarios import Scenario


class FedLama(Heuristic):
    """Whole models, everyone; the base interval tau' or phi times as long, chosen anew every few rounds.

    FedLAMA doubles the interval of the layers whose part of the discrepancy between machines is below the part of the traffic
    that leaving them out saves. A decision here has one H for all layers, and observations carry no discrepancy. So the
    comparison is made for the whole model: an interval phi times as long is taken where the part of progress per step that it
    is seen to lose is below the part of a step's time that it saves. Both are tried for two rounds, then the choice holds
    for five, as the paper's schedule waits for round five.
    """

    name = "fedlama"
    phi = 2.0
    trial = 2
    held = 5
    tunable = grid(phi=(2.0, 4.0), held=(2, 5, 10))

    def begin(self, scenario: Scenario) -> None:
        """Forget what was measured."""
        super().begin(scenario)
        self.round = 0
        self.pace: dict[bool, list[float]] = {False: [], True: []}
        self.long = False

    def steps(self, view: View) -> float:
        """See `Heuristic.steps`."""
        f, place = view.fleet, self.round % (2 * self.trial + self.held)
        if self.round:
            self.pace[self.long].append(float(f["last_gain"]) / 10.0 ** float(f["last_steps"]))
        if place == 0:
            self.pace = {False: [], True: []}
        self.round += 1
        if place < 2 * self.trial:
            self.long = place >= self.trial
        elif place == 2 * self.trial:
            self.long = self._pays(view)
        return self.usual_steps * (self.phi if self.long else 1.0)

    def _pays(self, view: View) -> bool:
        able = ready(view)
        short, long = (float(np.mean(self.pace[which])) for which in (False, True))
        if not able.any() or short <= 0.0:
            return long > short
        whole = np.minimum(1.0, view.machine["max_share"])
        times = [float(finish_time(view, whole, n * self.usual_steps)[able].max()) / n for n in (1.0, self.phi)]
        return 1.0 - long / short < 1.0 - times[1] / times[0]

    def shares(self, view: View, steps: int) -> NDArray[np.floating]:
        """See `Heuristic.shares`."""
        return uniform(view, 1.0)
