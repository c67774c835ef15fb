"""The learning-dynamics model: how far one round moves progress, for the fast tier.

Form (every factor is 1 for a round of mean coverage 1, ten steps, full context and all samples, where one machine teaches):

    work       w = (H / 10)^h  *  min(1, m)^a  *  max(1, m)^b  *  D^d  *  c^q
    learned    u = L * y^k,   dy = rate / L * luck * (1 - y)^(1 + 1/s) * V^(x + x' u / L) dw,   L = C * z^e
    by heart   dr = (rate - f r) dw
    progress   p = u - r * ((1 - g) (N_0 / N)^v + g (N_0 / F)^v) + tilt + noise * N(0, 1)

where m is the sum of the shares that came back (mean coverage of a neuron), D the fraction of the fleet's samples that
took part in this round, z the mean share of those machines, c the context, N the number of samples that have been taking
part lately: a machine that is in at least a third of the rounds counts nearly in full, so that taking turns keeps N
high while D stays low; F that of the last hundred steps or so, and V as how many machines taught them
(`fedcore.freshness`): after a round on a machine with next to nothing the weights know its few samples best, until others
train again. Returns diminish as scaling laws have it
(Hestness et al. 2017): what is left to learn, L - u, falls as a power s of the work done, once training is under way (k): text
takes its time to begin. What it is worth that several machines teach in turns or at once may depend on how far training has
come: of images one machine's do as well at first, and not later. Small shares level off below whole
layers: machines that move different neurons at once, each taking the others as frozen, overstep together (a Jacobi step),
which more rounds do not average away.
The gap, the second term, is overfitting, what training on few samples costs on others: it
grows with every pass over them, the slower the more they are, and fades with work. It is the gap of the samples that take part
*now*: records of fleets that went from few machines to all show it gone within two rounds, as what was learnt by heart is of no
use on the others. Both equations integrate exactly over a round, whatever its work; V
and its power count as they do when it begins.
What is measured scatters about the path without moving it (the fixed server-side set sees every merge a little
differently). Runs differ in luck, and so do machines: some weights start better, some instruments teach more. Luck is
exp(N(0, run_spread^2)) per episode times the mean, over the machines of the round by how much of the layer each teaches, of a
factor per machine and episode, log-normal of mean 1 and machine_spread. Machines also tilt what is measured: each pulls the
weights towards what it has seen, which suits the server's set better or worse, until others have trained for some
`TILT_STEPS`. The tilt after a round is left * the one before + (1 - left) * the mean, by how much each teaches, of a draw per
machine and episode from N(0, tilt_spread^2), left = exp(-H / TILT_STEPS). So gains tell whom to ask again. Where few samples
make machines differ, both spreads fall with more of them (`spreads_of`).
Parameters are fitted to recorded real rounds by `python -m fedcore.calibrate` and stored as JSON with their fit error.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from fedcore.fleet.draws import PROGRESS, TILT, normal, of_round
from fedcore.freshness import refresh_by, teach, variety_of
from fedcore.kernel import kernel
from scenarios.errors import InputError
from scenarios.schema import Workload

Parameter = float | NDArray[np.float64]

FOLDER = Path(__file__).parent / "calibrations"
REFERENCE_STEPS = 10.0
TILT_STEPS = 8.0
"""After so many steps the tilt that others left has fallen to a third (1 / e); 4 to 12 fit the records alike."""
LEAST_CONTEXT = 0.02
"""A context of 0 learns hardly anything, and a power of 0 nothing at all: so small a context stands for it."""
SPREAD_SAMPLES = 160.0
"""Samples of a machine that the spreads between machines are stated for."""


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
def learned_after(
    learned: Any, work: Any, variety: Any, luck: Any,
    rate: Any, ceiling: Any, scaling: Any, onset: Any, variety_power: Any, variety_later: Any,
) -> Any:  # fmt: skip
    """u after a round, entry by entry; arguments as `Dynamics.advance`, but for the ceiling: L."""
    if learned >= ceiling:
        return learned
    part = learned / ceiling
    pace = luck * rate / (scaling * ceiling) * variety ** (variety_power + variety_later * max(part, 0.0))
    # What is left of y to the power -1/s is linear in work; V counts as it does at the round's start.
    left = 1.0 - np.copysign(abs(part) ** (1.0 / onset), part)
    y = 1.0 - (left ** (-1.0 / scaling) + pace * work) ** -scaling
    return ceiling * np.copysign(abs(y) ** onset, y)


@numba.vectorize(cache=True)
def rote_after(rote: Any, work: Any, rate: Any, gap_fade: Any) -> Any:
    """r after a round, entry by entry; arguments as `Dynamics.advance`."""
    fades = gap_fade * work
    lasting = -np.expm1(-fades) / fades if fades > 1e-12 else 1.0
    return rote * np.exp(-fades) + rate * work * lasting


@numba.vectorize(cache=True)
def gap_of(rote: Any, samples: Any, fresh: Any, rest_samples: Any, rest_power: Any, fresh_part: Any) -> Any:
    """The gap, entry by entry; arguments as `Dynamics.gap`."""
    if rest_samples <= 0.0:
        return 0.0 * rote
    lasting = (rest_samples / max(samples, 1.0)) ** rest_power
    return rote * ((1.0 - fresh_part) * lasting + fresh_part * (rest_samples / max(fresh, 1.0)) ** rest_power)


@numba.njit(cache=True, nogil=True, error_model="numpy")
def spreads_of(samples: Any, machine_spread: Any, tilt_spread: Any, spread_power: Any) -> Any:
    """(Standard deviation of ln luck, of tilts) of machines with so many samples, entry by entry: by how much luck and tilts
    vary goes by samples to the power -spread_power."""
    times = (SPREAD_SAMPLES / np.maximum(samples, 1.0)) ** spread_power
    return np.sqrt(np.log1p(np.expm1(machine_spread**2) * times**2)), tilt_spread * times


@dataclass(frozen=True)
class Dynamics:
    """Fitted parameters; see the module's text for the form. Each may be an array (B,): one value per episode.

    Attributes:
        rate: progress of a round of work 1 from an untrained encoder.
        ceiling: C, progress that unlimited work on unlimited data comes near with whole layers.
        share_power: e, how that falls with the mean share of those who take part.
        scaling: s, the power of work with which the rest up to there falls.
        steps_power: h.
        cover_power: a.
        overlap_power: b.
        data_power: d.
        rest_samples: N_0, samples with which an untrained encoder gains nothing; 0: no number of them is too few.
        rest_power: v, how the gap falls with more samples.
        fresh_part: g, the part of it that follows the last steps' samples.
        gap_fade: f, fraction of what was learnt by heart that a unit of work undoes.
        context_power: q.
        noise: standard deviation of measured progress about the path.
        run_spread: standard deviation of ln luck between runs.
        machine_spread: standard deviation of ln luck between machines of a run, of 160 samples each.
        tilt_spread: standard deviation of such machines' tilts.
        variety_power: x.
        spread_power: how both fall with more samples, see `spreads_of`.
        onset: k.
        variety_later: x'.
    """

    rate: Parameter
    ceiling: Parameter
    share_power: Parameter
    scaling: Parameter
    steps_power: Parameter
    cover_power: Parameter
    overlap_power: Parameter
    data_power: Parameter
    rest_samples: Parameter
    rest_power: Parameter
    fresh_part: Parameter
    gap_fade: Parameter
    context_power: Parameter
    noise: Parameter
    run_spread: Parameter
    machine_spread: Parameter
    tilt_spread: Parameter
    variety_power: Parameter = 0.0
    spread_power: Parameter = 0.0
    onset: Parameter = 1.0
    variety_later: Parameter = 0.0

    def in_context(self, context: Parameter) -> Dynamics:
        """As they are where every machine sees that part of the other neurons, which no decision changes."""
        return replace(self, rate=self.rate * np.maximum(context, LEAST_CONTEXT) ** self.context_power)

    def work(
        self,
        coverage: NDArray[np.float64],
        data: NDArray[np.float64],
        steps: NDArray[np.float64],
    ) -> NDArray[np.float64]:
        """Work of rounds in units of one whose factors are all 1, see the module's text.

        Args:
            coverage: sum of the shares that came back, m.
            data: fraction of the fleet's samples behind them, D.
            steps: H.

        Returns:
            Same shape; 0 where nothing came back.
        """
        return np.asarray(
            work_of(coverage, data, steps, self.steps_power, self.cover_power, self.overlap_power, self.data_power)
        )

    def advance(
        self,
        learned: NDArray[np.float64],
        rote: NDArray[np.float64],
        work: NDArray[np.float64],
        share: Parameter = 1.0,
        luck: Parameter = 1.0,
        variety: Parameter = 1.0,
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """What is learned after a round, and what by heart; progress is the first less the `gap` that the second makes.

        Args:
            learned: u before.
            rote: r before.
            work: of the round.
            share: mean of those that came back, z.
            luck: of the round.
            variety: machines that have been teaching lately, V.
        """
        form = (self.rate, self.ceiling * share**self.share_power, self.scaling)
        bends = (self.onset, self.variety_power, self.variety_later)
        return (
            np.asarray(learned_after(learned, work, variety, luck, *form, *bends)),
            np.asarray(rote_after(rote, work, self.rate, self.gap_fade)),
        )

    def gap(
        self, rote: NDArray[np.float64], samples: NDArray[np.float64], fresh: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """What having learnt by heart costs.

        Args:
            rote: r.
            samples: number that has been taking part lately, N.
            fresh: number behind the last steps, F.
        """
        return np.asarray(gap_of(rote, samples, fresh, self.rest_samples, self.rest_power, self.fresh_part))

    def peak(self, samples: NDArray[np.float64]) -> NDArray[np.float64]:
        """The highest progress that this many samples lead an average untrained encoder to with whole layers, if the gap does
        not fade and all of them are behind the last steps.

        The highest of u - (N_0 / N)^v r on a fine scale of what is left to learn, where a machine teaches at a time.
        """
        # Large fleets have many machines of few sizes.
        sizes, which = np.unique(samples, return_inverse=True)
        x = np.asarray((self.rest_samples / np.maximum(sizes, 1e-9)) ** self.rest_power)
        left = np.geomspace(1.0, 1e-6, 3000)
        passes = self.scaling * (left ** (-1.0 / self.scaling) - 1.0)  # r over C
        best = self.ceiling * np.max((1.0 - left) ** self.onset - x[:, None] * passes, axis=1)
        return np.asarray(best[which].reshape(np.shape(samples)))

    def work_done(self, progress: NDArray[np.float64]) -> NDArray[np.float64]:
        """Fraction of the work up to the target that a progress stands for where data are plenty: 0 at 0, 1 at 1."""
        # What is measured may scatter beyond the ceiling, which no work reaches.
        below = np.minimum(progress, 0.5 + 0.5 * self.ceiling)
        done, target = (
            (1.0 - np.copysign(np.abs(p / self.ceiling) ** (1.0 / self.onset), p)) ** (-1.0 / self.scaling) - 1.0
            for p in (below, np.float64(1.0))
        )
        return np.asarray(done / target)


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


def recent_samples(participation: NDArray[np.float64], samples: NDArray[np.float64]) -> NDArray[np.float64]:
    """N: how many samples have been taking part lately, (B,) from (B, K) and samples on each machine, (B, K)."""
    return np.asarray((samples * -np.expm1(-participation / FULL_AT)).sum(axis=1))


@kernel()
def round_work(
    back: NDArray[np.float64], samples: NDArray[np.float64], steps: float, parameters: NDArray[np.float64]
) -> tuple[float, float]:
    """Work of one episode's round, 0 where nothing came back, and the mean share of those who did.

    Args:
        back: (K,) shares that came back.
        samples: (K,) on each machine.
        steps: H.
        parameters: the fields of `Dynamics` in their order.
    """
    coverage, count, part, whole = 0.0, 0, 0.0, 0.0
    for k in range(len(back)):
        whole += samples[k]
        if back[k] > 0.0:
            coverage += back[k]
            count += 1
            part += samples[k]
    if count == 0:
        return 0.0, 0.0
    steps_power, cover, overlap, data_power = parameters[4:8]
    return work_of(coverage, part / whole, steps, steps_power, cover, overlap, data_power), coverage / count


@kernel()
def learned_round(
    learned: float, work: float, share: float, variety: float, luck: float, parameters: NDArray[np.float64]
) -> float:
    """u of one episode after a round, by the fields of `Dynamics` in their order; else as `Dynamics.advance`."""
    rate, ceiling, share_power, scaling = parameters[:4]
    variety_power, _, onset, variety_later = parameters[17:21]
    level = ceiling * share**share_power
    return learned_after(learned, work, variety, luck, rate, level, scaling, onset, variety_power, variety_later)


N_WORTH = 4
FRESH, WORK, SHARE, VARIETY = range(N_WORTH)
"""Columns of what `teaching` tells of a round: F, w, z, which is 0 where nothing came back, and V."""


@kernel()
def teaching(
    samples: NDArray[np.float64],
    world: NDArray[np.int64],
    done: NDArray[np.bool_],
    shares: NDArray[np.float64],
    steps: NDArray[np.int64],
    table: NDArray[np.float64],
    last_part: NDArray[np.float64],
    taught: NDArray[np.float64],
    worth: NDArray[np.float64],
    scratch: NDArray[np.float64],
) -> None:
    """Who taught how much in a round of B episodes, and what that was worth: `teach`, `refresh_by` and `round_work`.

    Args:
        samples: (W, K) on each machine, by world.
        world: (B,) each episode's.
        done: (B, K) whose blocks came back.
        shares: (B, K) of the round.
        steps: (B,) H.
        table: (B, 21), the fields of each episode's `Dynamics` in their order.
        last_part: (B, K) parts in the last steps, 0 at an episode's start; changed.
        taught: (B, K) overwritten: how much of the layer each machine taught; as it was where nothing came back.
        worth: (B, N_WORTH) overwritten: see `FRESH`.
        scratch: (K,) working memory.
    """
    for b in range(len(world)):
        here, any_back = samples[world[b]], False
        for k in range(len(scratch)):
            scratch[k] = shares[b, k] if done[b, k] else 0.0
            any_back = any_back or scratch[k] > 0.0
        worth[b] = 0.0
        if any_back:
            teach(scratch, here, taught[b])
            worth[b, FRESH] = refresh_by(last_part[b], taught[b], here, float(steps[b]))
            worth[b, WORK], worth[b, SHARE] = round_work(scratch, here, float(steps[b]), table[b])
            worth[b, VARIETY] = variety_of(last_part[b])


@kernel()
def learn(
    samples: NDArray[np.float64],
    world: NDArray[np.int64],
    done: NDArray[np.bool_],
    steps: NDArray[np.int64],
    rounds: NDArray[np.int64],
    key: NDArray[np.uint64],
    table: NDArray[np.float64],
    taught: NDArray[np.float64],
    worth: NDArray[np.float64],
    participation: NDArray[np.float64],
    fortune: NDArray[np.float64],
    leaning: NDArray[np.float64],
    tilt: NDArray[np.float64],
    learned: NDArray[np.float64],
    rote: NDArray[np.float64],
    progress: NDArray[np.float64],
) -> None:
    """One round of learning in B episodes, in one pass: as `remember`, `recent_samples`, `Dynamics.advance` and `Dynamics.gap`.

    Args:
        samples: (W, K) on each machine, by world.
        world: (B,) each episode's.
        done: (B, K) whose blocks came back.
        steps: (B,) H.
        rounds: (B,) played before it.
        key: (B,) of the episodes; luck and noise are drawn by it.
        table: (B, 21), the fields of each episode's `Dynamics` in their order.
        taught: (B, K) from `teaching`.
        worth: (B, N_WORTH) from `teaching`.
        participation: (B, K), changed.
        fortune: (B, K) luck of rounds with one machine alone, drawn in an episode's first round and kept here.
        leaning: (B, K) the tilt that each machine leads to, likewise.
        tilt: (B,) as the last round left it, changed.
        learned: (B,), changed.
        rote: (B,), changed.
        progress: (B,), changed to what is measured after the round; a round that merged nothing measures what the last did.
    """
    for b in range(len(world)):
        keep, run = 0.0, rounds[b]
        if run > 0:
            keep = MEMORY * (1 - MEMORY**run) / (1 - MEMORY ** (run + 1))
        rate = table[b, 0]
        rest_samples, rest_power, fresh_part, fade, _, noise, run_spread, machine_spread, tilt_spread = table[b, 8:17]
        spread_power = table[b, 18]
        if run == 0:
            learned[b], rote[b], tilt[b], start = 0.0, 0.0, 0.0, of_round(key[b], -1)
            for k in range(done.shape[1]):
                lucky, leans = spreads_of(samples[world[b], k], machine_spread, tilt_spread, spread_power)
                luck = run_spread * normal(start, PROGRESS, 0) + lucky * normal(start, PROGRESS, 1 + k)
                fortune[b, k] = np.exp(luck - 0.5 * lucky**2)
                leaning[b, k] = leans * normal(start, TILT, k)
        lately = 0.0
        for k in range(done.shape[1]):
            here = samples[world[b], k]
            mean = keep * participation[b, k] + (1.0 - keep) * done[b, k]
            participation[b, k] = mean
            if here > 0.0:
                lately -= here * np.expm1(-mean / FULL_AT)
        if worth[b, SHARE] > 0.0:
            luck, lean, left = 0.0, 0.0, np.exp(-steps[b] / TILT_STEPS)
            for k in range(done.shape[1]):
                luck += taught[b, k] * fortune[b, k]
                lean += taught[b, k] * leaning[b, k]
            tilt[b] = left * tilt[b] + (1.0 - left) * lean
            work = worth[b, WORK]
            learned[b] = learned_round(learned[b], work, worth[b, SHARE], worth[b, VARIETY], luck, table[b])
            rote[b] = rote_after(rote[b], work, rate, fade)
            gap = gap_of(rote[b], lately, worth[b, FRESH], rest_samples, rest_power, fresh_part)
            progress[b] = learned[b] - gap + tilt[b] + noise * normal(of_round(key[b], run), PROGRESS, 0)


MADE_OF = ("data", "image_px", "window", "encoder", "encoder_options", "objective", "objective_options")
"""Fields of a workload that change what is measured, and so what progress 1 is; others change how soon it is reached."""


def made_of(workload: Workload) -> dict[str, Any]:
    """Those fields, as JSON has them."""
    return {name: value for name, value in workload.model_dump(mode="json").items() if name in MADE_OF}


@dataclass(frozen=True)
class Calibration:
    """A stored calibration.

    Attributes:
        name: of the file.
        dynamics: fitted parameters.
        untrained_infonce: mean over seeds, for reading only: every run measures its own.
        target_infonce: InfoNCE at progress 1.
        fit: fit errors and what was recorded.
        workload: what was trained, as far as `MADE_OF` goes; None in files of before.
    """

    name: str
    dynamics: Dynamics
    untrained_infonce: float
    target_infonce: float
    fit: dict[str, Any]
    workload: dict[str, Any] | None = None

    def is_of(self, workload: Workload) -> bool:
        """Whether it was made of such training, so that its target is what progress 1 is."""
        return self.workload == made_of(workload)

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
