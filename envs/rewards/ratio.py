"""Convergence speed per cost: a round's progress, by how far it went for the time and the cost that it took."""

from __future__ import annotations

import numpy as np

from envs.rewards.base import Floats, Transition


def ratio(transition: Transition) -> Floats:
    """dp log2(1 + q), q = (dp / dT) / (dC / dp), the round's own efficiency: dp for an even round of the reference policy.

    Speed per unit of cost alone, (dp / dT) / dC, pays for many tiny cheap rounds: halving a round halves progress, time and
    cost, and so doubles it twice over. Per progress made, q stays as it is when a round is halved; the logarithm keeps one
    lucky round from outweighing the rest.

    An episode that misses its target is worth what one round to where it ended would be that had spent all budgets, as its
    score has it: p log2(1 + p (p / (T_budget / T_ref)) / C_budget). Its last round takes back whatever else was earned, or
    coming near the target cheaply, and never there, would pay as well as reaching it.
    """
    dp = transition.after.progress - transition.before.progress
    dt = transition.after.time - transition.before.time
    dc = transition.cost(transition.after) - transition.cost(transition.before)
    speed_per_cost = dp * np.log2(1.0 + dp * dp / (np.maximum(dt, 1e-9) * np.maximum(dc, 1e-9)))
    p = np.clip(transition.after.progress, 0.0, 1.0)
    missed = p * np.log2(1.0 + p * np.exp(transition.log_efficiency))
    reached = transition.after.progress >= 1.0
    return np.where(transition.ended & ~reached, missed - transition.earned, speed_per_cost)
