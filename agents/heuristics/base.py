"""What the heuristics share: shares from a pattern, an interval from the scenario's menu."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from agents.base import Orchestrator
from envs.observation import View, split
from envs.spaces import encode, share_entries
from scenarios import Scenario


def grid(stretch: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0), **values: tuple[float, ...]) -> Mapping[str, tuple[float, ...]]:
    """Values to try of a heuristic's parameters, `stretch` among them unless it is told not to be."""
    return MappingProxyType({name: tried for name, tried in {"stretch": stretch, **values}.items() if tried})


class Heuristic(Orchestrator):
    """An orchestrator without learning.

    Attributes:
        menu: the scenario's sync intervals.
        usual_steps: the scenario's reference interval.
        memoryless: whether it decides on the observation alone, and by code that takes batches.
        stretch: H over the reference's.
        tunable: its few parameters, and values that `agents.tune_heuristics` tries beside the default.
    """

    menu: tuple[int, ...] = (2, 5, 10, 20, 40)
    usual_steps: int = 10
    memoryless: bool = False
    stretch: float = 1.0
    tunable: Mapping[str, tuple[float, ...]] = grid()

    def begin(self, scenario: Scenario) -> None:
        """Take the menu of sync intervals."""
        self.menu = scenario.decision.sync_intervals
        self.usual_steps = max(1, round(self.stretch * scenario.reference.sync_interval))

    def decide(self, observation: NDArray[np.floating]) -> NDArray[np.float32]:
        """See `Orchestrator.decide`."""
        view = split(np.asarray(observation, dtype=np.float64))
        steps = self.nearest(self.steps(view))
        shares = np.clip(self.shares(view, steps), 0.0, 1.0)
        return encode(shares, self.menu.index(steps), len(self.menu), len(shares))

    def decide_many(self, observations: NDArray[np.floating]) -> NDArray[np.float32]:
        """Decisions (B, K_max + 1) on the observations (B, size) of B episodes of one scenario, of a memoryless one."""
        view = split(np.asarray(observations, dtype=np.float64))
        steps = self.nearest(self.steps(view))
        shares = np.clip(self.shares(view, steps), 0.0, 1.0)
        level = encode(np.zeros(0), self.menu.index(steps), len(self.menu), 0)
        return np.concatenate([share_entries(shares), np.repeat(level[None], len(shares), axis=0)], axis=1)

    def nearest(self, steps: float) -> int:
        """Entry of the menu closest to a wish, on a log scale."""
        return min(self.menu, key=lambda h: abs(np.log(h) - np.log(max(steps, 1e-9))))

    def steps(self, view: View) -> float:
        """Wished H; the reference's unless a heuristic says otherwise."""
        return float(self.usual_steps)

    @abstractmethod
    def shares(self, view: View, steps: int) -> NDArray[np.floating]:
        """(K_max,) shares."""
