"""Adaptive tau (Wang et al., "Adaptive federated learning in resource constrained edge computing systems", IEEE JSAC 2019)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from agents.heuristics.base import Heuristic, grid
from envs.observation import View
from envs.patterns import finish_time, ready, uniform
from scenarios import Scenario


class AdaptiveTau(Heuristic):
    """Whole models, everyone, and the tau that minimises the paper's bound (its Algorithm 2):

        G(tau) = (1 + sqrt(1 + 4 T'^2 phi rho eta h / tau)) / (2 T' eta phi) + rho h,
        h(tau) = delta / beta ((eta beta + 1)^tau - 1) - eta delta tau,    T' = (R - c - b) tau / (c tau + b),

    over tau from 1 to ten times the last, at most 100. c and b are what a step and a synchronisation take on the slowest
    machine, and R the time left, all in the reference's mean rounds. The paper estimates the loss's Lipschitz constant rho,
    its smoothness beta and the divergence delta of gradients from losses and gradients on the machines. Observations carry
    neither: a round of tau steps is taken to move the weights by eta tau, so that rho is the last gain of progress over that,
    beta the change of rho over it, and delta is rho times the part of what the fleet's data teach that a machine's own do not.
    """

    name = "adaptive-tau"
    phi = 0.025
    eta = 0.01
    most = 100
    tunable = grid(phi=(5e-5, 0.0025, 0.025, 0.25), eta=(0.001, 0.01, 0.1))

    def begin(self, scenario: Scenario) -> None:
        """Start from the reference's interval."""
        super().begin(scenario)
        self.tau, self.budget = self.usual_steps, scenario.budgets.of_reference
        self.rho, self.beta = 0.0, 0.0
        self.begun = False

    def steps(self, view: View) -> float:
        """See `Heuristic.steps`."""
        f = view.fleet
        if self.begun:
            moved = self.eta * 10.0 ** float(f["last_steps"])
            rho = abs(float(f["last_gain"])) / 10.0 / moved
            self.beta = abs(rho - self.rho) / moved if self.rho else self.beta
            self.rho = rho
        able = ready(view)
        if not self.begun or not able.any() or self.rho <= 0.0:
            self.begun = self.begun or bool(able.any())
            return float(self.tau)
        self.tau = self._best(view, able)
        return float(self.tau)

    def _best(self, view: View, able: NDArray[np.bool_]) -> int:
        f, m = view.fleet, view.machine
        whole = np.minimum(1.0, m["max_share"])
        b = float(finish_time(view, whole, 0.0)[able].max())
        c = float((finish_time(view, whole, 1.0) - finish_time(view, whole, 0.0))[able].max())
        used = float(f["time_used"])
        budget = float(f["time_vs_reference"]) / used if used > 1e-6 else self.budget
        left = max(budget * (1.0 - used), 0.0) * 10.0 ** (2.0 * float(f["reference_rounds"]))
        alone = float(m["teaches"][m["exists"] > 0.5].mean()) / max(float(f["teaches"]), 1e-6)
        delta = self.rho * max(1.0 - alone, 0.0)
        tau = np.arange(1, min(10 * self.tau, self.most) + 1, dtype=np.float64)
        rounds = np.maximum(left - c - b, 1e-6) * tau / (c * tau + b)
        curve = self.eta * max(self.beta, 1e-9)
        h = np.maximum(self.eta * delta * (np.expm1(tau * np.log1p(curve)) / curve - tau), 0.0)
        root = np.sqrt(1.0 + 4.0 * rounds**2 * self.phi * self.rho * self.eta * h / tau)
        bound = (1.0 + root) / (2.0 * rounds * self.eta * self.phi) + self.rho * h
        return int(tau[int(np.argmin(bound))])

    def shares(self, view: View, steps: int) -> NDArray[np.floating]:
        """See `Heuristic.shares`."""
        return uniform(view, 1.0)
