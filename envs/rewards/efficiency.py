"""The default reward: per-round differences of a potential that ends exactly at the log of the episode's efficiency."""

from __future__ import annotations

import numpy as np

from envs.rewards.base import Floats, Ledger, Transition


def _potential(transition: Transition, ledger: Ledger) -> Floats:
    """Log-efficiency that the episode would have if the reference policy did the rest of the work."""
    rest = np.clip(1.0 - ledger.work_done, 0.0, None)
    time = np.maximum(ledger.time + rest, 1e-6)
    cost = np.maximum(transition.cost(ledger) + rest, 1e-6)
    return -np.log(time) - np.log(cost)


def efficiency(transition: Transition) -> Floats:
    """Change of the projected log-efficiency.

    The potential is 0 at the start and -ln(T / T_ref) - ln C at the target, so the undiscounted sum over an episode
    *is* its log-efficiency; the last round of an episode that misses its target pays the difference to the score of
    a miss. Nothing can be gained by many cheap rounds, quitting or sitting out (potential-based shaping, Ng et al. 1999).
    """
    before = _potential(transition, transition.before)
    after = np.where(transition.ended, transition.log_efficiency, _potential(transition, transition.after))
    return after - before
