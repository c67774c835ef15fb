"""Aggregates that hold for few runs, after Agarwal et al. 2021, "Deep reinforcement learning at the edge of the statistical
precipice" (the method of the package rliable): interquartile means, stratified bootstrap intervals, performance profiles and
the probability of improvement. Scores come as one array per scenario, (seeds,), in any number and of any lengths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
DRAWS = 1000


@dataclass(frozen=True)
class Estimate:
    """A figure and its 95 % interval.

    Attributes:
        value: of the scores as they are.
        low: 2.5 % quantile over bootstrap draws.
        high: 97.5 % quantile.
    """

    value: float
    low: float
    high: float


def iqm(scores: Floats) -> Floats:
    """Interquartile mean over the last axis, which loses it: a quarter of the values is cut off at each end, as
    `scipy.stats.trim_mean(scores, 0.25)` does."""
    n = scores.shape[-1]
    if n == 0:
        raise ValueError("no scores, expected at least one")
    cut = n // 4
    return np.asarray(np.sort(scores, axis=-1)[..., cut : n - cut].mean(axis=-1))


def resample(scenarios: Sequence[Floats], draws: int, rng: np.random.Generator) -> list[Floats]:
    """Bootstrap draws of the seeds within each scenario, which is what "stratified" means: one (draws, seeds) per scenario."""
    return [scores[rng.integers(len(scores), size=(draws, len(scores)))] for scores in scenarios]


def interval(value: float, draws: Floats) -> Estimate:
    """Percentile interval of a figure from its bootstrap draws (draws,)."""
    low, high = np.quantile(draws, (0.025, 0.975))
    return Estimate(value, float(low), float(high))


def pooled_iqm(scenarios: Sequence[Floats], draws: int = DRAWS, seed: int = 0) -> Estimate:
    """IQM over all seeds of all scenarios together, with its stratified bootstrap interval."""
    again = np.concatenate(resample(scenarios, draws, np.random.default_rng(seed)), axis=1)
    return interval(float(iqm(np.concatenate(scenarios))), iqm(again))


def paired_iqm(
    scenarios: Sequence[Floats], over: Sequence[Floats], draws: int = DRAWS, seed: int = 0
) -> Estimate:
    """IQM of the differences on the same seeds, scenario by scenario: what one agent gains over another."""
    return pooled_iqm([a - b for a, b in zip(scenarios, over, strict=True)], draws, seed)


def mean(scores: Floats, draws: int = DRAWS, seed: int = 0) -> Estimate:
    """Mean of scores (n,) and its bootstrap interval; NaN of none."""
    if not len(scores):
        return Estimate(np.nan, np.nan, np.nan)
    (again,) = resample([scores], draws, np.random.default_rng(seed))
    return interval(float(scores.mean()), again.mean(axis=1))


def profile(scenarios: Sequence[Floats], thresholds: Floats) -> Floats:
    """Performance profile: the fraction of runs that score above each threshold (T,), every scenario weighing alike."""
    return np.asarray(np.mean([(scores[:, None] > thresholds).mean(axis=0) for scores in scenarios], axis=0))


def profile_band(
    scenarios: Sequence[Floats], thresholds: Floats, draws: int = 200, seed: int = 0
) -> tuple[Floats, Floats]:
    """Pointwise 95 % stratified bootstrap band of `profile`, two (T,)."""
    rng = np.random.default_rng(seed)
    again = np.zeros((draws, len(thresholds)))
    for scores in scenarios:
        drawn = np.sort(scores[rng.integers(len(scores), size=(draws, len(scores)))], axis=1)
        again += [1.0 - np.searchsorted(row, thresholds, side="right") / len(scores) for row in drawn]
    low, high = np.quantile(again / len(scenarios), (0.025, 0.975), axis=0)
    return low, high


def improvement(x: Floats, y: Floats) -> Floats:
    """P(X > Y) + P(X = Y) / 2 over all pairs of runs of one scenario, over the last axes (..., n) and (..., m): the
    Mann-Whitney statistic over n m."""
    a, b = x[..., :, None], y[..., None, :]
    return np.asarray(((a > b) + 0.5 * (a == b)).mean(axis=(-2, -1)))


def probability_of_improvement(
    scenarios: Sequence[Floats], over: Sequence[Floats], draws: int = 200, seed: int = 0
) -> Estimate:
    """How likely a run of one agent scores more than a run of another on the same scenario, averaged over scenarios."""
    rng = np.random.default_rng(seed)
    value = float(np.mean([improvement(x, y) for x, y in zip(scenarios, over, strict=True)]))
    again = [
        improvement(a, b) for a, b in zip(resample(scenarios, draws, rng), resample(over, draws, rng), strict=True)
    ]
    return interval(value, np.mean(again, axis=0))


def pareto(costs: Floats) -> NDArray[np.bool_]:
    """Which rows (N, d) no other row undercuts: none is at most as costly in all columns and less so in one."""
    return np.array([not ((costs <= row).all(axis=1) & (costs < row).any(axis=1)).any() for row in costs])
