"""Count regression: how many objects of each kind are in an image, from frozen features."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import RidgeCV
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from fedcore.probes.intervals import Estimate, bootstrap


@dataclass(frozen=True)
class CountScore:
    """Quality of predicted counts on held-out images.

    Attributes:
        r2_log: mean over kinds of R2 of log(1 + count), the headline.
        r2_log_per_kind: the same, per kind.
        mae_per_kind: mean absolute error in objects per image.
        bias_per_kind: mean signed error in objects per image.
    """

    r2_log: float
    r2_log_per_kind: tuple[float, ...]
    mae_per_kind: tuple[float, ...]
    bias_per_kind: tuple[float, ...]


@dataclass(frozen=True)
class CountEstimates:
    """As `CountScore`, every figure with its interval.

    Attributes:
        r2_log: mean over kinds of R2 of log(1 + count), the headline.
        r2_log_per_kind: the same, per kind.
        mae_per_kind: mean absolute error in objects per image.
        bias_per_kind: mean signed error in objects per image.
    """

    r2_log: Estimate
    r2_log_per_kind: tuple[Estimate, ...]
    mae_per_kind: tuple[Estimate, ...]
    bias_per_kind: tuple[Estimate, ...]


def ridge_log_counts(
    train_features: NDArray[np.float32], train_counts: NDArray[np.int64], test_features: NDArray[np.float32]
) -> NDArray[np.float64]:
    """log(1 + count) of every test image, (M, kinds), by ridge regression (penalty by leave-one-out) on standardised
    features.

    Args:
        train_features: (N, D).
        train_counts: (N, kinds).
        test_features: (M, D).
    """
    probe = make_pipeline(StandardScaler(), RidgeCV(alphas=np.logspace(-1, 5, 13)))
    probe.fit(train_features, np.log1p(train_counts))
    return np.asarray(probe.predict(test_features), np.float64).reshape(len(test_features), -1)


def knn_log_counts(
    train_features: NDArray[np.float32], train_counts: NDArray[np.int64], test_features: NDArray[np.float32], k: int = 20
) -> NDArray[np.float64]:
    """log(1 + count) of every test image, (M, kinds): the mean over its `k` nearest neighbours."""
    probe = KNeighborsRegressor(n_neighbors=min(k, len(train_features))).fit(train_features, np.log1p(train_counts))
    return np.asarray(probe.predict(test_features), np.float64).reshape(len(test_features), -1)


def _figures(
    weights: NDArray[np.float64], guess: NDArray[np.float64], counts: NDArray[np.int64]
) -> NDArray[np.float64]:
    """(B, 1 + 3 kinds): mean R2, R2 per kind, MAE per kind, bias per kind, of every resample (B, M)."""
    truth = np.log1p(counts)
    truth, guess_log = truth - truth.mean(0), guess - truth.mean(0)
    total = weights.sum(1, keepdims=True)
    residual = weights @ (truth - guess_log) ** 2
    spread = weights @ truth**2 - (weights @ truth) ** 2 / total
    varies = spread > 1e-9 * total
    # As scikit-learn: where the count is the same everywhere, R2 is 1 for a perfect guess and 0 for any other.
    r2 = np.where(varies, 1.0 - residual / np.where(varies, spread, 1.0), np.where(residual <= 1e-9 * total, 1.0, 0.0))
    error = np.expm1(guess) - counts
    return np.concatenate(
        [r2.mean(1, keepdims=True), r2, weights @ np.abs(error) / total, weights @ error / total], axis=1
    )


def score_counts(guess: NDArray[np.float64], counts: NDArray[np.int64]) -> CountScore:
    """Quality of guesses.

    Args:
        guess: (M, kinds) guessed log(1 + count).
        counts: (M, kinds) true counts.
    """
    figures, n = _figures(np.ones((1, len(counts))), guess, counts)[0].tolist(), counts.shape[1]
    return CountScore(
        figures[0], tuple(figures[1 : n + 1]), tuple(figures[n + 1 : 2 * n + 1]), tuple(figures[2 * n + 1 :])
    )


def estimate_counts(
    guess: NDArray[np.float64], counts: NDArray[np.int64], seed: int, group: NDArray[np.int64] | None = None
) -> CountEstimates:
    """As `score_counts`, with intervals.

    Args:
        guess: (M, kinds) guessed log(1 + count).
        counts: (M, kinds) true counts.
        seed: of the bootstrap.
        group: (M,) unit that is resampled; None: images.
    """
    n = counts.shape[1]
    figures = bootstrap(lambda weights: _figures(weights, guess, counts), len(counts), seed, group)
    return CountEstimates(figures[0], figures[1 : n + 1], figures[n + 1 : 2 * n + 1], figures[2 * n + 1 :])


def estimate_mae(
    guess: NDArray[np.float64], counts: NDArray[np.int64], seed: int, group: NDArray[np.int64] | None = None
) -> Estimate:
    """Mean over kinds of the mean absolute error in objects per image; arguments as `estimate_counts`."""
    error = np.abs(np.expm1(guess) - counts).mean(1, keepdims=True)
    return bootstrap(lambda weights: weights @ error / weights.sum(1, keepdims=True), len(counts), seed, group)[0]


def count_regression(
    train_features: NDArray[np.float32],
    train_counts: NDArray[np.int64],
    test_features: NDArray[np.float32],
    test_counts: NDArray[np.int64],
) -> CountScore:
    """Quality of `ridge_log_counts`.

    Args:
        train_features: (N, D).
        train_counts: (N, kinds).
        test_features: (M, D).
        test_counts: (M, kinds).
    """
    return score_counts(ridge_log_counts(train_features, train_counts, test_features), test_counts)
