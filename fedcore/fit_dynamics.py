"""Fit the learning-dynamics model to recorded rounds, and judge it on runs that the fit did not see.

What is fitted to recorded paths is the mean over luck of the model's own (a method of simulated moments, McFadden 1989). As
returns diminish, bad luck costs more rounds than good luck saves: where the path of mean luck was fitted instead, simulation
needed a fifth more rounds of images than reality did.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedcore.dynamics import Dynamics, recent_samples, remember, spreads_of
from fedcore.fit_spreads import Spreads, Surprises, fit_spreads
from fedcore.freshness import refresh_by, taught_parts, variety_of
from fedcore.reference import REFERENCE_MACHINES, TARGET_PART, TARGET_ROUNDS, TARGET_TAIL, bare_scenario
from scenarios.schema import Workload


@dataclass(frozen=True)
class Rounds:
    """Recorded rounds as arrays (R,), or (R, K) with as many machines as the largest fleet has: what the fit sees.

    Attributes:
        run: number of the run, in blocks.
        before: progress.
        after: progress.
        steps: H.
        coverage: sum of the shares, m.
        share: their mean over the machines that took part, z.
        data: fraction of the fleet's samples that took part, D.
        samples: that have been taking part lately, N.
        fresh: behind the last steps, F.
        variety: machines behind those, V.
        context: c.
        taught: (R, K) how much of the layer each machine taught.
        held: (R, K) samples on each machine; 1 where there is none.
    """

    run: NDArray[np.int64]
    before: NDArray[np.float64]
    after: NDArray[np.float64]
    steps: NDArray[np.float64]
    coverage: NDArray[np.float64]
    share: NDArray[np.float64]
    data: NDArray[np.float64]
    samples: NDArray[np.float64]
    fresh: NDArray[np.float64]
    variety: NDArray[np.float64]
    context: NDArray[np.float64]
    taught: NDArray[np.float64]
    held: NDArray[np.float64]

    def where(self, mask: NDArray[np.bool_]) -> Rounds:
        """Those rounds alone."""
        return Rounds(*(value[mask] for value in vars(self).values()))


def as_rounds(records: list[dict[str, Any]], target: float) -> Rounds:
    """Stack records, InfoNCE turned into progress of each run's own scale."""
    rows, taught, held = [], [], []
    most = max(len(record["images"]) for record in records)
    for record in records:
        before = 0.0
        span = record["untrained"] - target
        images = np.array([record["images"]], dtype=np.float64)
        took_part, last_part = np.zeros(images.shape), np.zeros(images.size)
        for r, entry in enumerate(record["rounds"]):
            shares = np.array([entry["shares"]])
            took_part = remember(took_part, shares > 0, np.array([r]))
            after = (record["untrained"] - entry["infonce"]) / span
            now = taught_parts(shares[0], images[0])
            fresh = refresh_by(last_part, now, images[0], float(entry["steps"]))
            rows.append(
                (record["run"], before, after, entry["steps"], shares.sum(), shares[shares > 0].mean(),
                 images[shares > 0].sum() / images.sum(), recent_samples(took_part, images)[0], fresh, variety_of(last_part),
                 record["context"])
            )  # fmt: skip
            taught.append(np.pad(now, (0, most - images.size)))
            held.append(np.pad(images[0], (0, most - images.size), constant_values=1.0))
            before = after
    table = np.array(rows, dtype=np.float64)
    columns = [*table[:, 1:].T, np.array(taught), np.array(held)]
    return Rounds(table[:, 0].astype(np.int64), *columns)


# rate, C - 1, e, s, h, a, b, d, N_0, v, g, f, q, x, k, x'; rate, C - 1, s and N_0 as logarithms.
START = (np.log(0.15), np.log(0.5), 0.05, 0.0, 0.7, 0.5, 0.1, 0.2, np.log(3.0), 0.7, 0.3, 0.01, 0.3, 0.0, 1.2, 0.1)
BOUNDS = (
    (-8, -4, 0, -3, 0, 0, -0.5, 0, -7, 0.1, 0, 0, 0, -1, 0.5, -2),
    (2, 2, 1, 3, 1.5, 2, 1.5, 2, 6, 1, 1, 0.1, 3, 1, 3, 2),
)
"""v is at most 1: generalisation gaps fall no faster than the inverse of the number of samples; image records leave it open."""


STEP, PATH, ANCHOR = 0.3, 0.5, 10.0
"""Weights in the fit of increments, of paths, and of what progress 1 means."""
DRAWS = 16
"""Of luck, which paths are averaged over: half of them and their mirror images."""
TURNS = 2
"""How often paths and spreads are fitted in turn, each given the other."""


