"""Whose samples the weights have been taught by in the last steps, and as how many samples they count.

A neuron that a machine holds alone in a round is taught by it alone; one that several hold, by each in proportion to its
samples, as they are merged. So a machine with few samples and a large share among small ones teaches most of the layer.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedcore.kernel import kernel

FRESH_STEPS = 100.0
"""After so many steps on others' samples, a machine's part in the last steps has fallen to a third (1 / e)."""


@kernel()
def teach(shares: NDArray[np.float64], samples: NDArray[np.float64], parts: NDArray[np.float64]) -> None:
    """How much of a layer each machine teaches in a round, which sum to 1.

    Machines hold neurons independently of each other, and where several meet, as many samples are expected there as on average.

    Args:
        shares: (K,) of those whose blocks came back, else 0; not all 0.
        samples: (K,) on each machine.
        parts: (K,) overwritten.
    """
    nobody, whole, covered = 1.0, 0, 0.0
    for k in range(len(shares)):
        covered += shares[k] * samples[k]
        if shares[k] >= 1.0:
            whole += 1
        else:
            nobody *= 1.0 - shares[k]
    for k in range(len(shares)):
        share, here, parts[k] = shares[k], samples[k], 0.0
        if share <= 0.0:
            continue
        mine = 1 if share >= 1.0 else 0
        alone = 0.0 if whole > mine else (nobody if mine else nobody / (1.0 - share))
        parts[k] = share
        if alone < 1.0:
            parts[k] *= alone + (1.0 - alone) * here / (here + (covered - share * here) / (1.0 - alone))
    whole_layer = parts.sum()
    for k in range(len(shares)):
        parts[k] /= whole_layer


def taught_parts(shares: NDArray[np.float64], samples: NDArray[np.float64]) -> NDArray[np.float64]:
    """As `teach`: (K,)."""
    parts = np.empty(len(shares))
    teach(shares, samples, parts)
    return parts


def refresh(part: NDArray[np.float64], shares: NDArray[np.float64], samples: NDArray[np.float64], steps: float) -> float:
    """Each machine's part in the last steps, after a round of one episode.

    Args:
        part: (K,) before it, which sum to 1, or 0 where nothing has been taught yet; changed.
        shares: as `teach`.
        samples: as `teach`.
        steps: H.

    Returns:
        F: as how many evenly used samples those of the last steps count (Kish's effective size of a weighted sample).
    """
    return float(refresh_by(part, taught_parts(shares, samples), samples, steps))


@kernel()
def refresh_by(part: NDArray[np.float64], now: NDArray[np.float64], samples: NDArray[np.float64], steps: float) -> float:
    """As `refresh`, where it is known how much each machine teaches in the round, (K,), from `teach`."""
    left, uneven = np.exp(-steps / FRESH_STEPS) if part.sum() > 0.0 else 0.0, 0.0
    for k in range(len(part)):
        part[k] = left * part[k] + (1.0 - left) * now[k]
        if part[k] > 0.0:
            uneven += part[k] ** 2 / samples[k]
    return 1.0 / uneven


@kernel()
def variety_of(part: NDArray[np.float64]) -> float:
    """V: as how many evenly teaching machines those of the last steps count, by Kish's rule too.

    Args:
        part: (K,) from `refresh`.
    """
    squares = 0.0
    for k in range(len(part)):
        squares += part[k] * part[k]
    return 1.0 / squares
