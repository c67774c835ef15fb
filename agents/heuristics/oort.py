"""Oort-style utility (Lai et al., OSDI 2021): the machines whose data teach most for the time that they take."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from agents.heuristics.base import Heuristic, grid
from envs.observation import View
from envs.patterns import finish_time, ready
from scenarios import Scenario


class Oort(Heuristic):
    """Whole models on the machines of highest utility |B| sqrt(mean loss^2) (T / t)^alpha, the last factor only for t > T.

    Losses per machine are not observed; in place of the root mean square stands `teaches`, how far its data can lead. t is the
    predicted time of its block. The rest is Oort's, with the constants of its code: utility is clipped at its 98 % quantile and
    raised by sqrt(0.1 ln(round) / round last asked); T is the 10 % quantile of times at first, and 5 points more whenever the
    progress of the last 20 rounds was less than that of the 20 before; a part epsilon of those asked (0.9, falling by 0.95 a
    round to 0.2) are machines never asked, the fastest first; a tenth more are asked than wanted, whole numbers permitting.
    Oort draws by utility among the best; with so few machines the best are taken.
    """

    name = "oort"
    fraction = 0.3
    alpha = 2.0
    tunable = grid(fraction=(0.05, 0.1, 0.2, 0.3, 0.5), alpha=(0.5, 1.0, 2.0, 4.0))

    def begin(self, scenario: Scenario) -> None:
        """Nobody has been asked yet."""
        super().begin(scenario)
        self.round, self.asked = 0, np.zeros(0)
        self.explore, self.percentile = 0.9, 10.0
        self.progress: list[float] = []

    def shares(self, view: View, steps: int) -> NDArray[np.floating]:
        """See `Heuristic.shares`."""
        m, able = view.machine, ready(view)
        if not len(self.asked):
            self.asked = np.zeros(len(able))
        self.round += 1
        self._pace(float(view.fleet["progress"]))
        out, who = np.zeros(len(able)), np.flatnonzero(able)
        if not len(who):
            return out
        time = finish_time(view, m["max_share"], float(steps))
        utility = self.utility(view, time)
        wanted = min(int(np.ceil(round(1.1 * self.fraction * m["exists"].sum(), 6))), len(who))
        new = who[self.asked[who] == 0]
        known = who[self.asked[who] > 0]
        explored = min(len(new), int(np.ceil(self.explore * wanted))) if len(known) else len(new)
        fresh = new[np.argsort(time[new], kind="stable")][: min(explored, wanted)]
        best = known[np.argsort(-utility[known], kind="stable")][: wanted - len(fresh)]
        self.explore = max(0.95 * self.explore, 0.2)
        chosen = np.concatenate([fresh, best])
        self.asked[chosen] = self.round
        out[chosen] = m["max_share"][chosen]
        return out

    def utility(self, view: View, time: NDArray[np.floating]) -> NDArray[np.floating]:
        """(K_max,) utilities, given predicted times (K_max,)."""
        m, exists = view.machine, view.machine["exists"] > 0.5
        statistical = np.minimum(m["data"] * m["teaches"], np.quantile((m["data"] * m["teaches"])[exists], 0.98))
        statistical = statistical + np.sqrt(0.1 * np.log(max(self.round, 1)) / np.maximum(self.asked, 1.0))
        limit = float(np.percentile(time[exists], min(self.percentile, 100.0)))
        return np.asarray(statistical * np.where(time > limit, (limit / np.maximum(time, 1e-12)) ** self.alpha, 1.0))

    def _pace(self, progress: float) -> None:
        """The pacer: allow slower machines once progress flags."""
        self.progress.append(progress)
        if len(self.progress) > 40 and len(self.progress) % 20 == 1:
            now, before = (self.progress[-1] - self.progress[-21], self.progress[-21] - self.progress[-41])
            self.percentile += 5.0 if now < before else 0.0
