"""What rounds tell of the machines that trained in them: progress beyond what the calibration expects, put down to whom.

Sites teach more or less than their number of samples says, and it lasts (`fedcore.dynamics`: luck and tilts of machines). An
orchestrator sees it in what rounds gain: a steady-state filter keeps how far progress would stand if all machines were
average, moves it by the model's mean gain, and divides what was measured beyond that between it and the machines that trained.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedcore.dynamics import SHARE, VARIETY, WORK, learned_round
from fedcore.kernel import kernel

TO_ALL, TO_MACHINES = 0.3, 0.4
"""Parts of what is measured beyond expectation by which the fleet's standing is corrected, and those who trained are."""


@kernel()
def appraise(
    table: NDArray[np.float64],
    taught: NDArray[np.float64],
    worth: NDArray[np.float64],
    progress: NDArray[np.float64],
    standing: NDArray[np.float64],
    surplus: NDArray[np.float64],
) -> None:
    """Take a round in B episodes in.

    Args:
        table: (B, N) fields of each episode's `Dynamics` in their order.
        taught: (B, K) from `fedcore.dynamics.teaching`.
        worth: (B, N_WORTH) from it.
        progress: (B,) measured after the round.
        standing: (B,) where progress would stand if all machines were average, changed.
        surplus: (B, K) progress beyond it that a machine's rounds have come out with, changed.
    """
    for b in range(len(table)):
        if worth[b, SHARE] == 0.0:
            continue
        standing[b] = learned_round(standing[b], worth[b, WORK], worth[b, SHARE], worth[b, VARIETY], 1.0, table[b])
        expected = standing[b]
        for k in range(taught.shape[1]):
            expected += taught[b, k] * surplus[b, k]
        beyond = progress[b] - expected
        standing[b] += TO_ALL * beyond
        for k in range(taught.shape[1]):
            surplus[b, k] += TO_MACHINES * taught[b, k] * beyond