@cache
def _reference_round() -> tuple[float, float, float, float]:
    """Coverage, share, H and samples of the reference policy's rounds: the fit asks for them at every evaluation."""
    bare = bare_scenario(REFERENCE_MACHINES, Workload())
    samples = sum(group.images for group in bare.fleet.machines)
    return REFERENCE_MACHINES * bare.reference.share, bare.reference.share, float(bare.reference.sync_interval), float(samples)


def reference_end(model: Dynamics) -> float:
    """Predicted progress of the reference policy where `TARGET_PART` of it is 1 by definition, the mean over luck; see
    `play_reference`."""
    coverage, share, steps, samples = (np.array(value) for value in _reference_round())
    work = model.work(coverage, np.array(1.0), steps)
    luck = _luck(model, np.full((1, REFERENCE_MACHINES), float(samples) / REFERENCE_MACHINES)).mean(axis=-1)
    learned, rote, tail = np.zeros(luck.shape), np.zeros(()), []
    for r in range(TARGET_ROUNDS):
        learned, rote = model.advance(learned, rote, work, share, luck, float(REFERENCE_MACHINES))
        if r >= TARGET_ROUNDS - TARGET_TAIL:
            tail.append(learned.mean() - model.gap(rote, samples, samples))
    return float(np.mean(tail))


def fit_path(rounds: Rounds, follows: bool, spreads: Spreads) -> Dynamics:
    """Least squares over whole runs (the path of progress, not only its increments).

    Args:
        rounds: recorded.
        follows: whether a part of the gap may follow the last steps; if not, g is 0.
        spreads: from `fit_spreads`, kept as they are.
    """
    from scipy.optimize import least_squares

    # A local step counts as much in long rounds as in short ones, of which runs have many more.
    weight = np.sqrt(rounds.steps / rounds.steps.mean())

    def unpack(x: NDArray[np.float64]) -> Dynamics:
        rate, room, e, s, h, a, b, d, rest, v, g, f, q, variety, k, later = (float(value) for value in x)
        rate, room, s, rest = (float(np.exp(value)) for value in (rate, room, s, rest))
        gap = (rest, v, g if follows else 0.0, f)
        return Dynamics(
            rate, 1.0 + room, e, s, h, a, b, d, *gap, q,
            **spreads._asdict(), variety_power=variety, onset=k, variety_later=later,
        )  # fmt: skip

    def residuals(x: NDArray[np.float64]) -> NDArray[np.float64]:
        model = unpack(x)
        path, step, _ = predict(model, rounds)
        # Increments pin the local response, paths keep small biases from adding up, the last what progress 1 means.
        anchor = ANCHOR * (1.0 - TARGET_PART * reference_end(model))
        return np.concatenate([STEP * weight * (rounds.after - step), PATH * weight * (rounds.after - path), [anchor]])

    return unpack(least_squares(residuals, START, bounds=BOUNDS, loss="soft_l1", f_scale=0.05).x)


def fit_dynamics(rounds: Rounds, follows: bool = True) -> Dynamics:
    """`fit_path`, and how much runs and machines differ from it, in turn."""
    spreads = Spreads()
    for _ in range(1 + TURNS):
        model = fit_path(rounds, follows, spreads)
        _, step, gain = predict(model, rounds)
        surprise, runs = rounds.after - step, np.unique(rounds.run)
        spreads = fit_spreads([
            Surprises(surprise[own], gain[own], rounds.taught[own], rounds.steps[own], rounds.held[own][0])
            for own in (rounds.run == r for r in runs)
        ])  # fmt: skip
    return replace(model, **spreads._asdict())


def _work(model: Dynamics, rounds: Rounds) -> NDArray[np.float64]:
    context = np.asarray(model.in_context(rounds.context).rate) / model.rate
    return model.work(rounds.coverage, rounds.data, rounds.steps) * context


