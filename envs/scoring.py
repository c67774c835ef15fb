"""The score of an episode: efficiency, an inverse energy-delay product (DESIGN section 6)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def log_efficiency(reached: NDArray[np.bool_], progress: Floats, time: Floats, cost: Floats, budget_time: Floats,
                   budget_cost: Floats) -> Floats:  # fmt: skip
    """Natural log of the efficiency of ended episodes.

    1 / ((T / T_ref) C) where the target was reached; otherwise p / ((T_budget / T_ref) C_budget), as if every budget
    had been spent.

    Args:
        reached: (B,) whether the target was reached.
        progress: (B,) p at the end.
        time: (B,) T / T_ref.
        cost: (B,) C.
        budget_time: (B,) T_budget / T_ref.
        budget_cost: (B,) C_budget.
    """
    hit = -np.log(np.maximum(time, 1e-9)) - np.log(np.maximum(cost, 1e-9))
    miss = np.log(np.clip(progress, 1e-3, 1.0)) - np.log(budget_time) - np.log(budget_cost)
    return np.where(reached, hit, miss)
