"""How well label-free progress signals foretell the labelled probe: rank correlation over checkpoints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedcore.probes.intervals import Estimate, bootstrap

BETTER = {"infonce": -1, "effective_rank": 1, "feature_std": 1, "alignment": -1, "uniformity": -1}
"""Per signal, whether more (1) or less (-1) of it is taken for better."""
SEVERAL_RUNS = 3


@dataclass(frozen=True)
class Run:
    """Checkpoints of one run, in any order.

    Attributes:
        signals: name in `BETTER` -> value at every checkpoint.
        quality: of the labelled probe at the same checkpoints, higher is better.
    """

    signals: Mapping[str, Sequence[float]]
    quality: Sequence[float]

    @staticmethod
    def of(checkpoints: Sequence[Mapping[str, float]]) -> Run:
        """From what `ProbeReport.numbers` told at every checkpoint; what is no signal is passed over.

        Raises:
            ValueError: there are no checkpoints.
        """
        if not checkpoints:
            raise ValueError("there are no checkpoints, expected at least 3")
        names = [name for name in BETTER if name in checkpoints[0]]
        return Run({name: [c[name] for c in checkpoints] for name in names}, [c["quality"] for c in checkpoints])


@dataclass(frozen=True)
class Correlation:
    """Rank correlation of one signal, turned so that better goes up, with the quality: 1 foretells it perfectly.

    Attributes:
        spearman_within: Spearman's rho over the checkpoints of a run, mean over runs: does it tell how far a run is?
        kendall_within: the same with Kendall's tau-b.
        spearman_pooled: rho over all runs' checkpoints together: does it also compare runs?
        kendall_pooled: the same with tau-b.
        runs: how many.
        checkpoints: in all.
        unit: what the intervals resample: "run" from `SEVERAL_RUNS` runs on, else "checkpoint", which takes neighbours in
            time for independent and is too narrow.
    """

    spearman_within: Estimate
    kendall_within: Estimate
    spearman_pooled: Estimate
    kendall_pooled: Estimate
    runs: int
    checkpoints: int
    unit: str


def weighted_spearman(
    weights: NDArray[np.float64], x: NDArray[np.float64], y: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Spearman's rho of every resample, (B,): Pearson's correlation of the mid-ranks within it.

    Args:
        weights: (B, n), how many times each resample has each point.
        x: (n,).
        y: (n,).

    Returns:
        NaN where either is constant.
    """
    total = np.maximum(weights.sum(1, keepdims=True), 1.0)
    centred = []
    for v in (x, y):
        below = (v[None, :] < v[:, None]) + 0.5 * (v[None, :] == v[:, None])
        ranks = weights @ below.T
        centred.append(ranks - (weights * ranks).sum(1, keepdims=True) / total)
    a, b = centred
    scale = np.sqrt((weights * a**2).sum(1) * (weights * b**2).sum(1))
    return np.where(scale > 1e-9, (weights * a * b).sum(1) / np.where(scale > 1e-9, scale, 1.0), np.nan)


def weighted_kendall(
    weights: NDArray[np.float64], x: NDArray[np.float64], y: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Kendall's tau-b of every resample, (B,); arguments as `weighted_spearman`."""
    a, b = (np.sign(v[:, None] - v[None, :]) for v in (x, y))
    both, one, two = (((weights @ m) * weights).sum(1) for m in (a * b, np.abs(a), np.abs(b)))
    scale = np.sqrt(one * two)
    return np.where(scale > 0, both / np.where(scale > 0, scale, 1.0), np.nan)


def correlate(signals: Sequence[Sequence[float]], qualities: Sequence[Sequence[float]], seed: int = 0) -> Correlation:
    """Rank correlation of one signal with the quality, both with more for better.

    A run whose signal or quality never changes has no correlation and is left out of the mean within runs.

    Args:
        signals: per run, (checkpoints,).
        qualities: per run, (checkpoints,).
        seed: of the bootstrap.

    Raises:
        ValueError: no run, a run with fewer than 3 checkpoints, or lengths that differ.
    """
    if not signals or len(signals) != len(qualities):
        raise ValueError(f"got {len(signals)} runs of signals and {len(qualities)} of qualities, expected as many, at least 1")
    for s, q in zip(signals, qualities, strict=True):
        if len(s) != len(q) or len(s) < 3:
            raise ValueError(f"a run has {len(s)} signals and {len(q)} qualities, expected as many, at least 3")
    x, y = (np.concatenate([np.asarray(v, np.float64) for v in rows]) for rows in (signals, qualities))
    run = np.repeat(np.arange(len(signals)), [len(s) for s in signals])
    rows = [run == r for r in range(len(signals))]

    def statistic(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        columns = []
        for correlation in (weighted_spearman, weighted_kendall):
            each = np.stack([correlation(weights[:, own], x[own], y[own]) for own in rows], axis=1)
            # A run that a resample has twice counts twice.
            times = np.stack([weights[:, own].mean(1) for own in rows], axis=1) * np.isfinite(each)
            known = times.sum(1)
            mean = (np.nan_to_num(each) * times).sum(1) / np.where(known > 0, known, 1.0)
            columns += [np.where(known > 0, mean, np.nan), correlation(weights, x, y)]
        return np.stack(columns, axis=1)

    several = len(signals) >= SEVERAL_RUNS
    within_s, pooled_s, within_k, pooled_k = bootstrap(statistic, len(x), seed, run if several else None)
    return Correlation(within_s, within_k, pooled_s, pooled_k, len(signals), len(x), "run" if several else "checkpoint")


def predict_quality(runs: Sequence[Run], seed: int = 0) -> dict[str, Correlation]:
    """How well each signal that all runs have foretells the quality.

    Args:
        runs: at least one, with at least 3 checkpoints each.
        seed: of the bootstrap.

    Raises:
        ValueError: a signal that `BETTER` does not know, or too few checkpoints.
    """
    unknown = sorted({name for run in runs for name in run.signals} - BETTER.keys())
    if unknown:
        raise ValueError(f"signal {unknown[0]!r} is not known, expected one of {', '.join(sorted(BETTER))}")
    shared = [name for name in BETTER if runs and all(name in run.signals for run in runs)]
    qualities = [run.quality for run in runs]
    return {
        name: correlate([[BETTER[name] * v for v in run.signals[name]] for run in runs], qualities, seed)
        for name in shared
    }
