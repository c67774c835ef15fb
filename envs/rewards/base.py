"""What a reward function sees: the ledgers of B episodes before and after a round."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Ledger:
    """Where B episodes stand; every field is (B,).

    Attributes:
        progress: p.
        work_done: fraction of the work to the target behind them, 0 at p = 0 and 1 at p = 1.
        time: T / T_ref.
        energy: E / E_ref.
        bytes: B / B_ref.
    """

    progress: Floats
    work_done: Floats
    time: Floats
    energy: Floats
    bytes: Floats


@dataclass(frozen=True)
class Transition:
    """One round of B episodes.

    Attributes:
        before: ledgers before the round.
        after: ledgers after it.
        energy_weight: (B,) w_E; bytes weigh 1 - w_E.
        ended: (B,) bool, the episode is over.
        log_efficiency: (B,) log of the episode's score as `scoring.log_efficiency` has it; read it where `ended`.
        earned: (B,) sum of the episode's rewards before the round.
    """

    before: Ledger
    after: Ledger
    energy_weight: Floats
    ended: NDArray[np.bool_]
    log_efficiency: Floats
    earned: Floats

    def cost(self, ledger: Ledger) -> Floats:
        """C = w_E E / E_ref + w_B B / B_ref, (B,)."""
        return self.energy_weight * ledger.energy + (1.0 - self.energy_weight) * ledger.bytes


RewardFunction = Callable[[Transition], Floats]
