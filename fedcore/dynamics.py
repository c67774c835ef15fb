"""The learning-dynamics model: how far one round moves progress, for the fast tier.

Form (every factor is 1 for the reference round: everyone, mean coverage 1, ten steps):

    work       w = (H / 10)^h  *  min(1, m)^a  *  max(1, m)^b  *  D^d
    path       du = luck * rate * w * exp(-k u),   k = decay * V^-v
    progress   p = u + noise * N(0, 1)

where m is the sum of the shares that came back (mean coverage of a neuron), D the fraction of the fleet's images that
took part in this round and V the fraction that has been taking part lately: a machine that is in at least a third of
the rounds counts nearly in full, so that taking turns keeps V high while D stays low. Returns diminish, and they do so
sooner where few of the data take part: progress is logarithmic in work, and a round's work integrates exactly,
u' = ln(exp(k u) + k rate w) / k. What is
measured scatters about the path without moving it (the fixed server-side set sees every merge a little differently), and
runs differ in luck (initial weights, which instruments take part): ln luck ~ N(0, run_spread^2), drawn once per episode.
Parameters are fitted to recorded real rounds by `python -m fedcore.calibrate` and stored as JSON with their fit error.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from fedcore.fleet.draws import PROGRESS, normal, of_round
from scenarios.errors import InputError

Parameter = float | NDArray[np.float64]

FOLDER = Path(__file__).parent / "calibrations"
REFERENCE_STEPS = 10.0


@numba.vectorize(cache=True)
def work_of(
    coverage: Any, data: Any, steps: Any, steps_power: Any, cover_power: Any, overlap_power: Any, data_power: Any
) -> Any:
    """`Dynamics.work`, entry by entry."""
    if coverage <= 0.0:
        return 0.0
    safe = max(coverage, 1e-9)
    return (
        (steps / REFERENCE_STEPS) ** steps_power
        * min(1.0, safe) ** cover_power
        * max(1.0, safe) ** overlap_power
        * max(data, 1e-9) ** data_power
    )


@numba.vectorize(cache=True)
def path_after(progress: Any, work: Any, variety: Any, rate: Any, decay: Any, variety_power: Any) -> Any:
    """`Dynamics.advance`, entry by entry."""
    k = decay * max(variety, 1e-3) ** -variety_power
    return progress + np.log1p(k * rate * work * np.exp(-k * progress)) / k


@dataclass(frozen=True)
class Dynamics:
    """Fitted parameters; see the module's text for the form. Each may be an array (B,): one value per episode.

    Attributes:
        rate: progress of the reference round from an untrained encoder.
        decay: how fast returns diminish with progress.
        steps_power: h.
        cover_power: a.
        overlap_power: b.
        data_power: d.
        variety_power: v.
        noise: standard deviation of measured progress about the path.
        run_spread: standard deviation of ln rate between runs.
    """

    rate: Parameter
    decay: Parameter
    steps_power: Parameter
    cover_power: Parameter
    overlap_power: Parameter
    data_power: Parameter
    variety_power: Parameter
    noise: Parameter
    run_spread: Parameter

    def work(
        self,
        coverage: NDArray[np.float64],
        data: NDArray[np.float64],
        steps: NDArray[np.float64],
    ) -> NDArray[np.float64]:
        """Work of rounds in units of the reference round.

        Args:
            coverage: sum of the shares that came back, m.
            data: fraction of the fleet's images behind them, D.
            steps: H.

        Returns:
            Same shape; 0 where nothing came back.
        """
        return np.asarray(
            work_of(coverage, data, steps, self.steps_power, self.cover_power, self.overlap_power, self.data_power)
        )

    def advance(
        self,
        progress: NDArray[np.float64],
        work: NDArray[np.float64],
        variety: NDArray[np.float64],
    ) -> NDArray[np.float64]:
        """The path of progress after a round, without noise.

        Args:
            progress: before, on the path.
            work: of the round.
            variety: fraction of the images that has been taking part lately, V.
        """
        return np.asarray(path_after(progress, work, variety, self.rate, self.decay, self.variety_power))

    def work_done(self, progress: NDArray[np.float64]) -> NDArray[np.float64]:
        """Fraction of the work up to the target that a progress stands for: 0 at 0, 1 at 1."""
        return np.expm1(self.decay * progress) / np.expm1(self.decay)


MEMORY = 0.8
FULL_AT = 0.1


def remember(
    participation: NDArray[np.float64], done: NDArray[np.bool_], rounds: NDArray[np.int64]
) -> NDArray[np.float64]:
    """How often each machine has been taking part lately, an exponential mean, (B, K).

    Args:
        participation: before the round; anything in an episode's first round.
        done: whose blocks came back, (B, K).
        rounds: rounds played before this one, (B,).
    """
    # The first rounds weigh more, so that the mean does not start out biased towards absence.
    keep = np.where(rounds > 0, MEMORY * (1 - MEMORY**rounds) / (1 - MEMORY ** (rounds + 1)), 0.0)[:, None]
    return keep * participation + (1.0 - keep) * done


def variety(participation: NDArray[np.float64], data: NDArray[np.float64]) -> NDArray[np.float64]:
    """V: the fraction of images that has been taking part lately, (B,) from (B, K) and (B, K)."""
    return (data * -np.expm1(-participation / FULL_AT)).sum(axis=1)


@numba.njit(cache=True, nogil=True, error_model="numpy")
def learn(
    data: NDArray[np.float64],
    world: NDArray[np.int64],
    done: NDArray[np.bool_],
    shares: NDArray[np.float64],
    steps: NDArray[np.int64],
    rounds: NDArray[np.int64],
    key: NDArray[np.uint64],
    table: NDArray[np.float64],
    participation: NDArray[np.float64],
    path: NDArray[np.float64],
    progress: NDArray[np.float64],
) -> None:
    """One round of learning in B episodes, in one pass: as `remember`, `variety`, `Dynamics.work` and `Dynamics.advance`.

    Args:
        data: (W, K) fraction of the images on each machine, by world.
        world: (B,) each episode's.
        done: (B, K) whose blocks came back.
        shares: (B, K) of the round.
        steps: (B,) H.
        rounds: (B,) played before it.
        key: (B,) of the episodes; luck and noise are drawn by it.
        table: (B, 9), the fields of each episode's `Dynamics` in their order.
        participation: (B, K), changed.
        path: (B,), changed.
        progress: (B,), changed to what is measured after the round; a round that merged nothing measures what the last did.
    """
    for b in range(len(world)):
        keep, run = 0.0, rounds[b]
        if run > 0:
            keep = MEMORY * (1 - MEMORY**run) / (1 - MEMORY ** (run + 1))
        coverage, part, lately = 0.0, 0.0, 0.0
        for k in range(done.shape[1]):
            here = data[world[b], k]
            if done[b, k]:
                coverage += shares[b, k]
                part += here
            mean = keep * participation[b, k] + (1.0 - keep) * done[b, k]
            participation[b, k] = mean
            if here > 0.0:
                lately -= here * np.expm1(-mean / FULL_AT)
        rate, decay, steps_power, cover, overlap, data_power, variety_power, noise, spread = table[b]
        if run == 0:
            path[b] = 0.0
        work = work_of(coverage, part, float(steps[b]), steps_power, cover, overlap, data_power)
        luck = np.exp(spread * normal(of_round(key[b], -1), PROGRESS, 0))
        path[b] = path_after(path[b], luck * work, lately, rate, decay, variety_power)
        if work > 0.0:
            progress[b] = path[b] + noise * normal(of_round(key[b], run), PROGRESS, 0)


@dataclass(frozen=True)
class Calibration:
    """A stored calibration.

    Attributes:
        name: of the file.
        dynamics: fitted parameters.
        untrained_infonce: mean over seeds, for reading only: every run measures its own.
        target_infonce: InfoNCE at progress 1.
        fit: fit errors and what was recorded.
    """

    name: str
    dynamics: Dynamics
    untrained_infonce: float
    target_infonce: float
    fit: dict[str, Any]

    def to_json(self) -> str:
        """As the committed file has it."""
        return json.dumps(asdict(self), indent=2) + "\n"


@lru_cache(maxsize=32)
def load_calibration(name: str) -> Calibration:
    """A calibration by name (in `fedcore/calibrations`) or by the path of a JSON file.

    Raises:
        InputError: no such calibration, or not one.
    """
    path = Path(name) if name.endswith(".json") else FOLDER / f"{name}.json"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in FOLDER.glob("*.json")))
        raise InputError(f"workload.calibration {name!r} is unknown: expected a JSON file or one of {known}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        content["dynamics"] = Dynamics(**content["dynamics"])
        return Calibration(**content)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path} is not a calibration made by python -m fedcore.calibrate: {error}") from None
