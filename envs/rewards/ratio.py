"""Literally convergence speed per cost: progress per second per unit of this round's cost."""

from __future__ import annotations

import numpy as np

from envs.rewards.base import Floats, Transition


def ratio(transition: Transition) -> Floats:
    """(dp / dT) / dC of the round, scaled so that a round of the reference policy earns about 1 / its rounds.

    Kept because it is the literal reading of "convergence speed per cost". One cheap fast round beats many good ones
    under it: compare `efficiency`, which cannot be gamed so.
    """
    dp = transition.after.progress - transition.before.progress
    dt = transition.after.time - transition.before.time
    dc = transition.cost(transition.after) - transition.cost(transition.before)
    speed = dp / np.maximum(dt, 1e-9) / np.maximum(dc, 1e-6)
    return np.where(dp == 0.0, 0.0, speed) / transition.reference_rounds**2
