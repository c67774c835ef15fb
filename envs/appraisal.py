"""What rounds tell of the machines that trained in them: progress beyond what the calibration expects, put down to whom.

Sites teach more or less than their number of samples says, and it lasts (`fedcore.dynamics`: luck and tilts of machines). An
orchestrator sees it in what rounds gain: a steady-state filter keeps how far progress would stand if all machines were
average, moves it by the model's mean gain, and divides what was measured beyond that between it and the machines that trained.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedcore.dynamics import learned_after, round_work
from fedcore.freshness import refresh_by, teach, variety_of
from fedcore.kernel import kernel

TO_ALL, TO_MACHINES = 0.3, 0.4
"""Parts of what is measured beyond expectation by which the fleet's standing is corrected, and those who trained are."""


@kernel()
def appraise(
    samples: NDArray[np.float64],
    world: NDArray[np.int64],
    done: NDArray[np.bool_],
    shares: NDArray[np.float64],
    steps: NDArray[np.int64],
    table: NDArray[np.float64],
    progress: NDArray[np.float64],
    last_part: NDArray[np.float64],
    standing: NDArray[np.float64],
    surplus: NDArray[np.float64],
    scratch: NDArray[np.float64],
) -> None:
    """Take a round in B episodes in.

    Args:
        samples: (W, K) on each machine, by world.
        world: (B,) each episode's.
        done: (B, K) whose blocks came back.
        shares: (B, K) of the round.
        steps: (B,) H.
        table: (B, N) fields of each episode's `Dynamics` in their order.
        progress: (B,) measured after the round.
        last_part: (B, K) machines' parts in the last steps, changed.
        standing: (B,) where progress would stand if all machines were average, changed.
        surplus: (B, K) progress beyond it that a machine's rounds have come out with, changed.
        scratch: (2, K) working memory.
    """
    back, taught = scratch
    for b in range(len(world)):
        here, any_back = samples[world[b]], False
        for k in range(len(back)):
            back[k] = shares[b, k] if done[b, k] else 0.0
            any_back = any_back or back[k] > 0.0
        if not any_back:
            continue
        teach(back, here, taught)
        refresh_by(last_part[b], taught, here, float(steps[b]))
        work, share = round_work(back, here, float(steps[b]), variety_of(last_part[b]), table[b])
        rate, ceiling, share_power, scaling = table[b, :4]
        standing[b] = learned_after(standing[b], work, 1.0, rate, ceiling * share**share_power, scaling)
        expected = standing[b]
        for k in range(len(back)):
            expected += taught[k] * surplus[b, k]
        beyond = progress[b] - expected
        standing[b] += TO_ALL * beyond
        for k in range(len(back)):
            surplus[b, k] += TO_MACHINES * taught[k] * beyond
