"""Progress minus priced time, energy and bytes."""

from __future__ import annotations

from envs.rewards.base import Floats, Transition

PRICE = 0.5  # the reference policy's whole run then costs PRICE x (1 + 1) = 1: exactly what reaching the target earns


def lagrangian(transition: Transition) -> Floats:
    """dp - price x (dT / T_ref + dC)."""
    dp = transition.after.progress - transition.before.progress
    dt = transition.after.time - transition.before.time
    dc = transition.cost(transition.after) - transition.cost(transition.before)
    return dp - PRICE * (dt + dc)
