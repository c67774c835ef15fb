"""How much runs and machines differ: spreads of the learning-dynamics model, by maximum likelihood of recorded rounds.

What a round gained beyond the model's mean prediction is taken as a sum of independent normal parts (a mixed linear model,
Laird and Ware 1982): measurement noise, which the next round gives back; luck of the run, and of each of its machines, in
proportion to what was to be gained; each machine's tilt, which comes with its rounds and goes with the others'; and what
the model does not know of at all, which is fitted beside them so that none of them has to explain it, and not kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve_triangular
from scipy.optimize import minimize

from fedcore.dynamics import SPREAD_SAMPLES, TILT_STEPS

Floats = NDArray[np.float64]
START = (0.02, 0.02, 0.2, 0.4, 0.05)
"""Standard deviations of noise, of what is unknown, and of the luck of runs, that of machines, and tilts."""
BOUNDS, POWERS = (1e-4, 3.0), (0.0, 1.0)


class Spreads(NamedTuple):
    """How much runs and machines differ: fields of `Dynamics`, which says what each is."""

    noise: float = 0.0
    run_spread: float = 0.0
    machine_spread: float = 0.0
    tilt_spread: float = 0.0
    spread_power: float = 0.0


@dataclass(frozen=True)
class Surprises:
    """One run's rounds, (R,) or (R, K).

    Attributes:
        surprise: progress after a round beyond what was predicted from the one before.
        gain: what was predicted to be learned.
        taught: how much of the layer each machine taught, rows sum to 1.
        steps: H.
        held: (K,) samples on each machine.
    """

    surprise: Floats
    gain: Floats
    taught: Floats
    steps: Floats
    held: Floats

    def tilts(self) -> Floats:
        """(R, K) by how much the tilt after a round, less the one before, is each machine's."""
        now, out = np.zeros(self.taught.shape[1]), np.empty_like(self.taught)
        for r, left in enumerate(np.exp(-self.steps / TILT_STEPS)):
            out[r] = (1.0 - left) * (self.taught[r] - now)
            now = now + out[r]
        return out

    def parts(self) -> tuple[Floats, Floats]:
        """What does not go by samples: (3, R, R) covariance of the surprises if each part, in `START`'s order, had a standard
        deviation of 1; and what does: (2, R, K) by how much it is each machine's luck, and tilt."""
        rounds = len(self.gain)
        measured = np.eye(rounds) - np.eye(rounds, k=-1)
        alike = np.stack([measured @ measured.T, np.eye(rounds), np.outer(self.gain, self.gain)])
        return alike, np.stack([self.taught * self.gain[:, None], self.tilts()])


def fit_spreads(runs: Sequence[Surprises]) -> Spreads:
    """Maximum-likelihood spreads.

    Args:
        runs: recorded.
    """
    known = [(run.surprise, *run.parts(), np.log(SPREAD_SAMPLES / run.held)) for run in runs]

    def cost(x: Floats) -> float:
        spreads, total = np.exp(x[:-1]), 0.0
        for surprise, alike, machines, fewer in known:
            each = machines * (spreads[3:, None] * np.exp(x[-1] * fewer))[:, None, :]
            covariance = np.tensordot(spreads[:3] ** 2, alike, 1) + (each @ each.transpose(0, 2, 1)).sum(axis=0)
            root = np.linalg.cholesky(covariance)
            whitened = solve_triangular(root, surprise, lower=True)
            total += 0.5 * float(whitened @ whitened) + float(np.log(np.diag(root)).sum())
        return total

    start, bounds = [*np.log(START), 0.5], [*[tuple(np.log(BOUNDS))] * len(START), POWERS]
    found = minimize(cost, start, method="L-BFGS-B", bounds=bounds)
    noise, _, run, machine, tilt = (float(v) for v in np.exp(found.x[:-1]))
    # Luck is log-normal: of mean 1 between machines.
    return Spreads(noise, run, float(np.sqrt(np.log1p(machine**2))), tilt, float(found.x[-1]))