def _luck(model: Dynamics, held: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of machines in each draw, (draws, runs, K), as `fedcore.dynamics.learn` has it; one draw of 1 where the model has none.

    Args:
        model: whose spreads luck is drawn with.
        held: (runs, K) samples on each machine.
    """
    if model.run_spread == model.machine_spread == 0.0:
        return np.ones((1, *held.shape))
    # The same draws at every evaluation, so that a fit is smooth in the parameters.
    half = np.random.default_rng(0).normal(size=(DRAWS // 2, len(held), 1 + held.shape[1]))
    normals = np.concatenate([half, -half])
    lucky, _ = spreads_of(held, model.machine_spread, model.tilt_spread, model.spread_power)
    return np.asarray(np.exp(model.run_spread * normals[:, :, :1] + lucky * normals[:, :, 1:] - 0.5 * np.square(lucky)))


def predict(model: Dynamics, rounds: Rounds) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Progress after every round, (R,) each: predicted from the run's start alone, the mean over luck, and from what was
    measured before it; and what the latter adds to what is learned."""
    work = _work(model, rounds)
    path, step, gain = (np.empty_like(work) for _ in range(3))
    starts = np.flatnonzero(np.diff(rounds.run, prepend=-1))
    lengths = np.diff(np.append(starts, len(work)))
    run = np.repeat(np.arange(len(starts)), lengths)
    luck = np.einsum("srk,rk->sr", _luck(model, rounds.held[starts])[:, run], rounds.taught)
    learned, rote, gap = np.zeros((len(luck), len(starts))), np.zeros(len(starts)), np.zeros(len(starts))
    # All runs advance side by side, one round at a time.
    for r in range(int(lengths.max())):
        going = lengths > r
        at = starts[going] + r
        known, variety = rounds.before[at] + gap[going], rounds.variety[at]
        now = (work[at], rounds.share[at])
        near, _ = model.advance(known, rote[going], *now, variety=variety)
        learned[:, going], rote[going] = model.advance(learned[:, going], rote[going], *now, luck[:, at], variety)
        gap[going] = model.gap(rote[going], rounds.samples[at], rounds.fresh[at])
        path[at], step[at], gain[at] = learned[:, going].mean(axis=0) - gap[going], near - gap[going], near - known
    return path, step, gain


def split_runs(rounds: Rounds) -> tuple[Dynamics, Rounds]:
    """Every fourth run, and a fit that did not see it: with a part of the gap that follows the last steps where that foretells
    them better, so how well it does is told a little too well."""
    held = rounds.run % 4 == 0
    unseen = rounds.where(held)

    def error(judge: Dynamics) -> float:
        return float(np.square(unseen.after - predict(judge, unseen)[0]).mean())

    return min((fit_dynamics(rounds.where(~held), follows) for follows in (False, True)), key=error), unseen


def fit_report(rounds: Rounds, judge: Dynamics, unseen: Rounds) -> tuple[Dynamics, dict[str, Any]]:
    """Fit on all runs, in the judge's form, and say how well it foretells the runs that it did not see; see `split_runs`."""
    path, step, _ = predict(judge, unseen)
    path_error = unseen.after - path
    gained, guessed = unseen.after - unseen.before, step - unseen.before
    return fit_dynamics(rounds, bool(judge.fresh_part)), {
        "runs": len(np.unique(rounds.run)),
        "rounds": len(rounds.run),
        "held_out_rounds": len(unseen.run),
        "held_out_path_rmse": float(np.sqrt((path_error**2).mean())),
        "held_out_path_bias": float(path_error.mean()),
        "held_out_increment_r2": float(1 - ((gained - guessed) ** 2).sum() / ((gained - gained.mean()) ** 2).sum()),
    }


PANELS = 12


def draw_unseen(judge: Dynamics, unseen: Rounds, title: str) -> bytes:
    """A PNG of runs that a fit did not see: progress as recorded, and as predicted from the start of the run alone."""
    from matplotlib.figure import Figure

    path, *_ = predict(judge, unseen)
    figure = Figure(figsize=(11, 7), layout="constrained")
    axes = figure.subplots(3, 4, sharey=True).ravel()
    runs = np.unique(unseen.run)
    # Of all kinds of run, which are numbered by kind.
    shown = runs[np.unique(np.linspace(0, len(runs) - 1, PANELS).astype(int))]
    for axis in axes[len(shown) :]:
        axis.set_axis_off()
    for run, axis in zip(shown, axes, strict=False):
        own = unseen.run == run
        steps = np.cumsum(unseen.steps[own])
        axis.plot(steps, unseen.after[own], color="#222222", linewidth=1.2, label="recorded")
        axis.plot(steps, path[own], color="#d55e00", linewidth=1.2, linestyle="--", label="predicted")
        mean = (unseen.coverage[own].mean(), unseen.samples[own].mean(), np.median(unseen.steps[own]))
        axis.set_title("coverage {:.1f}, {:.0f} samples, H {:.0f}".format(*mean), fontsize=8)
        axis.axhline(1.0, color="#999999", linewidth=0.6)
        axis.tick_params(labelsize=7)
    axes[0].legend(fontsize=7)
    figure.supxlabel("local steps")
    figure.supylabel("progress")
    figure.suptitle(title)
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=110)
    return out.getvalue()
